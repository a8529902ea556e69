// Part 5: an image as its patches. The picture with its grid, and for each model the experts of
// one head, all heads in small, and the number of distinct experts per patch.

const CELL = 10; // patch size in the maps' own units
const SCALE_STEPS = 10;

class Maps {
  constructor(explorer) {
    this.explorer = explorer;
    this.node = el("div", { class: "maps" });
    this.head = 0;
    this.panels = [];
  }

  build(data) {
    const { rows, cols } = data.image;
    Object.assign(this, { rows, cols, count: rows * cols, cursors: [] });
    this.panels = data.models.map((model, m) => this.buildPanel(model, m));
    this.aside = el("div", { class: "aside panel" }); // the explorer puts its controls here
    this.node.replaceChildren(this.buildPicture(data), this.aside, ...this.panels.map((p) => p.node));
    this.node.style.setProperty("--models", data.models.length);
  }

  // ── building ────────────────────────────────────────────────────────────────────────────

  buildPicture(data) {
    const { say } = this.explorer;
    const patches = this.patches((i) => ({ class: "patch", "data-patch": i }));
    const lines = range(this.rows - 1).map((r) => `M0 ${(r + 1) * CELL}h${this.cols * CELL}`)
      .concat(range(this.cols - 1).map((c) => `M${(c + 1) * CELL} 0v${this.rows * CELL}`)).join("");
    this.grid = this.board(svg("path", { class: "gridlines", d: lines }), patches);
    furnish(this.grid, { tabindex: 0, role: "group", "aria-roledescription": say("grid_role"),
      onkeydown: (event) => this.onKey(event) }, []);
    this.grid.prepend(this.image(data.image.src));
    this.onBoard(this.grid, () => null);
    this.where = el("span", { class: "quiet" });
    return el("div", { class: "picture panel" },
      el("header", {}, el("strong", {}, say("picture")), this.where), this.grid);
  }

  /** Every expert once: to read the colours, and to light all patches of one expert. */
  buildKey() {
    const { explorer } = this;
    const { say } = explorer;
    const experts = Math.max(...explorer.data.models.map((model) => model.experts));
    const keys = range(experts).map((expert) => el("button", { type: "button", class: "key", tabindex: expert ? -1 : 0,
      "aria-label": say("expert", { expert: expert + 1 }), "aria-pressed": false,
      onclick: () => pin(explorer.pinned === expert ? null : expert),
      onpointerenter: () => explorer.light(new Set([expert])), onpointerleave: () => explorer.light(null) },
    chip({ expert, dropped: false })));
    const pin = (expert) => {
      explorer.pinned = expert;
      keys.forEach((key, e) => put(key, "aria-pressed", e === expert));
      explorer.light(null);
    };
    return el("div", { class: "field keys" }, el("span", { class: "label", "aria-hidden": "true" }, say("col_experts")),
      el("div", { class: "numbers", role: "group", "aria-label": say("col_experts"),
        onkeydown: (event) => rove(keys, LINE_KEYS, event, (at) => makeTabStop(keys, at)) }, ...keys));
  }

  image(src) {
    const safe = /^data:image\/(jpeg|png|webp);base64,/.test(src) ? src : "";
    return svg("image", { href: safe, width: this.cols * CELL, height: this.rows * CELL, preserveAspectRatio: "none" });
  }

  buildPanel(model, m) {
    const { say } = this.explorer;
    const panel = { model, reading: el("span", { class: "reading" }), small: [], caption: el("span", { class: "save-only quiet" }) };
    panel.cells = this.patches((i) => ({ class: "tint", "data-model": m, "data-patch": i }));
    panel.digits = range(this.count).map((i) => svg("text", { class: "digit",
      x: (i % this.cols) * CELL + CELL / 2, y: Math.floor(i / this.cols) * CELL + CELL / 2 }));
    panel.map = this.board(panel.cells, panel.digits);
    panel.mapTitle = el("strong");
    panel.amounts = this.patches((i) => ({ class: "amount", "data-patch": i }));
    panel.distinct = this.board(panel.amounts);
    this.onBoard(panel.map, () => m);
    this.onBoard(panel.distinct, () => m, true);
    const tiles = [
      this.tile(panel.mapTitle, m ? say("first_choice") : explained(this.explorer.tooltip, el("span", {}, say("first_choice")), say("define_first-choice")), panel.map, model.heads > 1 ? this.headPicker(panel, model) : null),
      this.tile(el("strong", {}, say("distinct")), null, panel.distinct, this.colourBar(panel)),
      model.heads > 1 ? this.heads(panel, model, m) : el("p", { class: "tile quiet aside-note" }, say("map_note_one", { k: model.k })),
    ];
    panel.node = el("section", { class: "panel", "data-model": m, "aria-label": model.name },
      el("header", {}, el("strong", { class: "name" }, model.name), model.badge ? el("span", { class: "badge" }, model.badge) : null,
        panel.reading, model.note ? el("span", { class: "note" }, model.note) : null, panel.caption),
      el("div", { class: "tiles" }, ...tiles),
      this.explorer.saveButtons(() => panel.node, () => this.explorer.pictureName(m), model.name));
    return panel;
  }

