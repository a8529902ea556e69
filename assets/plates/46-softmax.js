// VG-20: softmax. One control at a time: temperature, one score, or the same number on all scores.

class Softmax extends Picture {
  init() {
    this.mode = "temperature";
    this.moved = this.data.temperature.chosen[this.rest("temperature")][0];
    this.stop = this.rest("temperature");
  }

  keep() {
    return { mode: this.mode };
  }

  restore({ mode }) {
    if (!mode) return;
    this.mode = mode;
    this.stop = this.rest(mode);
  }

  rest(mode) {
    const { values } = mode === "push" ? this.data.push[0] : this.data[mode];
    return values.indexOf(mode === "temperature" ? 1 : 0);
  }

  get now() {
    return this.mode === "push" ? this.data.push[this.moved] : this.data[this.mode];
  }

  controls() {
    const { say } = this;
    const modes = this.radios({ label: say("move"), options: ["temperature", "push", "shift"].map((m) => [m, say(`move_${m}`)]), value: this.mode,
      onPick: (mode) => { this.mode = mode; this.stop = this.rest(mode); this.rewire(); this.plate.draw(); } });
    this.place = el("div", { class: "grow" });
    this.rewire();
    return [modes.node, this.place];
  }

  rewire() {
    const { say, now } = this;
    const show = { temperature: (i) => `T = ${number(now.values[i])}`, push: (i) => say("push_value", { expert: this.moved + 1, by: signedNumber(now.values[i]) }),
      shift: (i) => signedNumber(now.values[i], 0) }[this.mode];
    const ends = [now.values[0], now.values.at(-1)].map((v) => (this.mode === "temperature" ? number(v) : signedNumber(v, 0)));
    this.thumb = this.scrubber({ label: say(`slide_${this.mode}`), count: now.values.length, value: this.stop, show, ends,
      onMove: (i) => { this.stop = i; this.plate.draw(); } });
    this.place.replaceChildren(this.thumb.node);
  }

  get scores() {
    const base = this.data.shift.scores[this.rest("shift")];
    return this.mode === "push" ? base.map((v, e) => (e === this.moved ? this.now.scores[this.stop] : v)) : this.now.scores[this.stop];
  }

  draw(g, width) {
    const { say, now, stop, data } = this;
    const wide = width >= 700;
    const gap = 52;
    const w = wide ? (width - gap) * 0.5 : width;
    const h = 150;
    const second = wide ? { x: w + gap, y: 50 } : { x: 0, y: 50 + h + 74 };
    const { scores } = this;
    const probs = now.probs[stop];
    const chosen = now.chosen[stop];
    const all = this.mode === "push" ? [...data.shift.scores[this.rest("shift")], ...now.scores] : now.scores.flat();
    const [low, high] = [Math.min(0, ...all), Math.max(0, ...all)];
    const pick = (e) => { this.moved = e; this.mode = "push"; this.stop = this.rest("push"); this.plate.build(); this.plate.draw(); };
    const tip = (e) => [this.expert(e), say("tip_score", { score: signedNumber(scores[e]) }), say("tip_prob", { prob: number(probs[e], 4) })];
    this.text(g, 0, 18, say(this.mode === "temperature" ? "scores_over_t" : "scores"), { class: "strong" });
    this.bars(g, { x: 0, y: 50, width: w, height: h, values: scores, low, high, chosen, print: (e) => number(scores[e], this.digits(scores, chosen)), tip, onPick: pick });
    this.text(g, second.x, second.y - 32, say("probs"), { class: "strong" });
    const peak = maxOf(now.probs.flat());
    this.bars(g, { ...second, width: w, height: h, values: probs, low: 0, high: peak, chosen, print: (e) => number(probs[e], this.digits(probs, chosen)), faded: (e) => !chosen.includes(e), tip, even: 1 / data.experts });
    this.evenLegend(g, second.x + w, second.y - 32, 1 / data.experts);
    return this.readings(g, second.y + h + 46, width, wide);
  }

  /** Entropy, margin and log-sum-exp: three lines over all stops with a cursor at this one. */
  readings(g, y, width, wide) {
    const { say, now, stop, data } = this;
    const gap = 28;
    const n = 3;
    const w = wide ? (width - (n - 1) * gap) / n : width;
    const h = 44;
    const top = Math.log(data.experts);
    const graphs = [["entropy", now.entropy, 0, top, say("entropy", { of: number(top) })], ["margin", now.margin, 0, 1, say("margin")],
      ["lse", now.lse, Math.min(0, ...now.lse), Math.max(...now.lse, 1), say("lse")]];
    graphs.forEach(([key, values, low, high, label], i) => {
      const x = wide ? i * (w + gap) : 0;
      const at = wide ? y : y + i * (h + 44);
      this.text(g, x, at, label, { class: "small" });
      this.text(g, x + w, at, number(values[stop]), { class: "strong", "text-anchor": "end" });
      const sx = (j) => x + 4 + (j / (values.length - 1)) * (w - 8);
      const sy = (v) => at + 12 + (1 - (v - low) / (high - low || 1)) * h;
      this.line(g, x, at + 12 + h, x + w, at + 12 + h, { class: "gridline" });
      g.append(svg("path", { class: "curve", d: values.map((v, j) => `${j ? "L" : "M"}${px(sx(j))} ${px(sy(v))}`).join("") }));
      this.line(g, sx(this.rest(this.mode)), at + 12, sx(this.rest(this.mode)), at + 12 + h, { class: "threshold" });
      g.append(svg("circle", { class: "running-end", cx: px(sx(stop)), cy: px(sy(values[stop])), r: 4.5 }));
    });
    return wide ? y + h + 20 : y + 2 * (h + 44) + h + 20;
  }

  sentence() {
    const { say, now, stop } = this;
    const rest = this.rest(this.mode);
    const first = now.chosen[stop][0];
    const values = { expert: first + 1, prob: number(now.probs[stop][first]), entropy: number(now.entropy[stop]), by: signedNumber(now.values[stop], this.mode === "shift" ? 0 : 2),
      lse: number(now.lse[stop]), was: number(now.lse[rest]), moved: this.moved + 1, now: number(now.probs[stop][this.moved]), before: number(now.probs[rest][this.moved]), t: number(now.values[stop]) };
    return say(`softmax_${this.mode}${stop === rest ? "_rest" : ""}`, values);
  }

  sheet() {
    const { say, now, data } = this;
    return { head: [say(`move_${this.mode}`), ...range(data.experts).map((e) => `${say("probability")} ${e + 1}`), say("entropy_short"), say("margin"), "log Σ exp"],
      rows: now.values.map((v, i) => [v, ...now.probs[i], now.entropy[i], now.margin[i], now.lse[i]]) };
  }
}

PICTURES.softmax = Softmax;
