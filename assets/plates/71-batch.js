// VG-54: how many distinct experts the first n tokens touch together. First a guess.

class Batch extends Picture {
  init() {
    this.model = this.data.model;
    this.guess = Math.round(this.now.units / 2);
    this.open = false; // the answer
    this.n = 1;
  }

  get now() {
    return this.data.models[this.model];
  }

  get same() {
    return JSON.stringify([this.data.models.map((m) => m.first), this.data.ask]);
  }

  keep() {
    return { same: this.same, from: this.data.model, model: this.model, guess: this.guess, open: this.open, n: this.n };
  }

  restore({ same, from, model, guess, open, n }) {
    if (from === this.data.model) this.model = model;
    if (same === this.same) Object.assign(this, { guess, open, n });
  }

  controls() {
    const { data, say } = this;
    this.question = el("p", { class: "question" });
    this.which = this.radios({ label: say("model"), options: data.models.map((m, i) => [i, m.name]), value: this.model, onPick: (i) => { this.model = Number(i); this.repaint(); this.plate.draw(); } });
    this.wish = this.scrubber({ label: say("guess_label"), count: this.now.units, value: this.guess - 1, ends: ["1", String(this.now.units)],
      show: (i) => say("guess_value", { n: i + 1, units: this.now.units }), onMove: (i) => { this.guess = i + 1; this.plate.draw(); } });
    this.button = el("button", { type: "button", class: "option reveal", onclick: () => this.reveal() }, say("reveal"));
    this.bet = el("div", { class: "bet" }, this.wish.node, this.button);
    this.thumb = this.scrubber({ label: say("batch_label"), count: data.tokens.length, value: this.n - 1, ends: ["1", String(data.tokens.length)],
      show: (i) => say(i ? "batch_value" : "batch_one", { n: i + 1 }), onMove: (i) => { this.n = i + 1; this.plate.draw(); } });
    this.repaint();
    return [el("div", { class: "ask grow-all" }, this.question, this.bet), this.which.node, this.thumb.node];
  }

  reveal() {
    this.open = true;
    this.n = this.data.ask;
    this.thumb.set(this.n - 1);
    this.repaint();
    this.plate.draw();
    this.thumb.input.focus({ preventScroll: true });
  }

  repaint() {
    const { data, say } = this;
    const now = this.now;
    const found = now.touched[data.ask - 1];
    write(this.question, this.open ? say(this.guess === found ? "guess_right" : "guess_wrong", { n: data.ask, guess: this.guess, found, units: now.units, share: percent(found / now.units, 0), chance: number(now.chance[data.ask - 1], 1), model: now.name })
      : say("guess", { n: data.ask, units: now.units, layers: now.first.length, experts: now.experts, model: now.name, one: now.touched[0] }));
    put(this.question, "data-open", !this.open);
    this.bet.hidden = this.open;
    for (const node of [this.which.node, this.thumb.node]) node.hidden = !this.open;
  }

  draw(g, width) {
    const wide = width >= 720;
    const left = wide ? width * 0.46 : width;
    const bottom = this.board(g, left);
    return Math.max(bottom, this.graph(g, wide ? left + 52 : 0, wide ? 0 : bottom + 26, wide ? width - left - 52 : width));
  }

  /** All experts of all layers; those lit that one of the first n tokens has touched. */
  board(g, width) {
    const { data, say, n } = this;
    const now = this.now;
    this.text(g, 0, 18, say(n > 1 ? "board_title" : "board_title_one", { n, found: now.touched[n - 1], units: now.units }), { class: "strong" });
    const label = 58;
    const pitch = Math.min(52, (width - label) / now.experts);
    const height = 40;
    now.first.forEach((row, layer) => {
      const y = 34 + layer * height;
      this.text(g, 0, y + 22, say("layer_n", { layer: layer + 1 }), { class: "tick" });
      row.forEach((first, e) => {
        const lit = first < n;
        const tile = svg("g", { "data-expert": e, "data-idle": !lit });
        this.rect(tile, label + e * pitch + 2, y + 2, pitch - 4, height - 6, { class: lit ? "bar" : "idle", rx: 4 });
        this.text(tile, label + (e + 0.5) * pitch, y + 23, e + 1, { class: lit ? "on" : "small", "text-anchor": "middle" });
        if (lit && first === n - 1 && n > 1) this.rect(tile, label + e * pitch + 0.5, y + 0.5, pitch - 1, height - 3, { class: "ring", rx: 5 });
        this.mark(tile, () => [say("expert_in", { expert: e + 1, layer: layer + 1 }),
          !this.open && first >= n ? say("tip_wait") : first < data.tokens.length ? say("tip_first", { token: data.tokens[first], n: first + 1 }) : say("tip_never")]);
        g.append(tile);
      });
    });
    return 34 + now.first.length * height + 4;
  }

