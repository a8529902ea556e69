// Part 4: the token strips. One row block per model, one card per word, one chip per sub-token.

/** A rounded square in the expert's colour, with its number; hollow and struck when dropped. */
function chip(choice, data = {}) {
  const node = el("span", { class: "chip", ...data });
  paintChip(node, choice);
  return node;
}

function paintChip(node, choice) {
  put(node, "data-expert", choice ? choice.expert : "");
  put(node, "data-dropped", choice ? choice.dropped : false);
  write(node, choice ? String(choice.expert + 1) : "·");
}

class Strips {
  constructor(explorer) {
    this.explorer = explorer;
    this.node = el("div", { class: "strips" });
    this.rows = [];
  }

  build(data) {
    this.rows = data.models.map((model, m) => this.buildRow(data, model, m));
    this.watcher?.disconnect();
    this.watcher = new ResizeObserver(() => this.fit());
    this.rows.forEach((row) => this.watcher.observe(row.flow));
    this.caption = el("p", { class: "save-only quiet" });
    this.node.replaceChildren(this.caption, ...this.rows.map((row) => row.node));
    this.save = this.explorer.saveButtons(() => this.node, () => this.explorer.pictureName(), data.models.map((m) => m.name).join(", "));
    this.node.style.setProperty("--models", data.models.length);
  }

  buildRow(data, model, m) {
    const { explorer } = this;
    const row = { model, tokens: [], cards: [], reading: el("span") };
    row.measure = explained(explorer.tooltip, el("span", { class: "reading" }, row.reading), explorer.say("define_bits-per-byte"));
    const words = data.text.words.map((word, w) => this.buildWord(row, word, w, m));
    const flow = el("div", { class: "words", role: "group",
      "aria-label": explorer.say("strip_label", { model: model.name }), onscroll: () => explorer.later(`cut ${m}`, () => this.showCut(row)),
      onkeydown: (event) => rove(row.tokens, LINE_KEYS, event) }, ...words);
    row.more = el("button", { type: "button", class: "more", "aria-expanded": "false", hidden: "", onclick: () => this.unfold(row) });
    const badge = model.badge ? el("span", { class: "badge" }, model.badge) : null;
    const note = model.note ? el("span", { class: "note" }, model.note) : null;
    row.node = el("section", { class: "row", "data-model": m },
      el("div", { class: "who" }, el("strong", {}, model.name), badge, row.measure, note), el("div", { class: "strip" }, flow, row.more));
    row.flow = flow;
    return row;
  }

  /** A word of one token is one button; a longer one is a card with a bracketed button per token. */
  buildWord(row, word, w, m) {
    const { data } = this.explorer;
    const several = word.tokens.length > 1;
    const pieces = this.pieces(word, data.text.tokens);
    const text = el("bdi", { class: "text" }, ...pieces);
    if (!several) {
      const button = this.buildToken(row, word.tokens[0], m, w, word.text);
      button.classList.add("word");
      button.prepend(text);
      row.cards.push(button);
      return button;
    }
    const buttons = word.tokens.map((token) => this.buildToken(row, token, m, w, data.text.tokens[token].text));
    const card = el("div", { class: "word several", "data-word": w, role: "group", "aria-label": word.text },
      text, el("span", { class: "brackets" }, ...buttons));
    text.addEventListener("click", () => this.explorer.pickAndShow({ model: m, token: word.tokens[0] }));
    row.cards.push(card);
    return card;
  }

  /** The word's text cut at its tokens, so that a bracket can point at its piece. */
  pieces(word, tokens) {
    const parts = word.tokens.map((token) => tokens[token].text);
    if (word.tokens.length < 2 || parts.join("") !== word.text) return [word.text];
    return parts.map((part, i) => el("span", { class: "piece", "data-piece": word.tokens[i] }, part));
  }

  buildToken(row, token, m, w, text) {
    const { explorer } = this;
    const chips = range(row.model.heads).map((head) =>
      el("span", { class: "chip", "data-model": m, "data-token": token, "data-head": head }));
    const button = el("button", { type: "button", class: "token", tabindex: -1, "data-token": token, "data-word": w,
      onclick: () => explorer.pickAndShow({ model: m, token }),
      onpointerenter: () => this.hover(token, m, true), onpointerleave: () => this.hover(token, m, false),
      onfocus: () => this.hover(token, m, true), onblur: () => this.hover(token, m, false) },
    el("span", { class: "chips" }, ...chips));
    explorer.tooltip.describe(button, () => choiceLines(explorer, m, token, text));
    row.tokens[token] = button;
    button.chips = chips;
    button.spoken = text;
    return button;
  }

