// VG-43: the balance loss alpha E sum f P. Chips can be moved between experts (f changes, and has
// no slope), or all scores of one expert pushed (P changes, and carries the slope).

const CHIP = { height: 24, pitch: 27 };

class Balance extends Picture {
  init() {
    this.cases = this.data.cases.map((one) => {
      const { expert, mean, slope, balance } = one.pushed;
      return { ...one, count: one.expert.length, pushed: { expert: bytesOf(expert), mean: arrayOf(mean), slope: arrayOf(slope), balance: arrayOf(balance) } };
    });
    this.take(0);
    this.mode = "move";
  }

  keep() {
    const { index, mode } = this;
    return { index, mode };
  }

  restore({ index, mode }) {
    this.take(clamp(index, 0, this.cases.length - 1));
    this.mode = mode;
  }

  /** One case, as it begins. */
  take(index) {
    this.index = index;
    this.chips = [...this.one.expert];
    this.lever = this.chips[0];
    this.shift = this.one.rest;
  }

  get one() { return this.cases[this.index]; }

  /** f [E], P [E], their products, the sum, and the slope by each expert's scores. */
  get now() {
    const { one, mode, shift, lever } = this;
    const E = one.experts;
    const pushing = mode === "push";
    const chips = pushing ? range(one.count).map((s) => one.pushed.expert[(lever * one.shifts.length + shift) * one.count + s]) : this.chips;
    const f = range(E).map((e) => chips.filter((c) => c === e).length / one.count);
    const P = pushing ? range(E).map((e) => one.pushed.mean.at(lever, shift, e)) : one.mean;
    const slope = pushing ? range(E).map((e) => one.pushed.slope.at(lever, shift, e)) : range(E).map((e) => E * sum(range(E).map((j) => f[j] * one.jacobian[j][e])));
    const product = range(E).map((e) => E * f[e] * P[e]);
    return { E, chips, f, P, slope, product, value: sum(product) };
  }

  get touched() {
    return this.mode === "push" ? this.shift !== this.one.rest : this.chips.some((e, i) => e !== this.one.expert[i]);
  }

  // ---------------------------------------------------------------------------- controls

  controls() {
    const { say } = this;
    const cases = this.radios({ label: say("example"), options: this.cases.map((one, i) => [i, say(`case_balance_${one.key}`)]), value: this.index,
      onPick: (i) => { this.take(Number(i)); this.rewire(); this.plate.draw(); } });
    this.badge = el("span", { class: "tag-badge" });
    cases.node.append(this.badge);
    const modes = this.radios({ label: say("balance_mode"), options: ["move", "push"].map((m) => [m, say(`balance_${m}`)]), value: this.mode,
      onPick: (mode) => { this.mode = mode; this.shift = this.one.rest; this.chips = [...this.one.expert]; this.rewire(); this.plate.draw(); } });
    this.back = el("button", { type: "button", class: "quiet-button", onclick: () => { this.take(this.index); this.rewire(); this.plate.draw(); } }, say("put_back"));
    this.place = el("div", { class: "grow" });
    this.rewire();
    return [cases.node, modes.node, this.back, this.place];
  }

  rewire() {
    const { say, one, mode } = this;
    const preset = one.key !== "live";
    write(this.badge, say(preset ? "preset" : "live"));
    put(this.badge, "data-preset", preset);
    if (mode !== "push") return this.place.replaceChildren(el("p", { class: "quiet hint" }, say("balance_hint")));
    this.thumb = this.scrubber({ label: say("balance_push_label", { expert: this.lever + 1 }), count: one.shifts.length, value: this.shift, ends: [signedNumber(one.shifts[0], 0), signedNumber(one.shifts.at(-1), 0)],
      show: (i) => signedNumber(one.shifts[i]), onMove: (i) => { this.shift = i; this.plate.draw(); } });
    return this.place.replaceChildren(this.thumb.node);
  }

