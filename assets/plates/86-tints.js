// VG-46: every patch tinted by its expert, per layer and per head; how many experts a patch meets.

class VisionTints extends PatchPicture {
  init() {
    const { data } = this;
    Object.assign(this, { model: 0, layer: data.models[0].layers.length - 1, head: 0, lit: null });
    this.patch = Math.floor(data.grid / 2) * data.grid + Math.floor(data.grid / 2);
    this.read = data.models.map((m) => m.layers.map((l) => ({ first: bytesOf(l.first), distinct: bytesOf(l.distinct), probs: levelsOf(l.probs), chosen: bytesOf(l.chosen), top: l.top })));
  }

  get now() {
    return this.data.models[this.model];
  }

  get layerNow() {
    return this.read[this.model][this.layer];
  }

  keep() {
    return { patch: this.patch, model: this.model, layer: this.layer, head: this.head };
  }

  restore(kept) {
    super.restore(kept);
    Object.assign(this, { model: kept.model ?? 0, layer: kept.layer ?? this.layer, head: kept.head ?? 0 });
  }

  controls() {
    const { say, data } = this;
    const again = () => { this.heads.node.hidden = this.now.heads === 1; this.plate.draw(); };
    const model = this.radios({ label: say("model"), options: data.models.map((m, i) => [i, m.name]), value: this.model,
      onPick: (m) => { this.model = m; this.head = Math.min(this.head, this.now.heads - 1); this.heads.set(this.head); again(); } });
    const layer = this.radios({ label: say("layer"), options: this.now.layers.map((l, i) => [i, l.layer + 1]), value: this.layer, onPick: (i) => { this.layer = i; again(); } });
    this.heads = this.radios({ label: say("head"), options: range(data.models[0].heads).map((h) => [h, h + 1]), value: this.head, onPick: (h) => { this.head = h; again(); } });
    this.heads.node.hidden = this.now.heads === 1;
    return [model.node, layer.node, this.heads.node];
  }

  expertOf(patch, head = this.head) {
    return this.layerNow.first[patch * this.now.heads + head];
  }

  probsOf(patch, head) {
    const at = (patch * this.now.heads + head) * this.now.experts;
    return [...this.layerNow.probs.subarray(at, at + this.now.experts)].map((v) => (v / 63) * this.layerNow.top);
  }

  draw(g, width) {
    const { data, say, grid, now } = this;
    const { at, size, bottom } = this.places(3, width, 30, width >= 700 ? 56 : 70);
    const [one, two, three] = at;
    const step = size / grid;
    this.title(g, ...one, size, say("patches_picture"), this.where(this.patch));
    this.photo(g, ...one, size);
    this.gridlines(g, ...one, size);
    const place = now.heads > 1 ? say("head_layer", { head: this.head + 1, layer: now.layers[this.layer].layer + 1 }) : say("layer_n", { layer: now.layers[this.layer].layer + 1 });
    this.title(g, ...two, size, place, say("first_choice"));
    this.photo(g, ...two, size);
    range(grid ** 2).forEach((i) => {
      const e = this.expertOf(i);
      const dim = this.lit !== null && this.lit !== e;
      const [x, y] = [two[0] + (i % grid) * step, two[1] + Math.floor(i / grid) * step];
      const cell = svg("g", { "data-expert": e });
      this.rect(cell, x + 0.5, y + 0.5, step - 1, step - 1, { class: "bar tinted", rx: 2, "data-dim": dim });
      if (step >= 15 && !dim) this.text(cell, x + step / 2, y + step / 2 + 4, e + 1, { class: "on", "text-anchor": "middle" });
      g.append(cell);
    });
    this.title(g, ...three, size, say("distinct"), now.heads > 1 ? say("by_chance", { chance: number(now.chance, 1) }) : "");
    const [low, high] = [now.k, Math.min(now.experts, now.k * now.heads)];
    this.cells(g, ...three, size, (i) => `shade s${high > low ? Math.round((9 * (this.layerNow.distinct[i] - low)) / (high - low)) : 0}`);
    if (high > low) this.scale(g, three[0], three[1] + size + 10, size, `${low}`, `${high}`);
    else this.text(g, three[0], three[1] + size + 20, say("always", { k: now.k }), { class: "small" });
    this.key(g, two[0], two[1] + size + 8, size);
    for (const p of at) {
      this.ring(g, ...p, size, this.patch);
      this.surface(g, ...p, size, say("distinct"), (i) => [this.where(i), ...range(now.heads).map((h) => el("div", { class: "tip-row" }, now.heads > 1 ? el("span", { class: "quiet" }, say("head_n", { head: h + 1 })) : null, chipOf(this.expertOf(i, h)))),
        say("tip_distinct", { n: this.layerNow.distinct[i] })]);
    }
    return this.gallery(g, this.chosenBars(g, bottom + 4, width), width);
  }