  /** Share touched against n, on a doubling axis; the other model and blind drawing beside it. */
  graph(g, x, y, width) {
    const { data, say, n, open } = this;
    const now = this.now;
    const T = data.tokens.length;
    const [top, h, gutter] = [y + 34, 128, 40];
    const room = width - gutter - 8;
    const sx = (i) => x + gutter + (T > 1 ? (Math.log2(i) / Math.log2(T)) * room : room / 2);
    const sy = (share) => top + (1 - share) * h;
    this.text(g, x, y + 18, say("graph_touched"), { class: "strong" });
    for (const share of [0, 0.5, 1]) {
      this.line(g, x + gutter, sy(share), x + gutter + room, sy(share), { class: share ? "gridline" : "zero" });
      this.text(g, x + gutter - 8, sy(share) + 4, percent(share, 0), { class: "tick", "text-anchor": "end" });
    }
    const ticks = range(Math.floor(Math.log2(T)) + 1).map((i) => 2 ** i).filter((_, i, all) => room / all.length > 26 || i % 2 === 0);
    for (const i of ticks) this.text(g, sx(i), top + h + 18, i, { class: "tick", "text-anchor": "middle", "data-strong": i === n });
    this.text(g, x + gutter + room / 2, top + h + 36, say("graph_tokens"), { class: "small", "text-anchor": "middle" });
    if (!open) {
      this.line(g, sx(data.ask), sy(0), sx(data.ask), sy(this.guess / now.units), { class: "rod" });
      g.append(svg("circle", { class: "running-end", cx: px(sx(data.ask)), cy: px(sy(this.guess / now.units)), r: 6 }));
      this.text(g, sx(data.ask) - 12, sy(this.guess / now.units) + 5, "?", { class: "big", "text-anchor": "end" });
      this.text(g, sx(1), sy(now.touched[0] / now.units) - 10, percent(now.touched[0] / now.units, 0), { class: "tick ink halo", "text-anchor": "start" });
      g.append(svg("circle", { class: "dot", cx: px(sx(1)), cy: px(sy(now.touched[0] / now.units)), r: 4 }));
      return top + h + 44;
    }
    const path = (values, units) => values.map((v, i) => `${i ? "L" : "M"}${px(sx(i + 1))} ${px(sy(v / units))}`).join("");
    const other = data.models[1 - this.model];
    g.append(svg("path", { class: "curve ghost", d: path(now.chance, now.units) }));
    g.append(svg("path", { class: "curve other", d: path(other.touched, other.units) }));
    g.append(svg("path", { class: "curve", d: path(now.touched, now.units) }));
    const here = now.touched[n - 1] / now.units;
    g.append(svg("circle", { class: "running-end", cx: px(sx(n)), cy: px(sy(here)), r: 6 }));
    this.text(g, clamp(sx(n), x + gutter + 24, x + gutter + room - 24), sy(here) + (here > 0.5 ? 24 : -12), percent(here, 0), { class: "tick ink halo", "data-strong": true, "text-anchor": "middle" });
    return this.legend(g, x, top + h + 58, [["curve", now.name], ["curve other", other.name], ["curve ghost", say("blind")]]);
  }

  legend(g, x, y, entries) {
    let at = x;
    for (const [kind, text] of entries) {
      this.line(g, at, y - 4, at + 20, y - 4, { class: kind });
      this.text(g, at + 26, y, text, { class: "small" });
      at += 26 + textWidth(text, 12, 400, this.plate.family) + 20;
    }
    return y + 6;
  }

  sentence() {
    const { data, say, n, open } = this;
    if (!open) return say("batch_wait");
    const now = this.now;
    const full = now.touched.findIndex((v) => v === now.touched.at(-1)) + 1;
    const values = { n, found: now.touched[n - 1], units: now.units, share: percent(now.touched[n - 1] / now.units, 0), chance: number(now.chance[n - 1], 1), model: now.name, full, most: now.touched.at(-1), all: data.tokens.length };
    const first = say(n > 1 ? "batch_say" : "batch_say_one", values);
    if (n === values.all && values.most < now.units) return first;
    return say("joined", { first, second: say(now.touched.at(-1) === now.units ? "batch_full" : "batch_rest", values) });
  }

  sheet() {
    const { data, say } = this;
    return { head: [say("tokens_head"), say("token"), ...data.models.flatMap((m) => [say("touched_head", { model: m.name }), say("chance_head", { model: m.name })])],
      rows: data.tokens.map((token, i) => [i + 1, token, ...data.models.flatMap((m) => [this.open || i === 0 ? m.touched[i] : "", m.chance[i]])]) };
  }
}

PICTURES.batch = Batch;