  /** Colours of the current layer and outcome, and which token is the selected one. */
  show() {
    const { explorer } = this;
    const { layer, outcome, token, model } = explorer.selection;
    write(this.caption, explorer.place());
    this.rows.forEach((row, m) => {
      const choices = explorer.choices[m];
      write(row.reading, explorer.reading(m));
      row.measure.hidden = !row.reading.textContent; // a single token has no measure
      row.tokens.forEach((button, t) => {
        button.chips.forEach((node, head) => paintChip(node, choices.at(outcome, layer, t, head, 0)));
        put(button, "aria-label", this.spoken(button, choices, t));
        put(button, "aria-current", t === token && m === model);
        put(button, "data-same", t === token);
      });
      row.node.querySelectorAll("[data-piece]").forEach((piece) =>
        put(piece, "data-same", Number(piece.dataset.piece) === token));
      row.cards.forEach((card) => card.classList.contains("several")
        && put(card, "data-same", card.querySelector('[data-same="true"]') !== null));
      makeTabStop(row.tokens, token);
    });
  }

  spoken(button, choices, token) {
    const { explorer } = this;
    const { layer, outcome } = explorer.selection;
    const first = range(choices.heads).map((head) => choices.at(outcome, layer, token, head, 0));
    const experts = first.filter(Boolean).map(({ expert, dropped }) =>
      dropped ? explorer.say("expert_dropped", { expert: expert + 1 }) : String(expert + 1));
    return explorer.say("token_label", { text: button.spoken, experts: experts.join(explorer.say("comma")) });
  }

  /** Hovering lights the same word in the other rows and the chosen experts on the stage. */
  hover(token, m, on) {
    const { explorer } = this;
    const { layer, outcome } = explorer.selection;
    const word = this.rows[m].tokens[token].dataset.word;
    this.rows.forEach((row) => row.cards[word]?.classList.toggle("twin", on));
    this.rows.forEach((row) => row.node.querySelector(`[data-piece="${token}"]`)?.classList.toggle("lit", on));
    explorer.stage.light(on ? explorer.choices[m].experts(outcome, layer, token) : null);
  }

  // ── strips longer than their box ────────────────────────────────────────────────────────

  /** Which rows are cut off, after a change of width. */
  fit() {
    this.rows.forEach((row) => this.showCut(row));
  }

  /** A fade at every edge that cuts tokens off, and how many are out of sight; the button shows them all. */
  showCut(row) {
    const { flow, more, tokens } = row;
    const open = flow.dataset.open === "true";
    const cut = markCuts(flow, flow.scrollHeight - flow.clientHeight, flow.scrollTop);
    more.hidden = !cut && !open;
    if (more.hidden) return;
    const box = flow.getBoundingClientRect();
    const hidden = tokens.filter((button) => {
      const { top, bottom } = button.getBoundingClientRect();
      return (top + bottom) / 2 < box.top || (top + bottom) / 2 > box.bottom;
    }).length;
    write(more, this.explorer.say(open ? "fewer_tokens" : "more_tokens", { n: hidden }));
    put(more, "aria-expanded", open);
  }

  unfold(row) {
    put(row.flow, "data-open", row.flow.dataset.open !== "true");
    this.showCut(row);
    this.reveal();
  }

  /** Brings the selected word into the scrolled part of each row, without moving the page. */
  reveal() {
    const { token } = this.explorer.selection;
    for (const { flow, tokens } of this.rows) {
      const button = tokens[token];
      if (!button || flow.scrollHeight <= flow.clientHeight) continue;
      const top = button.getBoundingClientRect().top - flow.getBoundingClientRect().top;
      if (top < 0 || top > flow.clientHeight - 32) flow.scrollTop += top - flow.clientHeight / 2;
    }
  }
}

/** The tooltip of a token or patch: all K choices of each sub-token. */
function choiceLines(explorer, m, token, title) {
  const { layer, outcome } = explorer.selection;
  const choices = explorer.choices[m];
  const head = el("div", { class: "tip-title" }, title,
    el("span", { class: "quiet" }, ` ${explorer.say("where", { model: explorer.data.models[m].name,
      layer: explorer.layerNumber(layer) })}`));
  const rows = range(choices.heads).map((h) => el("div", { class: "tip-row" },
    choices.heads > 1 ? el("span", { class: "quiet" }, explorer.say("subtoken", { head: h + 1 })) : null,
    ...choices.of(outcome, layer, token, h).map((choice) => chip(choice))));
  const dropped = range(choices.heads).some((h) => choices.of(outcome, layer, token, h).some((c) => c.dropped));
  return [head, ...rows, dropped ? el("div", { class: "warn" }, explorer.say("tip_hollow")) : null];
}