  tile(title, aside, board, foot) {
    return el("div", { class: "tile" }, el("header", {}, title, aside ? el("span", { class: "quiet" }, aside) : null), board, foot);
  }

  headPicker(panel, model) {
    const { say } = this.explorer;
    panel.picker = new NumberPicker({ label: say("head"), count: model.heads,
      name: (h) => say("head_n", { head: h + 1 }), onPick: (h) => this.pickHead(h) });
    return panel.picker.node;
  }

  /** The small maps: an overview, and a pointer's way to choose the head (the picker is the keyboard's). */
  heads(panel, model, m) {
    const { say } = this.explorer;
    panel.small = range(model.heads).map((h) => {
      const cells = svg("g");
      const board = this.board(cells);
      return { h, cells, node: el("div", { class: "small-map", onclick: () => this.pickHead(h) },
        board, el("span", { class: "quiet" }, say("head_n", { head: h + 1 }))) };
    });
    return el("div", { class: "tile heads", "data-model": m, "aria-hidden": "true" },
      el("header", {}, el("strong", {}, say("all_heads"))),
      el("div", { class: "small-maps" }, ...panel.small.map((s) => s.node)));
  }

  colourBar(panel) {
    const { say } = this.explorer;
    // One scale for all models, so that the same colour is the same number.
    panel.most = Math.max(2, ...this.explorer.data.models.map((one) => Math.min(one.experts, one.heads * one.k)));
    const stops = range(SCALE_STEPS).map((i) => el("i", { "--seq": `var(--seq-${i})` }));
    panel.chance = el("span", { class: "quiet chance" });
    return el("div", { class: "legend" }, el("div", { class: "colourbar" }, el("span", {}, "1"),
      el("span", { class: "stops", "aria-hidden": "true" }, ...stops), el("span", {}, String(panel.most))), panel.chance);
  }

  board(...content) {
    const cursor = svg("g", { class: "cursor" }, ...range(2).map(() => svg("rect", { x: 0.7, y: 0.7, width: CELL - 1.4, height: CELL - 1.4 })));
    this.cursors.push(cursor);
    return svg("svg", { class: "board", viewBox: `0 0 ${this.cols * CELL} ${this.rows * CELL}`, "--ratio": this.cols / this.rows },
      ...content.flat(), cursor);
  }

  patches(attributes) {
    return range(this.count).map((i) => svg("rect", { ...attributes(i),
      x: (i % this.cols) * CELL, y: Math.floor(i / this.cols) * CELL, width: CELL, height: CELL }));
  }

  // ── pointing ────────────────────────────────────────────────────────────────────────────

  /** Click chooses, hover tells: one listener per board finds the patch under the pointer. */
  onBoard(board, modelOf, counts = false) {
    const { explorer } = this;
    const patchOf = (event) => Number(event?.target?.dataset?.patch ?? explorer.selection.token);
    board.addEventListener("click", (event) => {
      if (event.target.dataset.patch === undefined) return;
      const model = modelOf();
      explorer.pickAndShow(model === null ? { token: patchOf(event) } : { model, token: patchOf(event) });
    });
    board.addEventListener("pointerover", (event) => {
      const { layer, outcome, model } = explorer.selection;
      const m = modelOf() ?? model;
      if (event.target.dataset.patch !== undefined) explorer.stage.light(explorer.choices[m].experts(outcome, layer, patchOf(event)));
    });
    board.addEventListener("pointerleave", () => explorer.stage.light(null));
    explorer.tooltip.describe(board, (event) => this.lines(patchOf(event), modelOf(), counts));
  }

  lines(patch, m, counts) {
    const { explorer } = this;
    const title = this.name(patch);
    const models = m === null ? range(this.panels.length) : [m];
    return models.flatMap((one) => choiceLines(explorer, one, patch, title)
      .concat(counts ? [explorer.say("distinct_n", { n: this.distinctOf(one, patch) })] : []));
  }

  name(patch) {
    return this.explorer.say("patch", { row: Math.floor(patch / this.cols) + 1, col: (patch % this.cols) + 1 });
  }

  distinctOf(m, patch) {
    const { layer, outcome } = this.explorer.selection;
    return this.explorer.choices[m].experts(outcome, layer, patch).size;
  }

