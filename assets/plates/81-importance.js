// VG-30: importance. Each token adds its gates to the experts it chose; the sums grow uneven.

class Importance extends Played {
  init() {
    this.mode = this.data.ours;
    this.cases = Object.fromEntries(Object.entries(this.data.cases).map(([key, one]) => [key, { ...one, given: arrayOf(one.given) }]));
    this.last = this.data.names.length - 1;
    this.at = this.last;
  }

  keep() { return { mode: this.mode }; }

  restore({ mode }) { if (mode in this.cases) this.mode = mode; }

  get one() { return this.cases[this.mode]; }

  controls() {
    const { say, data } = this;
    const play = this.player(say("importance_at"), (i) => say("importance_value", { n: i + 1, of: this.last + 1, name: data.names[i] }), ["1", String(this.last + 1)]);
    const modes = Object.keys(this.cases);
    const gates = this.radios({ label: say("importance_gates"), options: modes.map((m) => [m, say(m === data.ours ? "gates_ours" : "gates_shazeer")]), value: this.mode,
      onPick: (mode) => { this.mode = mode; this.plate.draw(); } });
    return modes.length > 1 ? [play, gates.node] : [play];
  }

  total(e) {
    return sum(range(this.at + 1).map((t) => this.one.given.at(t, e)));
  }

  draw(g, width) {
    const { say, one, data, at } = this;
    const wide = width >= 720;
    const w = wide ? width * 0.6 : width;
    const [top, h] = [46, 216];
    const totals = range(data.experts).map((e) => this.total(e));
    const whole = range(data.experts).map((e) => sum(range(this.last + 1).map((t) => one.given.at(t, e))));
    const high = maxOf(whole) * 1.08;
    const fair = sum(totals) / data.experts;
    const pitch = w / data.experts;
    const thick = Math.min(58, pitch * 0.74);
    this.text(g, 0, 16, say("importance_title"), { class: "strong" });
    const level = top + h - (fair / high) * h;
    this.line(g, 0, level, w, level, { class: "threshold" });
    range(data.experts).forEach((e) => {
      const group = svg("g", { "data-expert": e });
      const x = (e + 0.5) * pitch - thick / 2;
      let y = top + h;
      range(at + 1).forEach((t) => {
        const value = one.given.at(t, e);
        if (value <= 0) return;
        const size = (value / high) * h;
        y -= size;
        const piece = this.rect(group, x, y, thick, size, { class: "bar piece", "data-new": t === at });
        this.tooltip.describe(piece, () => [say("importance_tip", { name: data.names[t], gate: number(value, 3), expert: e + 1 })]);
        if (size > 15 && thick > 30 && textWidth(data.names[t], 12, 650, this.plate.family) < thick - 6) {
          this.text(group, x + thick / 2, y + size / 2 + 4, data.names[t], { class: "small on", "text-anchor": "middle" });
        }
      });
      this.text(group, x + thick / 2, y - 6, number(totals[e], 1), { class: "tick ink halo", "text-anchor": "middle" });
      this.text(group, x + thick / 2, top + h + 18, wide ? this.expert(e) : e + 1, { class: "tick", "text-anchor": "middle" });
      const hit = this.rect(group, e * pitch, top, pitch, h + 24, { class: "hit" });
      group.insertBefore(hit, group.firstChild);
      this.mark(group, () => [this.expert(e), say("importance_sum", { value: number(totals[e]), fair: number(fair) })]);
      g.append(group);
    });
    this.line(g, 0, top + h, w, top + h, { class: "zero" });
    const label = say("importance_fair", { value: number(fair, 1) });
    const x = w - textWidth(label, 12, 400, this.plate.family);
    this.line(g, x - 27, 12, x - 7, 12, { class: "threshold" });
    this.text(g, w, 16, label, { class: "small", "text-anchor": "end" });
    const cv = wide ? { x: w + 48, y: 16, width: width - w - 48 } : { x: 0, y: top + h + 56, width };
    const bottom = this.curves(g, { ...cv, height: wide ? h - 6 : 110, high: Math.sqrt(data.experts - 1) / 2, title: say("cv_title", { value: number(one.cv[at]) }), ends: ["1", say("tokens_n", { n: this.last + 1 })],
      lines: [["curve", one.cv.map((v) => Math.min(v, 9)), say("cv_line")], ["curve ghost", one.chance, say("chance_line")]] });
    return Math.max(top + h + 28, bottom);
  }

  sentence() {
    const { say, one, at, data } = this;
    const totals = range(data.experts).map((e) => this.total(e));
    const most = totals.indexOf(maxOf(totals));
    return say("importance_say", { n: at + 1, of: this.last + 1, expert: most + 1, value: number(totals[most], 1), share: percent(totals[most] / sum(totals), 0), fair: percent(1 / data.experts, 1), cv: number(one.cv[at]), chance: number(one.chance[at]), total: number(sum(totals), 1), subs: (at + 1) * data.heads });
  }

  sheet() {
    const { say, one, data } = this;
    return { head: [say("token"), ...range(data.experts).map((e) => this.expert(e)), say("cv_line"), say("chance_line")],
      rows: data.names.map((name, t) => [name, ...range(data.experts).map((e) => number(sum(range(t + 1).map((i) => one.given.at(i, e))), 3)), one.cv[t], one.chance[t]]) };
  }
}

PICTURES.importance = Importance;
