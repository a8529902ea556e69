// VG-31, 32, 33: five bars to drag; standard deviation over mean says how uneven they are.

class UnevenBars extends Picture {
  init() {
    this.sample = false;
    this.take("guide32");
  }

  keep() { return { key: this.key, values: this.values, sample: this.sample }; }

  restore(kept) { if (kept.key !== "live") Object.assign(this, kept); }

  take(key) {
    this.key = key;
    this.values = [...this.data.cases.find((one) => one.key === key).values];
  }

  get now() {
    const { values } = this;
    const mean = sum(values) / values.length;
    const std = (less) => Math.sqrt(sum(values.map((v) => (v - mean) ** 2)) / (values.length - less));
    return { mean, std: std(this.sample ? 1 : 0), cv: mean > 0 ? std(this.sample ? 1 : 0) / mean : 0 };
  }

  controls() {
    const { say, data } = this;
    this.presets = this.radios({ label: say("bars_from"), options: data.cases.map((one) => [one.key, say(`bars_${one.key}`)]), value: this.key,
      onPick: (key) => { this.take(key); this.plate.draw(); } });
    const kind = this.radios({ label: say("bars_std"), options: [["no", say("bars_population")], ["yes", say("bars_sample")]], value: this.sample ? "yes" : "no",
      onPick: (code) => { this.sample = code === "yes"; this.plate.draw(); } });
    return [this.presets.node, kind.node];
  }

  set(e, value) {
    this.values[e] = clamp(Math.round(value * 100) / 100, 0, 1);
    if (this.key !== null) { this.key = null; this.presets.node.querySelectorAll("[role=radio]").forEach((b) => put(b, "aria-checked", false)); }
    this.plate.draw();
  }

  draw(g, width) {
    const wide = width >= 680;
    const w = wide ? width * 0.52 : width;
    const [top, h] = [48, 190];
    this.text(g, 0, 16, this.say("bars_title"), { class: "strong" });
    const { mean } = this.now;
    const pitch = w / this.values.length;
    const thick = Math.min(64, pitch * 0.7);
    const zero = top + h;
    const box = { top, h, thick, pitch, zero };
    const level = zero - mean * h;
    this.line(g, 0, level, w, level, { class: "threshold" });
    this.values.forEach((value, e) => this.bar(g, e, value, box));
    this.line(g, 0, zero, w, zero, { class: "zero" });
    this.text(g, w, 16, this.say("bars_mean", { value: number(mean, 3) }), { class: "small", "text-anchor": "end" });
    return Math.max(zero + 30, this.readings(g, wide ? w + 56 : 0, wide ? 16 : zero + 58, wide ? width - w - 56 : width));
  }

  bar(g, e, value, { top, h, thick, pitch, zero }) {
    const x = (e + 0.5) * pitch - thick / 2;
    const group = svg("g", { "data-expert": e });
    this.rect(group, e * pitch, top - 22, pitch, h + 44, { class: "hit" });
    this.rect(group, x, zero - value * h, thick, value * h, { class: "bar", rx: 3 });
    this.line(group, x + thick / 2 - 9, zero - value * h + 5, x + thick / 2 + 9, zero - value * h + 5, { class: "grip" });
    this.text(group, x + thick / 2, zero - value * h - 7, number(value), { class: "strong ink halo", "text-anchor": "middle" });
    this.text(group, x + thick / 2, zero + 18, thick > 50 ? this.expert(e) : e + 1, { class: "tick", "text-anchor": "middle" });
    this.mark(group, () => [this.expert(e), number(value)]);
    furnish(group, { role: "slider", "aria-valuemin": 0, "aria-valuemax": 1, "aria-valuenow": value, "aria-label": this.say("bars_drag", { expert: e + 1 }), "data-bar": e, class: "mark lift" }, []);
    group.addEventListener("pointerdown", (event) => this.hold(event, e, zero, h));
    g.append(group);
  }

