// Chapter 4, shared: a picture with a play button beside its scrubber.

class Played extends Picture {
  /** A subclass sets at and last, and has moved() to show what `at` points to. */
  player(label, show, ends) {
    this.thumb = this.scrubber({ label, count: this.last + 1, value: this.at, show, ends, onMove: (i) => { this.leave(); this.at = i; this.moved(); } });
    this.playButton = el("button", { type: "button", class: "option", onclick: () => this.toggle() }, this.say("play"));
    return el("div", { class: "played" }, this.playButton, this.thumb.node);
  }

  toggle() {
    if (this.playing) return this.leave();
    if (this.at >= this.last) this.at = 0;
    if (stillness.matches) { this.at = this.last; return this.show(); }
    write(this.playButton, this.say("pause"));
    const pause = clamp(4000 / Math.max(1, this.last), 60, 420);
    let before = 0;
    const tick = (time) => {
      if (time - before > pause) { before = time; this.at += 1; this.show(); }
      if (this.at >= this.last) return this.leave();
      this.playing = requestAnimationFrame(tick);
    };
    this.playing = requestAnimationFrame(tick);
  }

  show() {
    this.thumb.set(this.at);
    this.moved();
  }

  moved() {
    this.plate.draw();
  }

  leave() {
    cancelAnimationFrame(this.playing);
    this.playing = null;
    if (this.playButton) write(this.playButton, this.say("play"));
  }

  /**
   * Lines over the same stops with a cursor at this one. lines: [class, values, name][]; returns the y below.
   * options: x y width height high title ends
   */
  curves(g, { x, y, width, height, high, title, ends, lines }) {
    this.text(g, x, y, title, { class: "strong" });
    let at = x;
    for (const [kind, , name] of lines) { // what is which line
      this.line(g, at, y + 17, at + 22, y + 17, { class: kind });
      this.text(g, at + 28, y + 21, name, { class: "small" });
      at += 28 + textWidth(name, 12, 400, this.plate.family) + 18;
    }
    const top = y + 36;
    const count = lines[0][1].length;
    const sx = (i) => x + (count > 1 ? i / (count - 1) : 0) * width;
    const sy = (v) => top + (1 - Math.min(v, high) / high) * height;
    this.line(g, x, top + height, x + width, top + height, { class: "gridline" });
    this.line(g, x, top, x + width, top, { class: "gridline" });
    this.text(g, x + width, top - 5, number(high), { class: "tick", "text-anchor": "end" });
    for (const [kind, values] of lines) {
      g.append(svg("path", { class: kind, d: values.map((v, i) => `${i ? "L" : "M"}${px(sx(i))} ${px(sy(v))}`).join("") }));
    }
    this.line(g, sx(this.at), top, sx(this.at), top + height, { class: "rod" });
    lines.forEach(([kind, values]) => g.append(svg("circle", { class: `running-end ${kind.includes("second") ? "second" : ""} ${kind.includes("ghost") ? "pale" : ""}`, cx: px(sx(this.at)), cy: px(sy(values[this.at])), r: 4 })));
    this.text(g, x, top + height + 17, ends[0], { class: "tick" });
    this.text(g, x + width, top + height + 17, ends[1], { class: "tick", "text-anchor": "end" });
    return top + height + 22;
  }
}
