// VG-47, 48, 49: few places. The same router, in the order of position and by priority: who keeps a place?

class VisionPriority extends PatchPicture {
  init() {
    const { data } = this;
    Object.assign(this, { stop: data.start, layer: data.chosen, patch: 0, guess: null, open: data.question === null });
  }

  keep() {
    return { stop: this.stop, layer: this.layer, patch: this.patch, src: this.data.src, guess: this.guess, open: this.open };
  }

  restore(kept) {
    super.restore(kept);
    Object.assign(this, { stop: kept.stop, layer: kept.layer });
    if (kept.src === this.data.src) Object.assign(this, { guess: kept.guess, open: kept.open });
  }

  factor(i) {
    return this.data.factors[i] === null ? "∞" : number(this.data.factors[i]);
  }

  controls() {
    const { say, data } = this;
    this.thumb = this.scrubber({ label: say("factor"), count: data.factors.length, value: this.stop, ends: [this.factor(0), "∞"],
      show: (i) => (data.capacity[i] === null ? say("factor_free") : say("factor_value", { factor: this.factor(i), places: data.capacity[i] })), onMove: (i) => { this.stop = i; this.plate.draw(); } });
    const layer = this.radios({ label: say("layer"), options: data.layers.map((l, i) => [i, l + 1]), value: this.layer, onPick: (i) => { this.layer = i; this.plate.draw(); } });
    this.ask = el("div", { class: "ask" });
    this.wonder();
    return [this.ask, this.thumb.node, layer.node];
  }

  /** Predict first: which of four patches keeps a place under priority? */
  wonder() {
    const { say, data } = this;
    if (!data.question) return this.ask.replaceChildren();
    const letters = data.question.patches.map((patch, i) => [patch, "ABCD"[i]]);
    const right = letters.find(([patch]) => patch === data.question.survivor)[1];
    const reveal = (guess) => { Object.assign(this, { guess, open: true, stop: data.start, layer: data.chosen }); this.plate.build(); this.plate.draw(); };
    const text = this.open ? say(this.guess === null ? "answer_shown" : this.guess === right ? "answer_right" : "answer_wrong", { right, guess: this.guess }) : say("guess");
    const buttons = letters.map(([, letter]) => el("button", { type: "button", class: "option", "aria-pressed": this.guess === letter, onclick: () => reveal(letter) }, say("guess_patch", { letter })));
    const show = this.open ? null : el("button", { type: "button", class: "quiet-button", onclick: () => reveal(null) }, say("guess_show"));
    this.ask.replaceChildren(el("p", { class: "question", "data-open": this.open }, text), el("div", { class: "removals" }, ...buttons, ...(show ? [show] : [])));
  }

  kept(order, patch) {
    return Number(this.data.orders[order].kept[this.stop][this.layer][patch]);
  }

  served(order) {
    return range(this.grid ** 2).filter((i) => this.kept(order, i) > 0).length;
  }

  draw(g, width) {
    const { data, say, grid } = this;
    const { at, size, bottom } = this.places(data.orders.length, width, 30, 50);
    data.orders.forEach((order, o) => {
      const place = at[o];
      const hidden = order.name === "priority" && !this.open;
      this.title(g, ...place, size, say(`order_${order.name}`), hidden ? "" : say("served", { n: this.served(o), all: grid ** 2 }));
      this.photo(g, ...place, size);
      if (hidden) {
        this.rect(g, ...place, size, size, { class: "veil full" });
        this.text(g, place[0] + size / 2, place[1] + size / 2 + 8, "?", { class: "big", "text-anchor": "middle" });
      } else {
        this.cells(g, ...place, size, (i) => [`veil full`, `veil half`, null][Math.min(2, data.k === 1 && this.kept(o, i) ? 2 : this.kept(o, i))]);
        this.surface(g, ...place, size, say(`order_${order.name}`), (i) => [this.where(i), say("tip_kept", { n: this.kept(o, i), k: data.k }), say("tip_score", { score: number(data.score[this.layer][i], 3) })]);
      }
      this.letters(g, ...place, size);
      if (data.classes && !hidden) this.guessed(g, place[0], place[1] + size + 22, size, o);
    });
    return bottom + this.legend(g, bottom - (data.classes ? 4 : 24), width);
  }