  // ---------------------------------------------------------------------------- drawing

  draw(g, width) {
    const { say } = this;
    const now = this.now;
    this.back.hidden = !this.touched;
    const wide = width >= 820;
    const label = wide ? 92 : 0;
    const side = wide ? 250 : 0;
    const room = width - label - (wide ? side + 40 : 0);
    const pitch = Math.min(room / now.E, 150);
    // As high as the case begins, plus one: columns that grow further are shuffled together.
    const rows = Math.max(4, 1 + maxOf(range(now.E).map((e) => this.one.expert.filter((c) => c === e).length)));
    const a = { label, pitch, rows, wide, top: wide ? 34 : 52, x: (e) => label + e * pitch, seat: Math.min(pitch - 8, 104) };
    this.a = a;
    if (!wide) this.text(g, 0, 14, say("row_chips", { n: this.one.count }), { class: "small" });
    range(now.E).forEach((e) => this.column(g, e, now, a));
    let y = a.top + rows * CHIP.pitch + 38;
    const top = Math.max(0.3, maxOf([...now.f, ...now.P]));
    y = this.row(g, y, "f", now.f, top, now, a);
    y = this.row(g, y, "P", now.P, top, now, a);
    y = this.row(g, y, "product", now.product, Math.max(0.5, maxOf(now.product)), now, a);
    y = this.arrows(g, y, now, a);
    const bottom = this.total(g, wide ? width - side : 0, wide ? 0 : y + 26, wide ? side : width, now);
    return Math.max(y, bottom) + 4;
  }

  column(g, e, now, a) {
    const x = a.x(e) + (a.pitch - a.seat) / 2;
    const group = svg("g", { "data-expert": e });
    this.rect(group, x, a.top - 26, a.seat, 20, { class: "bar", rx: 10 });
    this.text(group, x + a.seat / 2, a.top - 11.5, a.seat > 78 ? this.expert(e) : e + 1, { class: "on", "text-anchor": "middle" });
    this.rect(group, x - 2, a.top - 2, a.seat + 4, a.rows * CHIP.pitch + 3, { class: "room", rx: 7 });
    g.append(group);
    const mine = now.chips.map((c, s) => [c, s]).filter(([c]) => c === e);
    const pitch = Math.min(CHIP.pitch, ((a.rows - 1) * CHIP.pitch) / Math.max(1, mine.length - 1));
    mine.forEach(([, s], i) => this.chip(g, s, e, x, a.top + i * pitch, a, pitch > 18 || i === mine.length - 1));
  }

  chip(g, s, e, x, y, a, named) {
    const { one, say } = this;
    const name = one.names[Math.floor(s / one.heads)];
    const tail = one.heads > 1 && a.seat > 56 ? `·${(s % one.heads) + 1}` : "";
    const node = svg("g", { "data-expert": e, "data-chip": s, class: "seat chip-seat" });
    this.rect(node, x + 0.75, y + 0.75, a.seat - 1.5, CHIP.height - 1.5, { class: "bar", rx: 5 });
    const label = svg("text", { x: px(x + a.seat / 2), y: px(y + 16.5), "text-anchor": "middle", class: "name on" });
    label.append(svg("tspan", {}, clip(name, a.seat - (tail ? 24 : 4), this.plate.family, 12.5, 650)));
    if (tail) label.append(svg("tspan", { class: "sub", dx: 2 }, tail));
    if (named) node.append(label); // what lies half under the next one would not be read
    const who = one.heads > 1 ? say("tip_sub", { name, head: (s % one.heads) + 1 }) : say("who", { name });
    this.mark(node, () => [who, this.mode === "move" ? say("chip_tip", { expert: e + 1 }) : say("chip_at", { expert: e + 1 })]);
    if (this.mode === "move") {
      furnish(node, { role: "button", class: "seat chip-seat mark pickable movable" }, []);
      this.drag(node, s);
    }
    g.append(node);
  }