  /** Every expert once: point or click to see its patches alone. */
  key(g, x, y, size) {
    const n = this.now.experts;
    const cell = Math.min(32, size / n);
    range(n).forEach((e) => {
      const one = svg("g", { "data-expert": e, class: "one" });
      this.rect(one, x + e * cell + 1, y, cell - 3, 26, { class: "bar", rx: 5, "data-faded": this.lit !== null && this.lit !== e });
      this.text(one, x + e * cell + cell / 2 - 0.5, y + 18, e + 1, { class: this.lit !== null && this.lit !== e ? "ink" : "on", "text-anchor": "middle" });
      const count = range(this.grid ** 2).filter((i) => this.expertOf(i) === e).length;
      this.mark(one, () => [this.expert(e), this.say("tip_takes", { n: count, all: this.grid ** 2 })]);
      furnish(one, { role: "button", "aria-pressed": this.lit === e, class: "mark one pickable", onclick: () => { this.lit = this.lit === e ? null : e; this.plate.draw(); } }, []);
      g.append(one);
    });
  }

  chosenBars(g, y, width) {
    const { say, now } = this;
    this.text(g, 0, y + 14, say("chosen_patch"), { class: "strong" });
    this.text(g, textWidth(say("chosen_patch"), 13, 650, this.plate.family) + 14, y + 14, this.where(this.patch), { class: "small" });
    const all = range(now.heads).map((h) => this.probsOf(this.patch, h));
    const columns = width >= 700 ? now.heads : Math.min(2, now.heads);
    const w = Math.min(300, (width - 24 * (columns - 1)) / columns);
    const h = 64;
    const top = maxOf(all.flat());
    all.forEach((values, i) => {
      const x = (i % columns) * ((width - w) / Math.max(1, columns - 1) || 0);
      const line = y + 44 + Math.floor(i / columns) * (h + 56);
      if (now.heads > 1) this.text(g, x, line - 8, say("subtoken_n", { head: i + 1 }), { class: "small" });
      const s = (this.patch * now.heads + i) * now.k;
      const chosen = [...this.layerNow.chosen.subarray(s, s + now.k)];
      this.bars(g, { x, y: line + 10, width: w, height: h, values, low: 0, high: top, chosen, faded: (e) => !chosen.includes(e), even: 1 / now.experts, tip: (e) => [this.expert(e), say("tip_prob", { prob: number(values[e]) })] });
    });
    return y + 44 + Math.ceil(now.heads / columns) * (h + 56) - 10;
  }

  /** The patches of one expert in this picture, from the surest on. */
  gallery(g, y, width) {
    const { data, say, grid } = this;
    const e = this.lit ?? this.expertOf(this.patch);
    const mine = range(grid ** 2).filter((i) => this.expertOf(i) === e).sort((a, b) => this.probsOf(b, this.head)[e] - this.probsOf(a, this.head)[e]);
    const cell = 34;
    const shown = mine.slice(0, Math.max(8, Math.floor(width / cell)) * (width < 700 ? 2 : 1));
    const across = Math.floor(width / cell);
    this.text(g, 0, y + 14, say("gallery", { expert: e + 1, n: mine.length, shown: shown.length }), { class: "strong" });
    shown.forEach((i, j) => this.crop(g, data.src, i, grid, grid, (j % across) * cell, y + 26 + Math.floor(j / across) * cell, cell - 3));
    return y + 30 + Math.ceil(shown.length / across) * cell;
  }

  sentence() {
    const { say, now, grid } = this;
    const [alike, chance] = now.alike[this.layer][this.head];
    const { distinct } = this.layerNow;
    const values = { alike: percent(alike, 0), chance: percent(chance, 0), mean: number(sum([...distinct]) / grid ** 2), even: number(now.chance), n: distinct[this.patch] };
    return say(now.heads > 1 ? "tints_say" : "tints_say_plain", values);
  }

  sheet() {
    const { say, grid, now } = this;
    return { head: [say("row"), say("column"), ...range(now.heads).map((h) => `${say("expert_head")} ${h + 1}`), say("distinct")],
      rows: range(grid ** 2).map((i) => [Math.floor(i / grid) + 1, (i % grid) + 1, ...range(now.heads).map((h) => this.expertOf(i, h) + 1), this.layerNow.distinct[i]]) };
  }
}

PICTURES.tints = VisionTints;