  letters(g, x, y, size) {
    const { data, grid } = this;
    if (!data.question) return;
    const step = size / grid;
    data.question.patches.forEach((patch, i) => {
      const [cx, cy] = [x + ((patch % grid) + 0.5) * step, y + (Math.floor(patch / grid) + 0.5) * step];
      g.append(svg("circle", { class: "badge-dot", cx: px(cx), cy: px(cy), r: 10 }));
      this.text(g, cx, cy + 4.5, "ABCD"[i], { class: "badge-letter", "text-anchor": "middle" });
    });
  }

  guessed(g, x, y, size, o) {
    const { data, say } = this;
    const probs = data.classes.probs[o][this.stop];
    const best = probs.indexOf(maxOf(probs));
    const good = best === data.classes.truth;
    this.text(g, x, y, clip(`${good ? "✓" : "✗"} ${say("class_guess", { name: data.classes.names[best], prob: percent(probs[best], 0) })}`, size, this.plate.family, 13, 650), { class: "strong" });
  }

  legend(g, y, width) {
    let x = 0;
    const { say } = this;
    let line = y + 24;
    for (const [kind, key] of [["none", "kept_all"], ["half", "kept_part"], ["full", "kept_none"]]) {
      const label = say(key);
      const room = textWidth(label, 12, 400, this.plate.family) + 48;
      if (x && x + room > width) { x = 0; line += 22; }
      this.rect(g, x, line - 12, 16, 16, { class: "swatch" });
      if (kind !== "none") this.rect(g, x, line - 12, 16, 16, { class: `veil ${kind}` });
      this.text(g, x + 23, line + 1, label, { class: "small" });
      x += room;
    }
    return line - y + (this.data.classes ? 8 : -14);
  }

  sentence() {
    const { data, say, grid } = this;
    if (data.factors[this.stop] === null) return say("priority_free");
    if (!this.open) return say("priority_closed", { factor: this.factor(this.stop), n: this.served(0), all: grid ** 2 });
    const one = range(grid ** 2).filter((i) => this.kept(0, i) > 0 && this.kept(1, i) === 0).length;
    const two = range(grid ** 2).filter((i) => this.kept(1, i) > 0 && this.kept(0, i) === 0).length;
    const values = { factor: this.factor(this.stop), places: data.capacity[this.stop], one, two, layer: data.layers[this.layer] + 1 };
    const said = say("priority_say", values);
    return data.classes ? `${said} ${say("class_truth", { name: data.classes.names[data.classes.truth] })}` : said;
  }

  sheet() {
    const { say, grid, data } = this;
    return { head: [say("row"), say("column"), say("score_head"), ...data.orders.map((o) => say(`order_${o.name}`))],
      rows: range(grid ** 2).map((i) => [Math.floor(i / grid) + 1, (i % grid) + 1, data.score[this.layer][i], ...data.orders.map((o, j) => this.kept(j, i))]) };
  }
}

// VG-49: accuracy over the capacity factor, measured on scenes nobody trained on.
class VisionCurve extends Picture {
  init() {
    this.stop = Math.max(0, this.data.factors.indexOf(0.2));
  }

  keep() {
    return { stop: this.stop };
  }

  restore({ stop }) {
    this.stop = clamp(stop, 0, this.data.factors.length - 1);
  }

  controls() {
    const { say, data } = this;
    this.thumb = this.scrubber({ label: say("factor"), count: data.factors.length, value: this.stop, ends: [data.factors[0], data.factors.at(-1)].map((f) => number(f)),
      show: (i) => number(data.factors[i]), onMove: (i) => { this.stop = i; this.plate.draw(); } });
    return [this.thumb.node];
  }

