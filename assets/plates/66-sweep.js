// VG-42: dropped choices and empty places of every layer over the capacity factor; each factor is a run of the whole model.

class Sweep extends Picture {
  init() {
    this.stop = Math.max(0, this.data.factors.indexOf(1));
  }

  keep() {
    return { stop: this.stop };
  }

  restore({ stop }) {
    this.stop = clamp(stop, 0, this.data.factors.length - 1);
  }

  factor(i) {
    return this.data.factors[i] === null ? "∞" : number(this.data.factors[i]);
  }

  controls() {
    const { say, data } = this;
    this.thumb = this.scrubber({ label: say("factor"), count: data.factors.length, value: this.stop, ends: [this.factor(0), this.factor(data.factors.length - 1)],
      show: (i) => (data.capacity[i] === null ? say("factor_free") : say("factor_value", { factor: this.factor(i), places: data.capacity[i] })), onMove: (i) => this.go(i) });
    return [this.thumb.node];
  }

  go(i) {
    this.stop = i;
    this.thumb.set(i);
    this.plate.draw();
  }

  draw(g, width) {
    const { data, say } = this;
    const n = data.layers.length + (data.bits[0] === null ? 0 : 1);
    const columns = width >= 980 ? n : width >= 560 ? Math.ceil(n / 2) : 1;
    const gap = 30;
    const w = (width - gap * (columns - 1)) / columns;
    const h = width >= 560 ? 116 : 84;
    const pitch = h + 92;
    this.legend(g, width);
    const top = width >= 560 ? 36 : 56;
    const place = (i) => [(i % columns) * (w + gap), top + Math.floor(i / columns) * pitch];
    data.layers.forEach((layer, i) => this.layer(g, layer, i, ...place(i), w, h));
    if (data.bits[0] !== null) this.bits(g, ...place(n - 1), w, h);
    return top + Math.ceil(n / columns) * pitch - 24;
  }

  legend(g, width) {
    const { say } = this;
    let x = 0;
    let y = 14;
    for (const [kind, key] of [["lost", "side_dropped"], ["spare", "side_empty"], ["chance", "sweep_chance"]]) {
      const label = say(key);
      const room = textWidth(label, 12, 400, this.plate.family) + 52;
      if (x && x + room > width) { x = 0; y += 18; }
      this.line(g, x, y - 4, x + 22, y - 4, { class: `curve ${kind}` });
      this.text(g, x + 28, y, label, { class: "small" });
      x += room;
    }
  }

  frame(g, x, y, w, h, title, values) {
    const { data } = this;
    const sx = factorAxis(data.factors, x + 6, w - 12);
    this.text(g, x, y + 12, title, { class: "strong" });
    data.factors.forEach((f, i) => {
      if (f === null || [0.5, 1, 2].includes(f)) this.text(g, sx(i), y + h + 48, f === null ? "∞" : f, { class: "tick", "text-anchor": "middle", "data-strong": i === this.stop });
    });
    this.line(g, sx(this.stop), y + 26, sx(this.stop), y + 32 + h, { class: "threshold" });
    data.factors.forEach((_, i) => {
      const left = i ? (sx(i - 1) + sx(i)) / 2 : sx(i) - 6;
      const right = i < data.factors.length - 1 ? (sx(i) + sx(i + 1)) / 2 : sx(i) + 6;
      const stripe = this.rect(g, left, y + 26, right - left, h + 28, { class: "hit" });
      this.mark(stripe, () => values(i));
      furnish(stripe, { role: "button", class: "hit mark pickable", onclick: () => this.go(i) }, []);
      stripe.addEventListener("pointermove", (event) => { if (event.buttons && i !== this.stop) this.plate.later("scrub", () => this.go(i)); });
    });
    return sx;
  }

