// VG-24: two stored runs side by side. Stacked areas of the experts' share per layer, loss, dead experts.

class Collapse extends Picture {
  init() {
    this.runs = this.data.runs.map((run) => ({ ...run, share: arrayOf(run.share) }));
    [this.points, this.layers, this.experts] = this.runs[0].share.shape;
    this.at = this.points - 1;
  }

  controls() {
    const { say, data } = this;
    this.thumb = this.scrubber({ label: say("step"), count: this.points, value: this.at, ends: [String(data.step[0]), String(data.step.at(-1))],
      show: (i) => say("step_value", { step: data.step[i], of: data.step.at(-1) }), onMove: (i) => { this.at = i; this.cursor(); } });
    this.playButton = el("button", { type: "button", class: "quiet-button", onclick: () => this.toggle() }, say("play"));
    return [this.playButton, this.thumb.node];
  }

  toggle() {
    if (this.playing) return this.leave();
    if (this.at >= this.points - 1) this.at = 0;
    write(this.playButton, this.say("pause"));
    let last = 0;
    const tick = (time) => {
      if (time - last > 55) { last = time; this.at += 1; this.cursor(); }
      if (this.at >= this.points - 1) return this.leave();
      this.playing = requestAnimationFrame(tick);
    };
    if (stillness.matches) { this.at = this.points - 1; this.cursor(); this.leave(); }
    else this.playing = requestAnimationFrame(tick);
  }

  leave() {
    cancelAnimationFrame(this.playing);
    this.playing = null;
    if (this.playButton) write(this.playButton, this.say("play"));
  }

  draw(g, width) {
    const wide = width >= 620;
    const label = wide ? 64 : 0;
    const gap = wide ? 44 : 16;
    const w = (width - label - gap) / 2;
    const h = wide ? 74 : 64;
    const a = { label, gap, w, h, pitch: h + 26, top: 64, x: (r) => label + r * (w + gap) };
    this.a = a;
    this.live = [];
    this.runs.forEach((run, r) => {
      this.text(g, a.x(r), 16, this.say("run_title", { alpha: run.alpha }), { class: "strong" });
      const dead = this.text(g, a.x(r), 36, "", { class: "small" });
      this.live.push(() => write(dead, this.say(wide ? "dead_now" : "dead_short", { dead: sum(run.dead[this.at]), of: this.layers * this.experts })));
      range(this.layers).forEach((l) => this.area(g, run, r, l));
    });
    this.drag(g);
    const bottom = a.top + this.layers * a.pitch;
    this.losses(g, bottom + 22, width, 84);
    this.rods = svg("g");
    g.append(this.rods);
    this.bottom = bottom;
    this.cursor();
    return this.legend(g, bottom + 22 + 84 + 46, width);
  }

  legend(g, y, width) {
    range(this.experts).forEach((e) => {
      const group = svg("g", { "data-expert": e });
      this.rect(group, this.a.x(0) + e * 30, y, 24, 20, { class: "bar", rx: 4 });
      this.text(group, this.a.x(0) + e * 30 + 12, y + 14.5, e + 1, { class: "on", "text-anchor": "middle" });
      g.append(group);
    });
    const x = this.a.x(0) + this.experts * 30 + 8;
    return this.lines(g, x, y + 14.5, this.say("legend"), width - x, { class: "small" }) + 6;
  }

  sx(r, i) {
    return this.a.x(r) + (i / (this.points - 1)) * this.a.w;
  }

  area(g, run, r, l) {
    const { a } = this;
    const y = a.top + l * a.pitch;
    const base = new Float64Array(this.points);
    const level = (v) => y + (1 - Math.min(1, v)) * a.h;
    if (r === 0 && a.label) this.text(g, 0, y + a.h / 2 + 4, this.say("layer_n", { layer: l + 1 }), { class: "tick ink" });
    if (!a.label && r === 0) this.text(g, a.x(r), y - 5, this.say("layer_n", { layer: l + 1 }), { class: "tick ink" });
    range(this.experts).forEach((e) => {
      const under = [...base];
      let d = "";
      for (let i = 0; i < this.points; i++) d += `${i ? "L" : "M"}${px(this.sx(r, i))} ${px(level(base[i] += run.share.at(i, l, e)))}`;
      for (let i = this.points - 1; i >= 0; i--) d += `L${px(this.sx(r, i))} ${px(level(under[i]))}`;
      const group = svg("g", { "data-expert": e });
      const band = svg("path", { class: "band", d: `${d}z` });
      this.tooltip.describe(band, () => [this.say("share_tip", { expert: e + 1, layer: l + 1, share: percent(run.share.at(this.at, l, e)), step: this.data.step[this.at] }), this.say("share_chance", { value: percent(1 / this.experts) })]);
      group.append(band);
      g.append(group);
    });
    const dead = this.text(g, a.x(r) + a.w, y - 5, "", { class: "small", "text-anchor": "end" });
    this.live.push(() => {
      const n = run.dead[this.at][l];
      write(dead, n ? this.say("dead_layer", { dead: n }) : "");
    });
    const surface = this.rect(g, a.x(r), y, a.w, a.h, { class: "frame" });
    surface.style.pointerEvents = "none";
  }