  /** Arrow keys move the choice, and the message waits until the fingers rest; Enter goes to see it. */
  onKey(event) {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      return this.explorer.stage.reveal();
    }
    const { token } = this.explorer.selection;
    const [row, col] = [Math.floor(token / this.cols), token % this.cols];
    const moves = { ArrowUp: [row - 1, col], ArrowDown: [row + 1, col], ArrowLeft: [row, col - 1], ArrowRight: [row, col + 1],
      Home: [row, 0], End: [row, this.cols - 1] };
    const to = moves[event.key];
    if (!to || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    const patch = clamp(to[0], 0, this.rows - 1) * this.cols + clamp(to[1], 0, this.cols - 1);
    if (patch !== token) this.explorer.pick({ token: patch }, true);
  }

  pickHead(head) {
    this.head = head;
    this.show();
  }

  // ── showing ─────────────────────────────────────────────────────────────────────────────

  show() {
    const { explorer } = this;
    const { token } = explorer.selection;
    const [x, y] = [(token % this.cols) * CELL, Math.floor(token / this.cols) * CELL];
    this.cursors.forEach((cursor) => put(cursor, "transform", `translate(${x} ${y})`));
    put(this.grid, "aria-label", `${explorer.say("grid_label", { rows: this.rows, cols: this.cols })}. ${this.name(token)}`);
    write(this.where, this.name(token));
    this.panels.forEach((panel, m) => this.showPanel(panel, m));
  }

  showPanel(panel, m) {
    const { explorer } = this;
    const { layer, outcome } = explorer.selection;
    const choices = explorer.choices[m];
    const head = clamp(this.head, 0, choices.heads - 1);
    write(panel.reading, explorer.reading(m));
    write(panel.caption, explorer.place());
    write(panel.mapTitle, explorer.say(choices.heads > 1 ? "map_title" : "map_title_one",
      { head: head + 1, layer: explorer.layerNumber(layer) }));
    panel.picker?.show(head);
    for (let i = 0; i < this.count; i++) {
      const choice = choices.at(outcome, layer, i, head, 0);
      const cell = panel.cells[i];
      put(cell, "data-head", head);
      put(cell, "data-expert", choice ? choice.expert : "");
      put(cell, "data-dropped", choice ? choice.dropped : false);
      put(panel.digits[i], "data-expert", choice ? choice.expert : "");
      put(panel.digits[i], "data-dropped", choice ? choice.dropped : false);
      write(panel.digits[i], choice ? String(choice.expert + 1) : "");
      const n = choices.experts(outcome, layer, i).size;
      put(panel.amounts[i], "data-distinct", n);
      put(panel.amounts[i], "data-level", Math.round(((n - 1) / (panel.most - 1)) * (SCALE_STEPS - 1)));
    }
    panel.small.forEach(({ h, cells, node }) => {
      put(node, "data-chosen", h === head);
      this.paintSmall(cells, choices, layer, outcome, h);
    });
    this.showChance(panel, m);
  }

  /** A small map is one path per expert: nothing in it needs a hand of its own. */
  paintSmall(group, choices, layer, outcome, head) {
    const paths = new Map();
    for (let i = 0; i < this.count; i++) {
      const choice = choices.at(outcome, layer, i, head, 0);
      if (!choice) continue;
      const key = `${choice.expert} ${choice.dropped}`;
      const [x, y] = [(i % this.cols) * CELL, Math.floor(i / this.cols) * CELL];
      paths.set(key, `${paths.get(key) ?? ""}M${x} ${y}h${CELL}v${CELL}h-${CELL}z`);
    }
    group.replaceChildren(...[...paths].map(([key, d]) => {
      const [expert, dropped] = key.split(" ");
      return svg("path", { class: "tint", d, "data-expert": expert, "data-dropped": dropped });
    }));
  }

  showChance(panel, m) {
    const { explorer } = this;
    const reading = panel.model.readings?.[explorer.selection.outcome] ?? {};
    const mean = sum(range(this.count).map((i) => Number(panel.amounts[i].dataset.distinct))) / this.count;
    write(panel.chance, explorer.say(reading.chance ? "distinct_mean_chance" : "distinct_mean",
      { mean: number(mean, 1), chance: reading.chance ?? "", experts: reading.open ?? panel.model.experts, model: m + 1 }));
  }

  /** Digits keep 12 px on screen whatever the size of the map, and hide in cells too small for them. */
  fit() {
    const sizes = this.panels.map(({ map, model }) => [map, map.clientWidth / this.cols, model.experts]);
    for (const [map, cell, experts] of sizes) {
      if (!cell) continue;
      map.style.setProperty("--digit", `${px((clamp(cell * 0.62, 12, 15) / cell) * CELL)}px`);
      put(map, "data-digits", cell >= (experts > 9 ? 17 : 13.5));
    }
  }
}
