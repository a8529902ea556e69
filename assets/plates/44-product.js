// VG-19, VG-39: x W = H. Row of x times column of W is one score; the products stand above the row.

const bracketed = (value) => (number(value).startsWith("−") ? `(${number(value)})` : number(value));

class Product extends Picture {
  init() {
    const { data } = this;
    this.x = arrayOf(data.x);
    this.w = arrayOf(data.w);
    this.h = arrayOf(data.h);
    [this.rows, this.inner] = this.x.shape;
    this.experts = this.w.shape[1];
    this.row = data.row;
    this.expert_ = data.expert;
    this.upTo = this.inner;
  }

  controls() {
    const { say } = this;
    this.thumb = this.scrubber({ label: say("add_up"), count: this.inner + 1, value: this.inner, ends: ["0", String(this.inner)],
      show: (i) => say("add_up_value", { n: i, of: this.inner, sum: number(this.partial(i), 2) }), onMove: (i) => { this.upTo = i; this.light(); } });
    return [this.thumb.node];
  }

  product(i) {
    return this.x.at(this.row, i) * this.w.at(i, this.expert_);
  }

  partial(n) {
    let total = 0;
    for (let i = 0; i < n; i++) total += this.product(i);
    return total;
  }

  geometry(width) {
    const wide = width >= 620;
    const label = wide ? 118 : 62;
    const hc = wide ? clamp((width - label) * 0.4 / this.experts, 30, 46) : 17;
    const gap = wide ? 26 : 12;
    const xw = width - label - gap - this.experts * hc - 2;
    const ch = 17;
    const wh = wide ? 192 : 160;
    const top = 26;
    return { wide, label, hc, gap, ch, top, wh, xc: xw / this.inner, xw, wc: wh / this.inner, bottom: top + wh + 34, hx: label + xw + gap };
  }

  draw(g, width) {
    const a = this.geometry(width);
    this.a = a;
    const { data, say } = this;
    const limit = (m) => maxOf([...m.values].map(Math.abs)) || 1;
    this.text(g, a.label, a.bottom - 9, say("matrix_x", { rows: this.rows, cols: this.inner }), { class: "strong" });
    this.text(g, a.hx, a.top - 10, say("matrix_w", { rows: this.inner, cols: this.experts }), { class: "strong" });
    this.text(g, a.hx, a.bottom - 9, a.wide ? say("matrix_h", { rows: this.rows, cols: this.experts }) : "H = x · Wᵣ", { class: "strong" });
    heat(g, { rows: this.rows, cols: this.inner, at: this.x.at, x: a.label, y: a.bottom, cw: a.xc, ch: a.ch, top: limit(this.x) });
    heat(g, { rows: this.inner, cols: this.experts, at: this.w.at, x: a.hx, y: a.top, cw: a.hc, ch: a.wc, top: limit(this.w) });
    heat(g, { rows: this.rows, cols: this.experts, at: this.h.at, x: a.hx, y: a.bottom, cw: a.hc, ch: a.ch, top: limit(this.h) * 1.6 });
    this.names(g, a);
    this.cells(g, a);
    range(this.experts).forEach((e) => this.text(g, a.hx + (e + 0.5) * a.hc, a.bottom + this.rows * a.ch + 16, e + 1, { class: "tick", "text-anchor": "middle" }));
    this.over = svg("g");
    g.append(this.over);
    this.surface(g, a);
    this.light();
    const height = a.bottom + this.rows * a.ch + 24;
    if (this.rows < data.total * data.heads) this.text(g, 0, height + 10, say("rows_of", { from: data.first + 1, to: data.first + this.rows / data.heads, total: data.total }), { class: "small" });
    return height + (this.rows < data.total * data.heads ? 16 : 0);
  }

  names(g, a) {
    const { data } = this;
    data.names.forEach((name, t) => {
      const y = a.bottom + t * data.heads * a.ch;
      const chosen = Math.floor(this.data.row / data.heads) === t;
      this.text(g, a.label - 22, y + (data.heads * a.ch) / 2 + 4, clip(name, a.label - 30, this.plate.family), { "text-anchor": "end", "data-strong": chosen, class: "tick ink" });
      if (data.heads > 1) {
        g.append(svg("path", { class: "bracket", d: `M${px(a.label - 12)} ${px(y + 2)}h-4v${px(data.heads * a.ch - 4)}h4` }));
        if (t) this.line(g, a.label, y, a.hx + this.experts * a.hc, y, { class: "gridline" });
      }
    });
  }

  cells(g, a) {
    const chosen = svg("path", { class: "chosen-cell", d: this.data.chosen.flatMap((list, r) => list.filter((e) => e >= 0).map((e) =>
      `M${px(a.hx + e * a.hc + 1)} ${px(a.bottom + r * a.ch + 1)}h${px(a.hc - 2)}v${px(a.ch - 2)}h${px(2 - a.hc)}z`)).join("") });
    g.append(chosen);
    if (a.hc < 30) return;
    for (let r = 0; r < this.rows; r++) {
      range(this.experts).forEach((e) => this.text(g, a.hx + (e + 0.5) * a.hc, a.bottom + (r + 0.5) * a.ch + 4, number(this.h.at(r, e), 1),
        { class: "tick ink", "text-anchor": "middle", "data-strong": this.data.chosen[r].includes(e) }));
    }
  }

