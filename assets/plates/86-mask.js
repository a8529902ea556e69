// VG-26, 27: KeepTopK. Every row loses its own smallest scores; softmax shares out 1 among the rest.

class KeepMask extends Picture {
  init() {
    this.gates = arrayOf(this.data.gates);
    this.k = this.data.k;
    this.row = this.data.row;
  }

  controls() {
    const { say, data } = this;
    const E = data.scores[0].length;
    return [this.scrubber({ label: say("mask_k"), count: E, value: this.k - 1, ends: ["1", String(E)], show: (i) => say(i + 1 === data.k ? "mask_trained" : "mask_value", { k: i + 1 }),
      onMove: (i) => { this.k = i + 1; this.plate.draw(); } }).node];
  }

  name(r) {
    const { data, say } = this;
    const token = data.names[Math.floor(r / data.heads)];
    return data.heads > 1 ? say("mask_row", { name: token, head: (r % data.heads) + 1 }) : token;
  }

  draw(g, width) {
    const { say, data, k } = this;
    const E = data.scores[0].length;
    const wide = width >= 860;
    const label = wide ? 116 : 66;
    const room = wide ? width * 0.56 : width;
    const cw = (room - label) / E;
    const ch = 26;
    const top = 50;
    this.text(g, 0, 16, say("mask_title"), { class: "strong" });
    range(E).forEach((e) => {
      const group = svg("g", { "data-expert": e });
      this.rect(group, label + e * cw + cw / 2 - 11, top - 24, 22, 18, { class: "bar", rx: 5 });
      this.text(group, label + (e + 0.5) * cw, top - 10.5, e + 1, { class: "small on", "text-anchor": "middle" });
      g.append(group);
    });
    data.scores.forEach((scores, r) => this.line_of(g, r, { y: top + r * ch, label, cw, ch, scores, digits: cw > 44 ? 2 : 1 }));
    const y = top + data.scores.length * ch;
    const end = this.text_below(g, y + 18, room);
    return Math.max(end, this.chosenRow(g, wide ? room + 48 : 0, wide ? 16 : end + 26, wide ? width - room - 48 : width, k));
  }

  text_below(g, y, room) {
    const { data, say } = this;
    return this.lines(g, 0, y, say(data.names.length < data.total ? "mask_window" : "mask_all", { from: data.first + 1, to: data.first + data.names.length, total: data.total }), room, { class: "small" });
  }

  line_of(g, r, { y, label, cw, ch, scores, digits }) {
    const { data, k, say } = this;
    const on = r === this.row;
    const group = svg("g", { class: "mask-row", "data-on": on });
    this.rect(group, 0, y, label + cw * scores.length, ch, { class: on ? "lane lit" : "lane", rx: 5 });
    this.text(group, 6, y + 17.5, clip(this.name(r), label - 12, this.plate.family, 12.5), { class: "small ink", "data-strong": on });
    scores.forEach((score, e) => {
      const kept = data.rank[r][e] < k;
      const cell = svg("g", { "data-expert": e });
      this.rect(cell, label + e * cw + 1.5, y + 2, cw - 3, ch - 4, { class: kept ? "bar" : "masked", rx: 4 });
      this.text(cell, label + (e + 0.5) * cw, y + 17.5, kept ? number(score, digits) : "−∞", { class: kept ? "small on" : "small", "text-anchor": "middle" });
      group.append(cell);
    });
    this.mark(group, () => [this.name(r), say("mask_tip", { scores: scores.map((s) => number(s)).join("  ") })]);
    furnish(group, { role: "button", class: "mark pickable mask-row", "aria-pressed": on, onclick: () => { this.row = r; this.plate.draw(); } }, []);
    g.append(group);
  }

  chosenRow(g, x, y, width, k) {
    const { data, say, row } = this;
    const scores = data.scores[row];
    const E = scores.length;
    const kept = range(E).filter((e) => data.rank[row][e] < k);
    const inner = svg("g", { transform: `translate(${px(x)} 0)` });
    this.text(inner, 0, y, say("mask_scores", { name: this.name(row) }), { class: "strong" });
    const low = Math.min(0, ...scores);
    const high = Math.max(0, ...scores);
    const h = 96;
    const top = y + 36;
    this.bars(inner, { x: 0, y: top, width, height: h, values: scores, low, high, chosen: kept, faded: (e) => !kept.includes(e), print: (e) => number(scores[e], this.digits(scores, kept)), tip: (e) => [this.expert(e), number(scores[e], 3)] });
    if (k < E) {
      const between = (Math.min(...kept.map((e) => scores[e])) + maxOf(scores.filter((_, e) => !kept.includes(e)))) / 2;
      const at = top + ((high - between) / (high - low || 1)) * h;
      this.line(inner, 0, at, width, at, { class: "cut" });
      const said = say("mask_cut", { k });
      this.text(inner, width, y, said, { class: "small", "text-anchor": "end" });
    }
    const second = top + h + 58;
    this.text(inner, 0, second, say("mask_softmax"), { class: "strong" });
    this.lines(inner, 0, second + 18, say("mask_legend"), width, { class: "small" });
    const gates = range(E).map((e) => this.gates.at(k - 1, row, e));
    const base = { x: 0, y: second + 62, width, height: 100, low: 0, high: 1 };
    const { pitch, zero } = this.bars(inner, { ...base, values: gates, chosen: kept, print: (e) => (kept.includes(e) ? number(gates[e]) : ""), tip: (e) => [this.expert(e), say("mask_gate_tip", { before: number(data.probs[row][e], 3), after: number(gates[e], 3) })] });
    data.probs[row].forEach((p, e) => this.rect(inner, (e + 0.5) * pitch - Math.min(34, pitch * 0.74) / 2, zero - p * 100, Math.min(34, pitch * 0.74), p * 100, { class: "before" }));
    g.append(inner);
    return second + 62 + 100 + 26;
  }

  sentence() {
    const { data, say, row, k } = this;
    const best = data.rank[row].indexOf(0);
    const E = data.scores[0].length;
    const kept = range(E).filter((e) => data.rank[row][e] < k);
    const mass = sum(kept.map((e) => data.probs[row][e]));
    const values = { k, e: E, n: E - k, expert: best + 1, before: number(data.probs[row][best]), after: number(this.gates.at(k - 1, row, best)), mass: number(mass) };
    return say(k === E ? "mask_say_all" : k === 1 ? "mask_say_one" : "mask_say", values);
  }

  sheet() {
    const { data, say, k } = this;
    const E = data.scores[0].length;
    return { head: [say("token"), ...range(E).map((e) => `${say("score")} ${e + 1}`), ...range(E).map((e) => `${say("gate")} ${e + 1}`)],
      rows: data.scores.map((scores, r) => [this.name(r), ...scores.map((s, e) => (data.rank[r][e] < k ? s : "-inf")), ...range(E).map((e) => this.gates.at(k - 1, r, e).toFixed(4))]) };
  }
}

PICTURES.mask = KeepMask;
