// VG-25: noisy scores, drawn again; how often each expert is chosen, beside the closed form.

class NoisyScores extends Picture {
  init() {
    this.sources = this.data.sources.map((one) => ({ ...one, noisy: arrayOf(one.noisy) }));
    this.index = 0;
    this.scale = this.data.rest;
    this.turn = 0;
  }

  keep() { return { index: this.index, scale: this.scale }; }

  restore(kept) {
    this.scale = kept.scale;
    this.index = Math.min(kept.index, this.sources.length - 1);
  }

  get one() { return this.sources[this.index]; }

  controls() {
    const { say, data } = this;
    const sources = this.radios({ label: say("noise_from"), options: this.sources.map((one, i) => [i, say(`noise_${one.key}`)]), value: this.index,
      onPick: (i) => { this.index = Number(i); this.plate.draw(); } });
    const thumb = this.scrubber({ label: say("noise_scale"), count: data.scales.length, value: this.scale, show: (i) => `× ${number(data.scales[i])}`, ends: ["0", `× ${data.scales.at(-1)}`],
      onMove: (i) => { this.scale = i; this.plate.draw(); } });
    const again = el("button", { type: "button", class: "option", onclick: () => { this.turn = (this.turn + 1) % this.one.noisy.shape[1]; this.plate.draw(); } }, say("noise_again"));
    return [sources.node, thumb.node, again];
  }

  draw(g, width) {
    const { say, data, one, scale, turn } = this;
    const wide = width >= 720;
    const gap = 56;
    const w = wide ? (width - gap) / 2 : width;
    const h = 178;
    const E = data.clean.length;
    const noisy = range(E).map((e) => one.noisy.at(scale, turn, e));
    const chosen = one.chosen[scale][turn];
    this.text(g, 0, 16, say("noise_scores"), { class: "strong" });
    this.lines(g, 0, 35, say("noise_legend"), w, { class: "small" });
    this.scatter(g, { y: 70, w, h, noisy, chosen });
    const x = wide ? w + gap : 0;
    const y = wide ? 16 : 70 + h + 66;
    this.text(g, x, y, say("noise_share", { k: data.k }), { class: "strong" });
    const legend = say("noise_closed");
    this.line(g, x, y + 15, x + 18, y + 15, { class: "formula" });
    this.text(g, x + 25, y + 19, legend, { class: "small" });
    const top = y + 54;
    const share = one.share[scale];
    const tip = (e) => [this.expert(e), say("noise_tip", { share: percent(share[e]), closed: percent(one.closed[scale][e]), n: data.draws })];
    const drawn = this.bars(g, { x, y: top, width: w, height: h, values: share, low: 0, high: 1, chosen, print: (e) => number(share[e]), tip, even: data.k / E });
    one.closed[scale].forEach((p, e) => {
      const at = top + (1 - p) * h;
      const centre = x + (e + 0.5) * drawn.pitch;
      this.line(g, centre - Math.min(21, drawn.pitch * 0.45), at, centre + Math.min(21, drawn.pitch * 0.45), at, { class: "formula" });
    });
    this.evenLegend(g, x + w, y, data.k / E);
    return top + h + 26;
  }

  scatter(g, { y, w, h, noisy, chosen }) {
    const { data, one, scale } = this;
    const factor = data.scales[scale];
    const reach = maxOf(one.std) * Math.max(factor, 1) * 1.6;
    const [low, high] = [Math.min(...data.clean, ...noisy) - reach * 0.25, maxOf([...data.clean, ...noisy]) + reach * 0.25];
    const sy = (v) => y + ((high - clamp(v, low, high)) / (high - low || 1)) * h;
    const pitch = w / data.clean.length;
    data.clean.forEach((clean, e) => {
      const x = (e + 0.5) * pitch;
      const group = svg("g", { "data-expert": e });
      const on = chosen.includes(e);
      this.rect(group, e * pitch, y - 6, pitch, h + 30, { class: "hit" });
      this.rect(group, x - 9, sy(clean + one.std[e] * factor), 18, sy(clean - one.std[e] * factor) - sy(clean + one.std[e] * factor), { class: "reach", rx: 9 });
      this.line(group, x - 13, sy(clean), x + 13, sy(clean), { class: "clean" });
      group.append(svg("circle", { class: on ? "bar dart" : "dart missed", cx: px(x), cy: px(sy(noisy[e])), r: on ? 7.5 : 5 }));
      this.text(group, x, y + h + 20, e + 1, { class: "tick", "text-anchor": "middle", "data-strong": on });
      this.mark(group, () => [this.expert(e), this.say("noise_score_tip", { clean: signedNumber(clean), std: number(one.std[e] * factor), noisy: signedNumber(noisy[e]) })]);
      g.append(group);
    });
    const line = sy((Math.min(...chosen.map((e) => noisy[e])) + maxOf(noisy.filter((_, e) => !chosen.includes(e)).concat(low))) / 2);
    this.line(g, 0, line, w, line, { class: "threshold" });
  }

  sentence() {
    const { say, data, one, scale, turn } = this;
    const list = (set) => [...set].sort((a, b) => a - b).map((e) => e + 1).join(", ");
    const chosen = one.chosen[scale][turn];
    const same = list(chosen) === list(data.calm);
    const values = { turn: turn + 1, chosen: list(chosen), calm: list(data.calm), moved: one.moved[scale][turn], total: data.total, scale: number(data.scales[scale]) };
    if (!data.scales[scale]) return say("noise_say_none", values);
    return say(same ? "noise_say_same" : "noise_say_flip", values);
  }

  sheet() {
    const { say, data, one } = this;
    const columns = (word) => range(data.clean.length).map((e) => `${word} ${e + 1}`);
    return { head: [say("noise_scale"), ...columns(say("noise_draws")), ...columns("Φ")], rows: data.scales.map((s, i) => [s, ...one.share[i], ...one.closed[i]]) };
  }
}

PICTURES.noise = NoisyScores;
