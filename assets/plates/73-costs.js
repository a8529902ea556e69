// Measured: the time of an MoE layer beside dense layers of its active and of its total size, and what each must hold.

class Costs extends Picture {
  init() {
    this.at = this.data.start;
    this.which = "forward";
  }

  keep() {
    return { at: this.at, which: this.which };
  }

  restore(kept) {
    Object.assign(this, kept);
  }

  controls() {
    const { data, say } = this;
    const size = (row) => say("size_value", { tokens: grouped(row.tokens), experts: row.experts, k: row.k, d: row.d });
    return [this.radios({ label: say("pass_label"), options: ["forward", "both"].map((which) => [which, say(`pass_${which}`)]), value: this.which, onPick: (which) => { this.which = which; this.plate.draw(); } }).node,
      this.scrubber({ label: say("size_label"), count: data.rows.length, value: this.at, ends: [data.rows[0], data.rows.at(-1)].map((row) => say("tokens_n", { n: grouped(row.tokens) })),
        show: (i) => size(data.rows[i]), onMove: (i) => { this.at = i; this.plate.draw(); } }).node];
  }

  get row() {
    return this.data.rows[this.at];
  }

  draw(g, width) {
    const wide = width >= 640;
    const { say, row } = this;
    const label = wide ? 178 : 0;
    const gap = 36;
    const room = wide ? (width - label - gap) / 2 : width;
    const ms = row[this.which];
    const panels = [["time", ms, (v) => say("ms", { n: number(v, v < 10 ? 2 : v < 100 ? 1 : 0) })], ["memory", row.weights.map((n) => 4 * n), (v) => shortened((key) => say(key === "units" ? "byte_units" : key), v)]];
    let bottom = 0;
    panels.forEach(([name, values, print], p) => {
      const x = wide ? label + p * (room + gap) : 0;
      const top = wide ? 0 : p * 196;
      const digits = room - 78;
      this.text(g, x, top + 16, say(`costs_${name}`), { class: "strong" });
      ["active", "ours", "total"].forEach((kind, i) => {
        const y = top + 30 + i * (wide ? 46 : 52);
        const line = svg("g");
        if (wide ? p === 0 : true) this.text(line, 0, wide ? y + 19 : y + 12, say(`costs_${kind}`), { class: kind === "ours" ? "strong" : "tick ink" });
        const bar = y + (wide ? 4 : 18);
        const size = Math.max(2, (values[i] / maxOf(values)) * digits);
        this.rect(line, x, bar, size, 22, { class: kind === "ours" ? "solid" : "hold", rx: 3 });
        this.text(line, x + size + 8, bar + 16, print(values[i]), { class: "tick ink", "data-strong": kind === "ours" });
        this.rect(line, x, y, room, 44, { class: "hit" });
        this.mark(line, () => [say(`costs_${kind}`), say(`costs_${name}`), print(values[i]), say("tip_weights", { n: grouped(row.weights[i]) })]);
        g.append(line);
        bottom = Math.max(bottom, y + 48);
      });
    });
    return bottom;
  }

  sentence() {
    const { say, row } = this;
    const [active, ours, total] = row[this.which];
    const values = { tokens: grouped(row.tokens), experts: row.experts, k: row.k, heads: row.heads, slower: number(ours / active, 1), faster: number(total / ours, 1), touched: number(row.touched, 1) };
    return say(row.heads > 1 ? "costs_say_heads" : "costs_say", values);
  }

  sheet() {
    const { data, say } = this;
    const kinds = ["active", "ours", "total"];
    return { head: [say("tokens_head"), "E", "k", "h", "d", say("pass_label"), ...kinds.map((kind) => `${say(`costs_${kind}`)} (ms)`), ...kinds.map((kind) => `${say(`costs_${kind}`)} (${say("weights")})`)],
      rows: data.rows.flatMap((row) => ["forward", "both"].map((which) => [row.tokens, row.experts, row.k, row.heads, row.d, say(`pass_${which}`), ...row[which], ...row.weights])) };
  }
}

PICTURES.costs = Costs;