  hold(event, e, zero, h) {
    event.preventDefault();
    const { svg: canvas } = this.plate;
    const follow = (move) => {
      const box = canvas.getBoundingClientRect();
      this.plate.later("scrub", () => this.set(e, (zero - (move.clientY - box.top)) / h));
    };
    const stop = () => { window.removeEventListener("pointermove", follow); window.removeEventListener("pointerup", stop); window.removeEventListener("pointercancel", stop); };
    window.addEventListener("pointermove", follow);
    window.addEventListener("pointerup", stop);
    window.addEventListener("pointercancel", stop);
    follow(event);
  }

  onKey(event) {
    const e = event.target.getAttribute?.("data-bar");
    const step = { ArrowUp: 0.01, ArrowDown: -0.01, PageUp: 0.1, PageDown: -0.1 }[event.key];
    if (e === null || e === undefined || !step) return false;
    event.preventDefault();
    this.set(Number(e), this.values[e] + step);
    return true;
  }

  /** CV and CV squared in large, and the number line with mean and standard deviation. */
  readings(g, x, y, room) {
    const { say, values } = this;
    const { mean, std, cv } = this.now;
    const top = Math.sqrt(values.length - 1);
    const half = room / 2;
    [[say("bars_cv"), number(cv, 3)], [say("bars_cv2"), number(cv * cv, 3)]].forEach(([label, value], i) => {
      this.text(g, x + i * half, y, label, { class: "small" });
      this.text(g, x + i * half, y + 28, value, { class: "big" });
    });
    this.meter(g, x, y + 58, room, cv, this.sample ? Math.sqrt(values.length) : top);
    const line = y + 150;
    this.text(g, x, line - 34, say("bars_line"), { class: "small" });
    const sx = (v) => x + 6 + clamp(v, 0, 1) * (room - 12);
    this.rect(g, sx(mean - std), line - 10, sx(mean + std) - sx(mean - std), 20, { class: "spread", rx: 4 });
    this.line(g, x + 6, line, x + room - 6, line, { class: "zero" });
    this.line(g, sx(mean), line - 14, sx(mean), line + 14, { class: "rod" });
    values.forEach((v, e) => {
      const group = svg("g", { "data-expert": e });
      group.append(svg("circle", { class: "bar", cx: px(sx(v)), cy: line, r: 6 }));
      g.append(group);
    });
    this.text(g, x + 6, line + 30, "0", { class: "tick" });
    this.text(g, x + room - 6, line + 30, "1", { class: "tick", "text-anchor": "end" });
    this.text(g, clamp(sx(mean), x + 60, x + room - 60), line + 30, say("bars_std_value", { value: number(std, 3) }), { class: "tick ink", "text-anchor": "middle" });
    return line + 38;
  }

  meter(g, x, y, room, cv, top) {
    this.rect(g, x, y, room, 12, { class: "meter", rx: 6 });
    this.rect(g, x, y, Math.max(6, Math.min(1, cv / top) * room), 12, { class: "solid", rx: 6 });
    this.text(g, x, y + 29, this.say("bars_even"), { class: "tick" });
    this.text(g, x + room, y + 29, this.say("bars_most", { value: number(top, 2) }), { class: "tick", "text-anchor": "end" });
  }

  sentence() {
    const { mean, std, cv } = this.now;
    return this.say("bars_say", { std: number(std, 3), mean: number(mean, 3), cv: number(cv, 3), cv2: number(cv * cv, 3), total: number(sum(this.values)) });
  }

  sheet() {
    const { say, values } = this;
    const { mean, std, cv } = this.now;
    return { head: [...range(values.length).map((e) => this.expert(e)), say("bars_mean_short"), say("bars_std_short"), "CV", "CV²"], rows: [[...values, ...[mean, std, cv, cv * cv].map((v) => v.toFixed(4))]] };
  }
}

PICTURES.bars = UnevenBars;
