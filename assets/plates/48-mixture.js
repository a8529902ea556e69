// VG-18: from sparse to dense, k = 1..E: error of the layer's output, multiplications, loss.

class Mixture extends Picture {
  init() {
    this.k = this.data.trained;
  }

  keep() {
    return { k: this.k };
  }

  restore({ k }) {
    if (k && k <= this.data.order.length) this.k = k;
  }

  controls() {
    const { say, data } = this;
    this.thumb = this.scrubber({ label: say("k_label"), count: data.order.length, value: this.k - 1, ends: ["1", String(data.order.length)],
      show: (i) => (i + 1 === data.trained ? say("k_trained", { k: i + 1 }) : `k = ${i + 1}`), onMove: (i) => { this.k = i + 1; this.plate.draw(); } });
    return [this.thumb.node];
  }

  draw(g, width) {
    const { data, say, k } = this;
    const wide = width >= 760;
    const left = wide ? width * 0.34 : width;
    const h = 150;
    const peak = maxOf(data.probs);
    this.text(g, 0, 18, say("mixture_experts", { k }), { class: "strong" });
    const values = [];
    data.order.forEach((e, i) => { values[e] = data.probs[i]; });
    const used = new Set(data.order.slice(0, k));
    this.bars(g, { x: 0, y: 50, width: left, height: h, values, order: data.order, low: 0, high: peak, chosen: [...used], faded: (e) => !used.has(e),
      print: (e) => (used.has(e) ? number(values[e]) : ""), tip: (e) => [this.expert(e), say("tip_prob", { prob: number(values[e], 3) }), say(used.has(e) ? "mixture_runs" : "mixture_rests")] });
    const gap = 40;
    const x0 = wide ? left + gap : 0;
    const w = wide ? (width - x0 - 2 * 28) / 3 : width;
    const graphs = [["error", data.error, data.mean, (v) => percent(v, 0)], ["macs", data.macs.map((v) => v / data.macs[data.trained - 1]), null, (v) => `× ${number(v, 1)}`]];
    if (data.bits.every((v) => v !== null)) graphs.push(["bits", data.bits, null, (v) => number(v)]);
    graphs.forEach(([key, list, ghost, print], i) => this.graph(g, wide ? x0 + i * (w + 28) : 0, wide ? 18 : 262 + i * 208, w, key, list, ghost, print));
    return wide ? 226 : 262 + graphs.length * 208 - 16;
  }

  graph(g, x, y, w, key, values, ghost, print) {
    const { data, say, k } = this;
    const h = key === "none" ? 0 : 112;
    const top = y + 52;
    const all = [...values, ...(ghost ?? [])];
    const low = key === "bits" ? Math.min(...all) - (maxOf(all) - Math.min(...all)) * 0.15 : 0;
    const high = maxOf(all) || 1;
    const sx = (i) => x + ((i + 0.5) / values.length) * w;
    const sy = (v) => top + (1 - (v - low) / (high - low || 1)) * h;
    this.text(g, x, y, say(`graph_${key}`), { class: "strong" });
    this.text(g, x, y + 24, print(values[k - 1]), { class: "big" });
    if (ghost) this.text(g, x + w, y + 24, say("graph_mean", { value: print(ghost[k - 1]) }), { class: "small", "text-anchor": "end" });
    this.line(g, x, top + h, x + w, top + h, { class: "gridline" });
    this.line(g, sx(data.trained - 1), top - 6, sx(data.trained - 1), top + h, { class: "threshold" });
    if (ghost) g.append(svg("path", { class: "curve ghost", d: ghost.map((v, i) => `${i ? "L" : "M"}${px(sx(i))} ${px(sy(v))}`).join("") }));
    g.append(svg("path", { class: "curve", d: values.map((v, i) => `${i ? "L" : "M"}${px(sx(i))} ${px(sy(v))}`).join("") }));
    values.forEach((v, i) => {
      const dot = svg("g");
      dot.append(svg("circle", { class: i + 1 === k ? "running-end" : "dot", cx: px(sx(i)), cy: px(sy(v)), r: i + 1 === k ? 5.5 : 3.5 }));
      this.rect(dot, sx(i) - w / values.length / 2, top - 6, w / values.length, h + 26, { class: "hit" });
      this.text(dot, sx(i), top + h + 16, i + 1, { class: "tick", "text-anchor": "middle", "data-strong": i + 1 === k });
      this.mark(dot, () => [say("tip_point", { what: say(`graph_${key}`), k: i + 1, value: print(v) }), say(key === "bits" ? "tip_rerun" : "tip_frozen")]);
      furnish(dot, { role: "button", class: "mark pickable", onclick: () => { this.k = i + 1; this.thumb.set(i); this.plate.draw(); } }, []);
      g.append(dot);
    });
  }

  sentence() {
    const { data, say, k } = this;
    const E = data.order.length;
    const best = data.bits.every((v) => v !== null) ? data.bits.indexOf(Math.min(...data.bits)) + 1 : 0;
    const values = { k, experts: E, error: percent(data.error[k - 1], 0), times: number(data.macs[k - 1] / data.macs[data.trained - 1], 1), trained: data.trained,
      best, ...(best ? { bits: number(data.bits[k - 1]), base: number(data.bits[data.trained - 1]) } : {}) };
    if (!best) return say("mixture_plain", values);
    return say(k === data.trained ? "mixture_trained" : k === E ? "mixture_dense" : "mixture_other", values);
  }

  sheet() {
    const { data, say } = this;
    return { head: ["k", say("graph_error"), say("graph_error_mean"), say("graph_macs_plain"), say("graph_bits")],
      rows: data.error.map((v, i) => [i + 1, v, data.mean[i], data.macs[i], data.bits[i] ?? ""]) };
  }
}

PICTURES.mixture = Mixture;
