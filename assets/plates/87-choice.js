// VG-28, 29, X-04: who chooses? The same scores under token choice, expert choice and Soft MoE.

class WhoChooses extends Picture {
  init() {
    this.methods = this.data.methods.map((one) => ({ ...one, weight: arrayOf(one.weight) }));
    this.k = this.data.k;
  }

  controls() {
    const { say, data } = this;
    const most = this.methods[0].load.length;
    return [this.scrubber({ label: say("choice_k"), count: most, value: Math.min(this.k, most) - 1, ends: ["1", String(most)], show: (i) => say(i + 1 === data.k ? "mask_trained" : "mask_value", { k: i + 1 }),
      onMove: (i) => { this.k = i + 1; this.plate.draw(); } }).node];
  }

  stop(one) {
    return Math.min(this.k, one.load.length) - 1;
  }

  draw(g, width) {
    const wide = width >= 760;
    const gap = 36;
    const w = wide ? (width - 2 * gap) / 3 : width;
    let y = 0;
    const ends = this.methods.map((one, m) => {
      const end = this.panel(g, one, { x: wide ? m * (w + gap) : 0, y: wide ? 0 : y, w });
      y = end + 34;
      return end;
    });
    const { data, say } = this;
    const end = maxOf(ends) + 18;
    const rows = data.names.length * data.heads;
    return this.lines(g, 0, end, say(rows < data.total ? "choice_window" : "choice_all", { n: rows, total: data.total }), width, { class: "small" });
  }

  panel(g, one, { x, y, w }) {
    const { data, say } = this;
    const rows = data.names.length * data.heads;
    const pitch = 24;
    const tall = Math.max(rows, data.experts) * pitch;
    const top = y + 52;
    const label = 74;
    this.text(g, x, y + 16, say(`choice_${one.key}`), { class: "strong" });
    this.text(g, x, y + 35, say(`choice_${one.key}_who`), { class: "small" });
    const left = x + label;
    const right = x + w - 62;
    const sy = (r) => top + ((r + 0.5) * tall) / rows;
    const ey = (e) => top + ((e + 0.5) * tall) / data.experts;
    const stop = this.stop(one);
    const peak = maxOf(Array.from(one.weight.values));
    range(rows).forEach((r) => {
      const mine = Math.floor(r / data.heads) === data.token;
      this.text(g, left - 10, sy(r) + 4, this.rowName(r), { class: "small ink", "text-anchor": "end", "data-strong": mine });
      let met = 0;
      range(data.experts).forEach((e) => {
        const value = one.weight.at(stop, r, e);
        if (value <= 0) return;
        met += 1;
        const group = svg("g", { "data-expert": e });
        const bend = (right - left) * 0.45;
        group.append(svg("path", { class: "ribbon-line", "data-mine": mine, d: `M${px(left)} ${px(sy(r))}C${px(left + bend)} ${px(sy(r))} ${px(right - bend)} ${px(ey(e))} ${px(right)} ${px(ey(e))}`, style: `--w: ${px(0.5 + (value / peak) * 5)}px` }));
        g.append(group);
      });
      g.append(svg("circle", { class: met ? "node" : "alone", cx: px(left - 3), cy: px(sy(r)), r: met ? 3 : 5 }));
    });
    range(data.experts).forEach((e) => this.server(g, one, stop, e, right, ey(e)));
    return this.counts(g, one, stop, x, top + tall + 20, w);
  }

  rowName(r) {
    const { data } = this;
    const name = clip(data.names[Math.floor(r / data.heads)], data.heads > 1 ? 46 : 60, this.plate.family, 12);
    return data.heads > 1 ? `${r % data.heads ? "" : name} ${(r % data.heads) + 1}` : name;
  }

  server(g, one, stop, e, x, y) {
    const { say } = this;
    const group = svg("g", { "data-expert": e });
    this.rect(group, x, y - 10, 24, 20, { class: "bar", rx: 5 });
    this.text(group, x + 12, y + 4.5, e + 1, { class: "small on", "text-anchor": "middle" });
    const value = one.key === "soft-moe" ? number(one.read[stop][e], 1) : one.load[stop][e];
    this.text(group, x + 31, y + 4.5, value, { class: "small ink" });
    this.mark(group, () => [this.expert(e), say(one.key === "soft-moe" ? "choice_read" : "choice_load", { n: value, total: this.data.total })]);
    g.append(group);
  }

  counts(g, one, stop, x, y, w) {
    const { say } = this;
    const load = one.key === "soft-moe" ? one.read[stop] : one.load[stop];
    const served = one.served[stop];
    const present = range(served.length).filter((n) => served[n]);
    const values = { least: number(Math.min(...load), one.key === "soft-moe" ? 1 : 0), most: number(maxOf(load), one.key === "soft-moe" ? 1 : 0), few: present[0], many: present.at(-1), none: served[0] };
    return this.lines(g, x, y, say(`choice_${one.key}_counts`, values), w, { class: "small ink" });
  }

  sentence() {
    const { say, data, methods, k } = this;
    const [tokens, experts] = methods;
    const load = tokens.load[this.stop(tokens)];
    const even = experts.load[this.stop(experts)][0];
    const served = experts.served[this.stop(experts)];
    const most = load.indexOf(maxOf(load));
    return say(served[0] ? "choice_say" : "choice_say_all", { k, most: load[most], expert: most + 1, least: Math.min(...load), even, none: served[0], total: data.total, many: range(served.length).filter((n) => served[n]).at(-1) });
  }

  sheet() {
    const { say, data, methods } = this;
    const rows = range(data.names.length * data.heads);
    return { head: [say("token"), say("choice_method"), ...range(data.experts).map((e) => this.expert(e))],
      rows: methods.flatMap((one) => rows.map((r) => [`${data.names[Math.floor(r / data.heads)]} ${data.heads > 1 ? (r % data.heads) + 1 : ""}`.trim(), say(`choice_${one.key}`), ...range(data.experts).map((e) => one.weight.at(this.stop(one), r, e).toFixed(4))])) };
  }
}

PICTURES.choice = WhoChooses;
