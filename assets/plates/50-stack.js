// VG-21: the layer's output as a sum. Signed stacked bars; remove an expert and the model runs on without it.

class Stack extends Picture {
  init() {
    this.without = null; // index into data.experts; the first removal answers the question
    this.guess = null;
  }

  keep() {
    return { same: JSON.stringify([this.data.experts, this.data.out]), without: this.without, guess: this.guess };
  }

  restore({ same, without, guess }) {
    if (same === JSON.stringify([this.data.experts, this.data.out])) Object.assign(this, { without, guess });
  }

  controls() {
    const { data, say } = this;
    this.question = el("p", { class: "question" });
    this.buttons = data.experts.map((e, i) => el("button", { type: "button", class: "remove", "aria-pressed": "false", "data-expert": e,
      "aria-label": say("remove_expert", { expert: e + 1 }), onclick: () => this.remove(i) }, chipOf(e), el("span", { class: "quiet" })));
    this.back = el("button", { type: "button", class: "quiet-button", onclick: () => this.remove(null) }, say("put_back"));
    const node = el("div", { class: "ask" }, this.question, el("div", { class: "removals", role: "group", "aria-label": say("remove_label") }, ...this.buttons, this.back));
    this.repaint();
    return [node];
  }

  get most() {
    return this.data.shift.indexOf(maxOf(this.data.shift));
  }

  remove(i) {
    if (this.guess === null && i !== null) this.guess = i;
    this.without = i === this.without ? null : i;
    this.repaint();
    this.plate.draw();
  }

  repaint() {
    const { data, say } = this;
    const open = this.guess === null;
    write(this.question, open ? say("guess") : say(this.guess === this.most ? "guess_right" : "guess_other",
      { guess: data.experts[this.guess] + 1, expert: data.experts[this.most] + 1, most: percent(data.shift[this.most]), other: percent(data.shift[this.guess]) }));
    put(this.question, "data-open", open);
    this.back.hidden = this.without === null;
    this.buttons.forEach((button, i) => {
      put(button, "aria-pressed", i === this.without);
      put(button, "data-guess", i === this.guess);
      write(button.lastChild, open ? say("gate_short", { gate: number(data.gates[i]) }) : percent(data.shift[i]));
    });
  }

  draw(g, width) {
    const wide = width >= 760;
    const left = wide ? width * 0.58 : width;
    const bottom = this.bars_(g, 0, left, 190);
    const x = wide ? left + 44 : 0;
    return Math.max(bottom, this.next(g, x, wide ? 0 : bottom + 24, width - x));
  }

  /** One column per coordinate: positive parts stacked up, negative down, a line at their sum. */
  bars_(g, x, width, height) {
    const { data, say, without } = this;
    const n = data.coordinates.length;
    const total = (sign) => range(n).map((c) => sum(data.parts.map((p) => Math.max(0, sign * p[c]))));
    const [up, down] = [total(1), total(-1)];
    const [high, low] = [maxOf(up) || 1, maxOf(down)];
    const scale = height / (high + low || 1);
    const top = 46;
    const zero = top + high * scale;
    const pitch = width / n;
    this.text(g, x, 18, say("stack_title", { n, width: data.width }), { class: "strong" });
    range(n).forEach((c) => {
      const column = svg("g");
      let [a, b] = [zero, zero];
      data.experts.forEach((e, i) => {
        const v = data.parts[i][c];
        const size = Math.abs(v) * scale;
        const y = v > 0 ? (a -= size) : b;
        if (v <= 0) b += size;
        const part = svg("g", { "data-expert": e });
        this.rect(part, x + c * pitch + pitch * 0.14, y, pitch * 0.72, size, { class: i === without ? "gone" : "bar thin" });
        column.append(part);
      });
      const y = zero - data.out[c] * scale;
      this.line(column, x + c * pitch + 1, y, x + (c + 1) * pitch - 1, y, { class: "total" });
      this.rect(column, x + c * pitch, top - 6, pitch, height + 30, { class: "hit" });
      if (pitch > 24) this.text(column, x + (c + 0.5) * pitch, top + height + 18, data.coordinates[c] + 1, { class: "tick", "text-anchor": "middle" });
      this.mark(column, () => [say("coordinate", { n: data.coordinates[c] + 1, value: number(data.out[c], 3) }),
        ...data.experts.map((e, i) => el("div", { class: "tip-row" }, chipOf(e), signedNumber(data.parts[i][c], 3)))]);
      g.append(column);
    });
    this.line(g, x, zero, x + width, zero, { class: "zero" });
    this.text(g, x, top + height + 36, say("stack_axis"), { class: "small" });
    return top + height + 42;
  }

  /** What comes after this token, with all experts and without the removed one. */
  next(g, x, y, width) {
    const { data, say, without } = this;
    const list = data.next[without ?? data.next.length - 1];
    this.lines(g, x, y + 18, without === null ? say("next_title") : say("next_without", { expert: data.experts[without] + 1 }), width, { class: "strong" });
    const top = y + 46;
    const label = Math.min(96, width * 0.3);
    const room = width - label - 58;
    const peak = maxOf(list.flatMap((item) => (without === null ? [item.before] : [item.before, item.after])));
    list.forEach((item, i) => {
      const at = top + i * 27;
      const row = svg("g");
      this.text(row, x + label - 10, at + 13, clip(item.text, label - 12, this.plate.family), { class: "tick ink", "text-anchor": "end" });
      this.rect(row, x + label, at + 1, (item.before / peak) * room, 17, { class: without === null ? "solid" : "outline", rx: 2 });
      if (without !== null) this.rect(row, x + label, at + 4, (item.after / peak) * room, 11, { class: "solid", rx: 2 });
      const shown = without === null ? item.before : item.after;
      const longest = without === null ? item.before : Math.max(item.before, item.after);
      this.text(row, x + label + (longest / peak) * room + 6, at + 14, percent(shown), { class: "tick" });
      this.rect(row, x, at - 3, width, 24, { class: "hit" });
      this.mark(row, () => [item.text, say("tip_before", { value: percent(item.before, 2) }), without === null ? null : say("tip_after", { value: percent(item.after, 2) })]);
      g.append(row);
    });
    return top + list.length * 27 + 4;
  }

  sentence() {
    const { data, say, without } = this;
    if (without === null) return say(this.guess === null ? "stack_ask" : "stack_rest");
    const list = data.next[without];
    const before = list[0];
    const after = list.reduce((a, b) => (b.after > a.after ? b : a));
    return say(after === before ? "stack_same" : "stack_changed", { expert: data.experts[without] + 1, shift: percent(data.shift[without]), token: before.text, other: after.text,
      p: percent(before.before), q: percent(before.after), r: percent(after.after) });
  }

  sheet() {
    const { data, say } = this;
    return { head: [say("coordinate_head"), ...data.experts.map((e) => this.expert(e)), say("sum_head")],
      rows: data.coordinates.map((c, j) => [c + 1, ...data.parts.map((p) => p[j]), data.out[j]]) };
  }
}

PICTURES.stack = Stack;