  /** One surface that reads the pointer, and the arrow keys, over the scores. */
  surface(g, a) {
    const { say } = this;
    const go = (row, expert) => { this.row = clamp(row, 0, this.rows - 1); this.expert_ = clamp(expert, 0, this.experts - 1); this.light(); };
    const surface = this.rect(g, a.hx, a.bottom, this.experts * a.hc, this.rows * a.ch, { class: "hit", tabindex: 0, role: "application", "aria-label": say("product_keys") });
    for (const name of ["pointermove", "pointerdown"]) {
      surface.addEventListener(name, (event) => {
        const box = surface.getBoundingClientRect();
        const [down, along] = [(event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width];
        this.plate.later("light", () => go(Math.floor(down * this.rows), Math.floor(along * this.experts)));
      });
    }
    surface.addEventListener("keydown", (event) => {
      const [dr, de] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [0, 0];
      if (!dr && !de) return;
      event.preventDefault();
      event.stopPropagation();
      go(this.row + dr, this.expert_ + de);
    });
    const x = this.rect(g, a.label, a.bottom, a.xw, this.rows * a.ch, { class: "hit" });
    this.tooltip.describe(x, (event) => this.readCell(event, x, this.x, this.rows, this.inner, "x"));
    const w = this.rect(g, a.hx, a.top, this.experts * a.hc, a.wh, { class: "hit" });
    this.tooltip.describe(w, (event) => this.readCell(event, w, this.w, this.inner, this.experts, "Wᵣ"));
  }

  readCell(event, node, matrix, rows, cols, name) {
    if (!event) return [];
    const box = node.getBoundingClientRect();
    const r = clamp(Math.floor(((event.clientY - box.top) / box.height) * rows), 0, rows - 1);
    const c = clamp(Math.floor(((event.clientX - box.left) / box.width) * cols), 0, cols - 1);
    return [`${name}[${r + 1}, ${c + 1}] = ${number(matrix.at(r, c), 3)}`];
  }

  /** The lit row, column and cell, and the products of the two with their running sum. */
  light() {
    if (!this.a) return;
    const { a, row, expert_: e, upTo } = this;
    const o = svg("g");
    const y = a.bottom + row * a.ch;
    this.rect(o, a.label - 1, y - 0.5, a.xw + 2, a.ch + 1, { class: "ring", rx: 2 });
    this.rect(o, a.hx + e * a.hc, a.top - 1, a.hc, a.wh + 2, { class: "ring", rx: 2 });
    this.rect(o, a.hx + e * a.hc, y, a.hc, a.ch, { class: "ring strong-ring", rx: 2 });
    this.products(o, a, e, upTo);
    this.over.replaceChildren(o);
    this.thumb?.set(upTo);
    this.plate.tell();
  }

  products(o, a, e, upTo) {
    const values = range(this.inner).map((i) => this.product(i));
    let total = 0;
    const running = values.map((v) => (total += v));
    const [low, high] = [Math.min(0, ...values, ...running), Math.max(0, ...values, ...running)];
    const scale = (a.wh - 28) / (high - low || 1);
    const middle = a.top + 14 + high * scale;
    this.text(o, a.label, a.top - 10, this.say(a.wide ? "products" : "products_short"), { class: "strong" });
    this.line(o, a.label, middle, a.label + a.xw, middle, { class: "zero" });
    values.forEach((v, i) => {
      const size = Math.max(0.5, Math.abs(v) * scale);
      this.rect(o, a.label + i * a.xc + a.xc * 0.12, v < 0 ? middle : middle - size, a.xc * 0.76, size, { class: i < upTo ? (v < 0 ? "n5" : "v5") : "waiting-bar" });
    });
    if (upTo) {
      const d = running.slice(0, upTo).map((v, i) => `${i ? "L" : "M"}${px(a.label + (i + 0.5) * a.xc)} ${px(middle - v * scale)}`).join("");
      const [cx, cy] = [a.label + (upTo - 0.5) * a.xc, middle - running[upTo - 1] * scale];
      o.append(svg("path", { class: "running", d }), svg("circle", { class: "running-end", cx: px(cx), cy: px(cy), r: 4 }));
      const right = upTo > this.inner / 2;
      this.text(o, cx + (right ? -8 : 8), cy - 8, number(running[upTo - 1], 2), { class: "strong halo", "text-anchor": right ? "end" : "start" });
    }
  }

  sentence() {
    const { data, say, row, expert_: e } = this;
    const values = range(this.inner).map((i) => [i, this.product(i)]).sort((p, q) => Math.abs(q[1]) - Math.abs(p[1])).slice(0, 2);
    const parts = values.map(([i]) => `${bracketed(this.x.at(row, i))} · ${bracketed(this.w.at(i, e))}`).join(" + ");
    return say(data.heads > 1 ? "dot" : "dot_one", { name: data.names[Math.floor(row / data.heads)], head: (row % data.heads) + 1, expert: e + 1, parts, value: number(this.h.at(row, e)), n: this.inner });
  }

  sheet() {
    const { data, say } = this;
    return { head: [say("token"), say("subtoken"), ...range(this.experts).map((e) => `${say("score")} ${e + 1}`), say("chosen_head")],
      rows: range(this.rows).map((r) => [data.names[Math.floor(r / data.heads)], (r % data.heads) + 1, ...range(this.experts).map((e) => number(this.h.at(r, e), 4).replace("−", "-")), data.chosen[r].map((e) => e + 1).join(" ")]) };
  }
}

PICTURES.product = Product;