  layer(g, layer, i, x, y, w, h) {
    const { data, say, stop } = this;
    const sy = (v) => y + 32 + (1 - v) * h;
    for (const v of [0, 0.5, 1]) this.line(g, x, sy(v), x + w, sy(v), { class: "gridline" });
    this.text(g, x + w, sy(1) + 14, "100 %", { class: "tick", "text-anchor": "end" });
    const reading = say("sweep_reading", { dropped: percent(layer.dropped[stop], 0), empty: layer.empty[stop] === null ? "–" : percent(layer.empty[stop], 0) });
    const sx = this.frame(g, x, y, w, h, say("layer_n", { layer: layer.layer + 1 }) + (i === data.chosen ? " ●" : ""), (j) => [say("layer_n", { layer: layer.layer + 1 }), `${say("factor")} ${this.factor(j)}`,
      say("tip_dropped", { share: percent(layer.dropped[j]), chance: percent(data.chance[j]) }), layer.empty[j] === null ? say("card_free") : say("tip_empty", { share: percent(layer.empty[j]) })]);
    this.text(g, x + w, y + 12, reading, { class: "small", "text-anchor": "end" });
    const hits = svg("g", { class: "through" });
    hits.append(svg("path", { class: "curve chance", d: curve(data.chance, sx, sy) }), svg("path", { class: "curve spare", d: curve(layer.empty, sx, sy) }), svg("path", { class: "curve lost", d: curve(layer.dropped, sx, sy) }));
    for (const [kind, v] of [["spare", layer.empty[stop]], ["lost", layer.dropped[stop]]]) if (v !== null) hits.append(svg("circle", { class: `end ${kind}`, cx: px(sx(stop)), cy: px(sy(v)), r: 4.5 }));
    g.append(hits);
  }

  bits(g, x, y, w, h) {
    const { data, say, stop } = this;
    const [low, high] = [Math.min(...data.bits), maxOf(data.bits)];
    const sy = (v) => y + 36 + (1 - (v - low) / (high - low || 1)) * (h - 8);
    this.line(g, x, y + 32 + h, x + w, y + 32 + h, { class: "gridline" });
    this.text(g, x + w, y + 46, number(high), { class: "tick", "text-anchor": "end" });
    this.text(g, x, y + 28 + h, number(low), { class: "tick" });
    const sx = this.frame(g, x, y, w, h, say("sweep_bits"), (j) => [`${say("factor")} ${this.factor(j)}`, say("card_bits", { bits: number(data.bits[j], 3) })]);
    this.text(g, x + w, y + 12, number(data.bits[stop]), { class: "strong", "text-anchor": "end" });
    const hits = svg("g", { class: "through" });
    hits.append(svg("path", { class: "curve", d: curve(data.bits, sx, sy) }), svg("circle", { class: "running-end", cx: px(sx(stop)), cy: px(sy(data.bits[stop])), r: 4.5 }));
    g.append(hits);
  }

  sentence() {
    const { data, say, stop } = this;
    if (data.factors[stop] === null) return say(data.bits[stop] === null ? "sweep_free_plain" : "sweep_free", { bits: data.bits[stop] === null ? "" : number(data.bits[stop]) });
    const lost = data.layers.map((layer) => layer.dropped[stop]);
    const worst = lost.indexOf(maxOf(lost));
    const mean = sum(lost) / lost.length;
    const values = { factor: this.factor(stop), mean: percent(mean), layer: data.layers[worst].layer + 1, most: percent(lost[worst]), empty: percent(sum(data.layers.map((l) => l.empty[stop])) / lost.length, 0), chance: percent(data.chance[stop]) };
    if (data.bits[stop] === null) return say("sweep_say_plain", values);
    return say("sweep_say", { ...values, bits: number(data.bits[stop]), base: number(data.bits.at(-1)) });
  }

  sheet() {
    const { data, say } = this;
    return { head: [say("factor"), "C", ...data.layers.flatMap((l) => [say("sheet_dropped", { layer: l.layer + 1 }), say("sheet_empty", { layer: l.layer + 1 })]), say("chance_head"), say("sweep_bits")],
      rows: data.factors.map((f, i) => [f ?? "∞", data.capacity[i] ?? "∞", ...data.layers.flatMap((l) => [l.dropped[i], l.empty[i] ?? ""]), data.chance[i], data.bits[i] ?? ""]) };
  }
}

PICTURES.sweep = Sweep;
