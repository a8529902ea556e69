// VG-35: how many choices fall on each expert, in the first tokens of a text, beside chance.

class Demand extends Picture {
  init() {
    this.index = 0;
    this.at = this.one.names.length - 1;
  }

  keep() {
    return { index: this.index, at: this.at, same: JSON.stringify(this.data.cases.map((one) => one.names)) };
  }

  restore({ index, at, same }) {
    if (same !== JSON.stringify(this.data.cases.map((one) => one.names))) return;
    this.index = index;
    this.at = at;
  }

  get one() { return this.data.cases[this.index]; }

  controls() {
    const { say, data } = this;
    const cases = this.radios({ label: say("example"), options: data.cases.map((one, i) => [i, say(`case_${one.key}`)]), value: this.index,
      onPick: (i) => { this.index = Number(i); this.at = this.one.names.length - 1; this.rewire(); this.plate.draw(); } });
    this.place = el("div", { class: "grow" });
    this.rewire();
    return [cases.node, this.place];
  }

  rewire() {
    const { say, one } = this;
    this.thumb = this.scrubber({ label: say("demand_tokens"), count: one.names.length, value: this.at, ends: ["1", String(one.names.length)],
      show: (i) => say("demand_value", { n: i + 1, of: one.names.length }), onMove: (i) => { this.at = i; this.plate.draw(); } });
    this.place.replaceChildren(this.thumb.node);
  }

  draw(g, width) {
    const { say, one, at, data } = this;
    const wide = width >= 720;
    const gap = 56;
    const w = wide ? (width - gap) * 0.56 : width;
    const counts = one.demand[at];
    const total = sum(counts);
    const fair = total / counts.length;
    this.text(g, 0, 16, one.key === "live" ? say("demand_title", { layer: data.layer }) : say("demand_title_guide"), { class: "strong" });
    this.bars(g, { x: 0, y: 52, width: w, height: 168, values: counts, low: 0, high: Math.max(1, maxOf(one.demand.at(-1))), print: (e) => String(counts[e]), even: fair,
      tip: (e) => [this.expert(e), say("demand_tip", { n: counts[e], share: percent(total ? counts[e] / total : 0) }), say("demand_fair", { fair: number(fair, 1) })] });
    this.line(g, w - 118, 34, w - 98, 34, { class: "threshold" });
    this.text(g, w - 92, 38, say("demand_fair_short", { fair: number(fair, 1) }), { class: "small" });
    return Math.max(252, this.violation(g, wide ? w + gap : 0, wide ? 0 : 284, wide ? width - w - gap : width));
  }

  /** MaxVio along the text, with the band that random routing stays in. */
  violation(g, x, y, w) {
    const { say, one, at } = this;
    const h = 132;
    const n = one.names.length;
    const title = this.lines(g, x, y + 16, say("violation"), w * 0.88, { class: "strong", "data-size": 13 });
    y = title - 32; // a long title takes a second line
    const top = y + 62;
    const high = maxOf([...one.violation, ...(one.chance?.[2] ?? []).slice(0, 1)]) * 1.04 || 1;
    const sx = (i) => x + 4 + (n > 1 ? i / (n - 1) : 0.5) * (w - 8);
    const sy = (v) => top + (1 - Math.min(v, high) / high) * h;
    this.text(g, x, y + 42, number(one.violation[at]), { class: "big" });
    if (one.chance) this.text(g, x + w, y + 42, say("violation_chance", { mean: number(one.chance[0][at]), low: number(one.chance[1][at]), high: number(one.chance[2][at]) }), { class: "small", "text-anchor": "end" });
    if (one.chance) {
      const [, low, up] = one.chance;
      const d = `${up.map((v, i) => `${i ? "L" : "M"}${px(sx(i))} ${px(sy(v))}`).join("")}${[...low].reverse().map((v, i) => `L${px(sx(n - 1 - i))} ${px(sy(v))}`).join("")}z`;
      g.append(svg("path", { class: "chance-band", d }), svg("path", { class: "curve chance", d: one.chance[0].map((v, i) => `${i ? "L" : "M"}${px(sx(i))} ${px(sy(v))}`).join("") }));
    }
    this.line(g, x, top + h, x + w, top + h, { class: "zero" });
    g.append(svg("path", { class: "curve", d: one.violation.map((v, i) => `${i ? "L" : "M"}${px(sx(i))} ${px(sy(v))}`).join("") }));
    g.append(svg("circle", { class: "running-end", cx: px(sx(at)), cy: px(sy(one.violation[at])), r: 5 }));
    this.text(g, x, top + h + 17, "1", { class: "tick" });
    this.text(g, x + w, top + h + 17, n, { class: "tick", "text-anchor": "end" });
    this.text(g, x + w / 2, top + h + 17, say("demand_axis"), { class: "tick", "text-anchor": "middle" });
    const surface = this.rect(g, x, top - 8, w, h + 12, { class: "hit scrub-surface" });
    const follow = (event) => {
      if (event.type === "pointermove" && !event.buttons) return;
      const box = surface.getBoundingClientRect();
      const i = clamp(Math.round(((event.clientX - box.left) / box.width) * (n - 1)), 0, n - 1);
      this.plate.later("scrub", () => { this.at = i; this.thumb.set(i); this.plate.draw(); });
    };
    surface.addEventListener("pointerdown", follow);
    surface.addEventListener("pointermove", follow);
    return top + h + 24;
  }

  sentence() {
    const { say, one, at } = this;
    const counts = one.demand[at];
    const most = maxOf(counts);
    const values = { n: at + 1, name: one.names[at], choices: sum(counts), expert: counts.indexOf(most) + 1, most, fair: number(sum(counts) / counts.length, 1), value: number(one.violation[at]), gini: number(one.gini[at]),
      effective: number(one.effective[at], 1), of: counts.length };
    if (!one.chance) return say("demand_say_guide", values);
    const [mean, low, high] = one.chance.map((list) => list[at]);
    const kind = one.violation[at] > high ? "above" : one.violation[at] < low ? "below" : "inside";
    return joined(say("demand_say", values), say(`demand_${kind}`, { mean: number(mean), low: number(low), high: number(high) }));
  }

  sheet() {
    const { say, one } = this;
    return { head: [say("demand_tokens"), say("token"), ...range(one.demand[0].length).map((e) => this.expert(e)), "MaxVio", "Gini", say("chance_head")],
      rows: one.demand.map((counts, i) => [i + 1, one.names[i], ...counts, one.violation[i], one.gini[i], one.chance?.[0][i] ?? ""]) };
  }
}

PICTURES.demand = Demand;