  draw(g, width) {
    const { data, say } = this;
    const right = width >= 700 ? 150 : 14;
    const [left, top, h] = [46, 34, 240];
    const n = data.factors.length;
    const sx = (i) => left + 12 + (i / (n - 1)) * (width - left - right - 24);
    const high = Math.min(1, Math.ceil(10 * maxOf([data.free.high, ...data.orders.flatMap((o) => o.high)])) / 10);
    const sy = (v) => top + (1 - v / high) * h;
    this.text(g, 0, 14, say("accuracy", { scenes: data.scenes }), { class: "strong" });
    for (let v = 0; v <= high + 1e-9; v += 0.2) {
      this.line(g, left, sy(v), width - right, sy(v), { class: "gridline" });
      this.text(g, left - 8, sy(v) + 4, percent(v, 0), { class: "tick", "text-anchor": "end" });
    }
    data.factors.forEach((f, i) => this.text(g, sx(i), top + h + 20, f, { class: "tick", "text-anchor": "middle", "data-strong": i === this.stop }));
    this.line(g, left, sy(data.chance), width - right, sy(data.chance), { class: "threshold" });
    this.text(g, width - right - 4, sy(data.chance) - 6, say("chance_n", { value: percent(data.chance, 1) }), { class: "small", "text-anchor": "end" });
    this.line(g, left, sy(data.free.accuracy), width - right, sy(data.free.accuracy), { class: "zero" });
    this.text(g, left + 6, sy(data.free.accuracy) - 6, say("unlimited", { value: percent(data.free.accuracy) }), { class: "small" });
    this.line(g, sx(this.stop), top, sx(this.stop), top + h, { class: "rod" });
    const ends = [];
    data.orders.forEach((order, o) => {
      const area = order.high.map((v, i) => `${i ? "L" : "M"}${px(sx(i))} ${px(sy(v))}`).join("") + order.low.map((_, j) => n - 1 - j).map((i) => `L${px(sx(i))} ${px(sy(order.low[i]))}`).join("");
      g.append(svg("path", { class: `order-area o${o}`, d: `${area}z` }));
      g.append(svg("path", { class: `order-line o${o}`, d: order.accuracy.map((v, i) => `${i ? "L" : "M"}${px(sx(i))} ${px(sy(v))}`).join("") }));
      g.append(svg("circle", { class: `order-dot o${o}`, cx: px(sx(this.stop)), cy: px(sy(order.accuracy[this.stop])), r: 5 }));
      ends.push([sy(order.accuracy[this.stop]), o]);
    });
    data.factors.forEach((f, i) => {
      const half = (sx(1) - sx(0)) / 2;
      const stripe = this.rect(g, sx(i) - half, top, 2 * half, h + 26, { class: "hit" });
      this.mark(stripe, () => [`${say("factor")} ${f}`, ...data.orders.map((o) => `${say(`order_${o.name}`)}: ${percent(o.accuracy[i])} (${percent(o.low[i], 0)}–${percent(o.high[i], 0)})`)]);
      furnish(stripe, { class: "hit mark pickable", role: "button", onclick: () => { this.stop = i; this.thumb.set(i); this.plate.draw(); } }, []);
    });
    return this.legend(g, top + h + 46, width);
  }

  legend(g, y, width) {
    const { data, say } = this;
    let [x, line] = [0, y];
    data.orders.forEach((order, o) => {
      const label = `${say(`order_${order.name}`)}  ${percent(order.accuracy[this.stop])}`;
      const room = textWidth(label, 13, 650, this.plate.family) + 56;
      if (x && x + room > width) { x = 0; line += 24; }
      this.line(g, x, line - 4, x + 24, line - 4, { class: `order-line o${o}` });
      this.text(g, x + 32, line, label, { class: "strong" });
      x += room;
    });
    return line + 10;
  }

  sentence() {
    const { data, say, stop } = this;
    const by = Object.fromEntries(data.orders.map((o) => [o.name, percent(o.accuracy[stop])]));
    const first = data.orders.find((o) => o.name === "position");
    return say("curve_say", { factor: number(data.factors[stop]), kept: percent(first.kept[stop], 0), vanilla: by.position, priority: by.priority, random: by.random, free: percent(data.free.accuracy) });
  }

  sheet() {
    const { data, say } = this;
    return { head: [say("factor"), ...data.orders.flatMap((o) => [say(`order_${o.name}`), "2.5 %", "97.5 %"])],
      rows: data.factors.map((f, i) => [f, ...data.orders.flatMap((o) => [o.accuracy[i], o.low[i], o.high[i]])]) };
  }
}

PICTURES.priority = VisionPriority;

PICTURES.keepcurve = VisionCurve;