  /** Pressing or dragging on a chart moves the cursor. */
  drag(g) {
    const follow = (event) => {
      if (event.type === "pointermove" && !event.buttons) return;
      const box = this.plate.svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * this.plate.width;
      const r = x > this.a.x(1) - this.a.gap / 2 ? 1 : 0;
      this.plate.later("scrub", () => { this.at = clamp(Math.round(((x - this.a.x(r)) / this.a.w) * (this.points - 1)), 0, this.points - 1); this.cursor(); });
    };
    g.addEventListener("pointerdown", follow);
    g.addEventListener("pointermove", follow);
  }

  losses(g, y, width, h) {
    const { a } = this;
    const all = this.runs.flatMap((run) => run.loss);
    const [low, high] = [Math.min(...all), maxOf(all)];
    const sy = (v) => y + 14 + (1 - (v - low) / (high - low || 1)) * h;
    this.runs.forEach((run, r) => {
      const shown = this.text(g, a.x(r), y + 4, "", { class: "strong" });
      this.live.push(() => write(shown, this.say("loss_now", { loss: number(run.loss[this.at]) })));
      this.line(g, a.x(r), y + 14 + h, a.x(r) + a.w, y + 14 + h, { class: "gridline" });
      const other = this.runs[1 - r];
      for (const [values, kind] of [[other.loss, "curve ghost"], [run.loss, "curve"]]) {
        g.append(svg("path", { class: kind, d: values.map((v, i) => `${i ? "L" : "M"}${px(this.sx(r, i))} ${px(sy(v))}`).join("") }));
      }
      this.text(g, a.x(r), y + h + 30, this.data.step[0], { class: "tick" });
      this.text(g, a.x(r) + a.w, y + h + 30, this.data.step.at(-1), { class: "tick", "text-anchor": "end" });
      this.text(g, a.x(r) + a.w / 2, y + h + 30, this.say("step"), { class: "tick", "text-anchor": "middle" });
      if (a.label && r === 0) this.text(g, 0, y + 14 + h / 2, this.say("loss"), { class: "tick ink" });
    });
    this.lossTop = y;
    this.lossHeight = h;
  }

  cursor() {
    if (!this.rods) return;
    const { a } = this;
    this.rods.replaceChildren(...this.runs.flatMap((_, r) => {
      const x = px(this.sx(r, this.at));
      return [svg("line", { class: "rod", x1: x, x2: x, y1: a.top - 2, y2: px(this.lossTop + 14 + this.lossHeight) })];
    }));
    this.live.forEach((job) => job());
    this.thumb.set(this.at);
    this.plate.tell();
  }

  sentence() {
    const [free, held] = this.runs;
    const { at, say, data } = this;
    let top = { share: 0 };
    range(this.layers).forEach((l) => range(this.experts).forEach((e) => {
      const share = free.share.at(at, l, e);
      if (share > top.share) top = { share, l, e };
    }));
    return say("collapse_say", { step: data.step[at], dead: sum(free.dead[at]), of: this.layers * this.experts, kept: sum(held.dead[at]), layer: top.l + 1, expert: top.e + 1, share: percent(top.share, 0), fair: percent(1 / this.experts),
      free: number(free.loss[at]), held: number(held.loss[at]) });
  }

  sheet() {
    const { data, say } = this;
    return { head: [say("step"), ...this.runs.flatMap((run) => [`${say("loss")} α=${run.alpha}`, `${say("dead_head")} α=${run.alpha}`,
      ...range(this.layers).flatMap((l) => range(this.experts).map((e) => `α=${run.alpha} ${say("layer_n", { layer: l + 1 })} ${this.expert(e)}`))])],
    rows: data.step.map((s, i) => [s, ...this.runs.flatMap((run) => [run.loss[i], sum(run.dead[i]), ...range(this.layers).flatMap((l) => range(this.experts).map((e) => run.share.at(i, l, e).toFixed(4)))])]) };
  }
}

PICTURES.collapse = Collapse;