  drag(node, s) {
    let from = null;
    node.addEventListener("pointerdown", (event) => { from = [event.clientX, event.clientY]; node.setPointerCapture(event.pointerId); this.tooltip.hide(); event.preventDefault(); });
    node.addEventListener("pointermove", (event) => {
      if (!from) return;
      const scale = this.plate.width / this.plate.svg.getBoundingClientRect().width;
      node.setAttribute("transform", `translate(${px((event.clientX - from[0]) * scale)} ${px((event.clientY - from[1]) * scale)})`);
    });
    node.addEventListener("pointerup", (event) => {
      if (!from) return;
      from = null;
      const box = this.plate.svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * this.plate.width;
      this.move(s, Math.floor((x - this.a.label) / this.a.pitch));
    });
    node.addEventListener("pointercancel", () => { from = null; node.removeAttribute("transform"); });
  }

  move(s, expert) {
    this.chips[s] = clamp(expert, 0, this.one.experts - 1);
    this.plate.draw();
    const node = this.plate.marks.find((mark) => mark.dataset.chip === String(s));
    if (node) {
      makeTabStop(this.plate.marks, this.plate.marks.indexOf(node));
      node.focus({ preventScroll: true });
    }
  }

  onKey(event) {
    const chip = event.target.closest?.("[data-chip]");
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!chip || !by || this.mode !== "move") return false;
    event.preventDefault();
    event.stopPropagation();
    this.move(Number(chip.dataset.chip), this.chips[Number(chip.dataset.chip)] + by);
    return true;
  }

  row(g, y, kind, values, top, now, a) {
    const { say } = this;
    const h = 52;
    const base = y + h;
    if (a.wide) this.lines(g, 0, base - 14, say(`row_${kind}`), a.label - 12, { class: "small ink" }, 15);
    else this.text(g, 0, y - 4, say(`row_${kind}`), { class: "small" });
    const from = a.wide ? y : y + 14;
    this.line(g, a.label, base + (a.wide ? 0 : 14), a.x(now.E), base + (a.wide ? 0 : 14), { class: "zero" });
    range(now.E).forEach((e) => {
      const size = Math.max(values[e] ? 1 : 0, (values[e] / top) * (h - 14));
      const thick = Math.min(44, a.pitch * 0.6);
      const x = a.x(e) + (a.pitch - thick) / 2;
      const group = svg("g", { "data-expert": e, class: "one" });
      this.rect(group, x, from + h - size, thick, size, { class: kind === "f" ? "bar" : kind === "P" ? "bar soft" : "bar", rx: 2 });
      this.text(group, x + thick / 2, from + h - size - 4, number(values[e], a.pitch < 52 ? 2 : 3), { class: "tick ink halo", "text-anchor": "middle" });
      this.rect(group, a.x(e), from - 4, a.pitch, h + 8, { class: "hit" });
      this.mark(group, () => [this.expert(e), say("row_tip", { f: number(now.f[e], 3), p: number(now.P[e], 3), product: number(now.product[e], 3) })]);
      if (kind === "P" && this.mode === "push") furnish(group, { role: "button", class: "one mark pickable", onclick: () => { this.lever = e; this.shift = this.one.rest; this.rewire(); this.plate.draw(); } }, []);
      g.append(group);
    });
    return base + (a.wide ? 16 : 34);
  }

  /** Where descending the loss would push each expert's scores: against the slope. */
  arrows(g, y, now, a) {
    const { say } = this;
    const h = 40;
    if (a.wide) this.lines(g, 0, y + 12, say("row_slope"), a.label - 12, { class: "small ink" }, 15);
    else this.text(g, 0, y + 4, say("row_slope"), { class: "small" });
    const middle = (a.wide ? y : y + 14) + h / 2;
    const top = maxOf(now.slope.map(Math.abs)) || 1;
    this.line(g, a.label, middle, a.x(now.E), middle, { class: "gridline" });
    range(now.E).forEach((e) => {
      const push = -now.slope[e];
      const x = a.x(e) + a.pitch / 2;
      const group = svg("g", { class: "slope" });
      if (Math.abs(push) > 5e-4) {
        const size = Math.max(4, (Math.abs(push) / top) * (h / 2 - 2)) * Math.sign(push);
        const tip = middle - size;
        group.append(svg("path", { class: push > 0 ? "pull up" : "pull down", d: `M${px(x)} ${px(middle)}V${px(tip)}M${px(x - 4)} ${px(tip + 4 * Math.sign(push))}L${px(x)} ${px(tip)}L${px(x + 4)} ${px(tip + 4 * Math.sign(push))}` }));
      }
      this.text(group, x, middle + h / 2 + 12, signedNumber(push, 2), { class: "tick", "text-anchor": "middle" });
      this.rect(group, a.x(e), middle - h / 2, a.pitch, h + 14, { class: "hit" });
      this.mark(group, () => [this.expert(e), say("slope_tip", { slope: signedNumber(now.slope[e], 4) })]);
      g.append(group);
    });
    return middle + h / 2 + 20;
  }

  total(g, x, y, w, now) {
    const { say, data, one } = this;
    this.text(g, x, y + 14, "E · Σ f P", { class: "strong" });
    this.text(g, x, y + 46, number(now.value, 3), { class: "big" });
    const at = y + 82;
    const sx = (v) => x + 4 + (Math.min(v, now.E) / now.E) * (w - 8);
    this.line(g, x + 4, at, x + w - 4, at, { class: "zero" });
    for (const [v, key] of [[1, "scale_even"], [now.E, "scale_all"]]) {
      this.line(g, sx(v), at - 6, sx(v), at + 6, { class: "zero" });
      const end = v === now.E;
      this.text(g, end ? x + w : sx(v), at + 22, `${v}`, { class: "tick", "text-anchor": end ? "end" : "middle", "data-strong": true });
      this.text(g, end ? x + w : Math.max(x, sx(v) - 12), at + 38, say(key), { class: "small", "text-anchor": end ? "end" : "start" });
    }
    g.append(svg("circle", { class: "running-end", cx: px(sx(now.value)), cy: px(at), r: 6 }));
    let low = this.lines(g, x, at + 66, say("alpha_line", { alpha: data.alpha, value: number(data.alpha * now.value, 4) }), w, { class: "small" });
    if (one.key === "live") low = this.lines(g, x, low + 6, say("alpha_subset", { n: one.count, tokens: one.names.length }), w, { class: "small" });
    return low;
  }

  sentence() {
    const { say, one, mode } = this;
    const now = this.now;
    const start = { chips: one.expert, f: range(now.E).map((e) => one.expert.filter((c) => c === e).length / one.count) };
    const base = now.E * sum(start.f.map((f, e) => f * one.mean[e]));
    const values = { value: number(now.value, 3), base: number(base, 3), experts: now.E, expert: this.lever + 1, by: signedNumber(one.shifts[this.shift]), moved: this.chips.filter((e, i) => e !== one.expert[i]).length, count: one.count,
      changed: now.chips.filter((e, i) => e !== one.pushed.expert[(this.lever * one.shifts.length + one.rest) * one.count + i]).length };
    if (!this.touched) return say(`balance_${one.key}_rest`, values);
    return say(mode === "push" ? "balance_pushed" : "balance_moved", values);
  }

  sheet() {
    const { say } = this;
    const now = this.now;
    return { head: [say("expert_head"), say("chips_head"), "f", "P", "E f P", say("slope_head")],
      rows: range(now.E).map((e) => [e + 1, now.chips.filter((c) => c === e).length, now.f[e].toFixed(4), now.P[e].toFixed(4), now.product[e].toFixed(4), now.slope[e].toFixed(5)]) };
  }
}

PICTURES.balance = Balance;
