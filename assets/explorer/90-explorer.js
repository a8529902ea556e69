// Part 10, the whole: one explorer per mounted element. Python sends `data`; the answers are the state
// "pick" = {model, layer, token, outcome}: one message per click or released thumb; and, while some outcomes
// are missing, the state "rest", which asks for them.

const PICK_PATIENCE_MS = 5000; // how long an unanswered pick outranks what Python sends
const KEY_REST_MS = 350; // held arrow keys become one message
const SCRIPT_POLL_MS = 40;

class Explorer {
  constructor(host) {
    this.host = host;
    this.data = null;
    this.version = 0;
    this.selection = { model: 0, layer: 0, token: 0, outcome: 0 };
    this.say = Object.assign((key, values) => fill(this.data.say[key] ?? key, values), { has: (key) => key in this.data.say });
    this.root = el("div", { class: "hx" });
    this.rules = el("style");
    this.probe = el("span", { class: "probe", "aria-hidden": "true" });
    this.tooltip = new Tooltip(this.root);
    this.stage = new Stage(this);
    this.strips = new Strips(this);
    this.maps = new Maps(this);
    this.observer = new ResizeObserver(() => this.later("fit", () => this.fit()));
    this.onDocumentKey = (event) => this.presentKey(event);
    this.pending = null;
    this.pinned = null; // the expert that stays lit
    this.frames = {};
    this.seen = {};
    // The theme reaches us only as CSS variables; a one-millisecond transition reports its change.
    this.probe.addEventListener("transitionend", () => this.paintPalette());
  }

  // ── life cycle ──────────────────────────────────────────────────────────────────────────

  connect() {
    if (this.connected) return;
    this.connected = true;
    this.host.append(this.rules, this.root);
    this.observer.observe(this.root);
    document.addEventListener("keydown", this.onDocumentKey);
  }

  disconnect() {
    this.connected = false;
    this.stage.pause();
    forgetIdle(this.stage.stocking);
    this.observer.disconnect();
    clearTimeout(this.resting);
    clearTimeout(this.asking);
    document.removeEventListener("keydown", this.onDocumentKey);
    Object.values(this.frames).forEach(cancelAnimationFrame);
    this.frames = {};
  }

  /** Runs a job once in the next frame, however often it is asked for until then. */
  later(name, job) {
    cancelAnimationFrame(this.frames[name]);
    this.frames[name] = requestAnimationFrame(job);
  }

  // ── data from Python ────────────────────────────────────────────────────────────────────

  update(data, { send, ask, leave }) {
    const before = this.data;
    Object.assign(this, { data, send, ask, leave });
    this.family = getComputedStyle(this.root).fontFamily || "sans-serif";
    const words = this.changed("words", [data.say, data.present, data.kind]);
    const labels = data.outcomes.map(({ label }) => label);
    const frames = data.models.map(({ choice, readings, ...frame }) => frame);
    const scene = this.changed("scene", [data.kind, data.layers, labels, data.text, data.image, frames]);
    const choices = this.changed("choices", [data.outcomes, data.models]) || scene;
    this.adopt(before, scene);
    if (!grownFrom(before?.stage, data.stage) || words || scene) this.version += 1;
    if (choices) this.choices = data.models.map((model) => new Choices(model, data.layers.length, this.tokenCount, data.outcomes));
    if (words || scene) this.build(words);
    if (this.changed("palette", [data.palette, data.scale])) this.paintPalette();
    this.show();
    this.stage.draw();
    if (scene) this.later("reveal", () => this.strips.reveal());
    if (data.rest && data.rest !== this.asked) this.later("rest", () => setTimeout(() => this.askForRest(data.rest)));
  }

  /**
   * The outcomes that Python has not computed yet: asked for when the page's script is over, because an
   * earlier question would interrupt it, and the panels below this one would wait.
   */
  askForRest(name) {
    clearTimeout(this.asking);
    if (!this.connected || this.data.rest !== name) return;
    if (scriptRuns()) {
      this.asking = setTimeout(() => this.askForRest(name), SCRIPT_POLL_MS);
      return;
    }
    this.asked = name;
    this.ask(name);
  }

  changed(name, value) {
    const text = JSON.stringify(value);
    const different = this.seen[name] !== text;
    this.seen[name] = text;
    return different;
  }

  get tokenCount() {
    return this.data.kind === "image" ? this.data.image.rows * this.data.image.cols : this.data.text.tokens.length;
  }

  /** Python's selection counts when it is new; an answer to an older click does not undo a newer one. */
  adopt(before, scene) {
    const { model, layer, token, outcome } = this.data;
    const sent = { model, layer, token, outcome };
    const waiting = this.pending && Date.now() - this.pending.at < PICK_PATIENCE_MS;
    const answered = this.pending && same(this.pending.pick, sent);
    if (answered) this.pending = null;
    const moved = !before || !same(sent, { model: before.model, layer: before.layer, token: before.token, outcome: before.outcome });
    if (scene || (moved && !waiting) || answered) this.selection = sent;
    this.selection = {
      model: clamp(this.selection.model, 0, this.data.models.length - 1),
      layer: clamp(this.selection.layer, 0, this.data.layers.length - 1),
      token: clamp(this.selection.token, 0, this.tokenCount - 1),
      outcome: this.data.outcomes[this.selection.outcome]?.ready ? this.selection.outcome : outcome,
    };
  }

  isCurrent(stage) {
    const { model, layer, token } = this.selection;
    return stage.model === model && stage.layer === layer && stage.token === token;
  }

  /** A layer as people count it. */
  layerNumber(index) {
    return this.data.layers[index] + 1;
  }

  // ── building and showing ────────────────────────────────────────────────────────────────

  build(words) {
    const { data } = this;
    const image = data.kind === "image";
    const focus = this.focusPath();
    put(this.root, "data-kind", data.kind);
    put(this.root, "data-present", Boolean(data.present));
    if (words) this.stage.build();
    this.controls = this.buildControls();
    const shown = image ? this.maps : this.strips;
    if (!data.present) {
      shown.build(data);
      if (image) this.maps.aside.replaceChildren(this.controls, this.maps.buildKey());
      else this.controls.insertBefore(this.strips.save, this.controls.querySelector(".field:not(.capacity)"));
    }
    const above = data.present ? [this.leaveLink()] : image ? [this.maps.node] : [this.strips.node, this.controls];
    this.root.replaceChildren(this.probe, ...above, this.stage.node, this.tooltip.box);
    this.stage.measure();
    this.pinned = null;
    this.light(null);
    this.restoreFocus(focus);
    if (image) this.maps.fit();
  }

  /** Rebuilding takes the focus away; give it back to the control of the same name. */
  focusPath() {
    const active = this.root.getRootNode().activeElement;
    const label = active && this.root.contains(active) ? active.getAttribute("aria-label") : null;
    return label === null ? null : { label, at: this.labelled(label).indexOf(active) };
  }

  restoreFocus(path) {
    if (path) this.labelled(path.label)[path.at]?.focus({ preventScroll: true });
  }

  labelled(label) {
    return [...this.root.querySelectorAll("[aria-label]")].filter((node) => node.getAttribute("aria-label") === label);
  }

  buildControls() {
    const { data, say } = this;
    const word = (key, term) => explained(this.tooltip, el("span", { class: "label" }, say(key)), say(`define_${term}`));
    this.layerPicker = new NumberPicker({ label: say("layer"), count: data.layers.length, title: word("layer", "layer"),
      name: (i) => say("layer_n", { layer: this.layerNumber(i) }), onPick: (layer) => this.pick({ layer }) });
    this.layerPicker.buttons.forEach((button, i) => write(button, String(this.layerNumber(i))));
    const last = data.outcomes.length - 1;
    this.thumb = el("input", { type: "range", class: "slider", min: 0, max: last, step: 1, "aria-label": say("capacity_factor"),
      oninput: () => this.later("scrub", () => this.scrub(Number(this.thumb.value))),
      onchange: () => this.release(), onpointerenter: () => this.stage.stock(), onfocus: () => this.stage.stock() });
    this.thumbValue = el("output", { class: "value" });
    this.thumbReadings = el("span", { class: "readings" });
    const ticks = data.outcomes.map(({ label }, i) => el("span", { "--at": last ? i / last : 0 }, label));
    const capacity = el("div", { class: "field capacity" },
      el("span", { class: "label" }, word("capacity_factor", "capacity-factor"), this.thumbValue),
      el("div", { class: "thumb" }, this.thumb, el("div", { class: "ticks", "aria-hidden": "true" }, ...ticks)),
      this.thumbReadings);
    return el("div", { class: "tools" }, last > 0 ? capacity : null, data.layers.length > 1 ? this.layerPicker.node : null);
  }

  show() {
    const { data, selection, say } = this;
    if (!data.present) (data.kind === "image" ? this.maps : this.strips).show();
    this.layerPicker.show(selection.layer);
    const { label } = data.outcomes[selection.outcome];
    this.thumb.disabled = data.outcomes.some((outcome) => !outcome.ready);
    if (Number(this.thumb.value) !== selection.outcome) this.thumb.value = selection.outcome;
    this.thumb.style.setProperty("--done", data.outcomes.length > 1 ? selection.outcome / (data.outcomes.length - 1) : 1);
    write(this.thumbValue, label);
    const readings = data.models.map((model) => say("capacity_reading",
      { model: model.name, dropped: model.readings?.[selection.outcome]?.dropped ?? "" }));
    this.thumbReadings.replaceChildren(...readings.map((text) => el("span", {}, text)));
    put(this.thumb, "aria-valuetext", [label, ...readings].join(say("comma")));
  }

  /** The two settings that a saved picture must name. */
  place() {
    return [this.say("layer_n", { layer: this.layerNumber(this.selection.layer) }), this.capacityNow()].filter(Boolean).join(" · ");
  }

  capacityNow() {
    const { outcomes } = this.data;
    return outcomes.length > 1 ? `${this.say("capacity_factor")} ${outcomes[this.selection.outcome].label}` : "";
  }

  pictureName(m = null) {
    const { data, selection, say } = this;
    const names = data.models.filter((_, i) => m === null || i === m).map((model) => model.name);
    return `${names.join(" ")} ${say("layer_n", { layer: this.layerNumber(selection.layer) })}`;
  }

  saveButtons(nodeOf, nameOf, group) {
    return saveButtons(nodeOf, nameOf, { group, png: this.say("save_png"), svg: this.say("save_svg") });
  }

  reading(m) {
    const bits = this.data.models[m].readings?.[this.selection.outcome]?.bits;
    return bits ? this.say("reading", { bits }) : "";
  }

  fit() {
    if (!this.data) return;
    if (this.data.kind === "image" && !this.data.present) this.maps.fit();
    this.stage.measure();
    this.stage.draw();
  }

  /** Marks whose colour is close to the card get a text-coloured outline (WCAG 1.4.11). */
  paintPalette() {
    const card = rgbOfStyle(getComputedStyle(this.probe).backgroundColor);
    this.rules.textContent = paletteRules(this.data.palette, this.data.scale, (hex) => contrast(rgbOfHex(hex), card) < 3);
  }

  /** Hovering an expert on the stage lights it there and all its chips and patches. */
  light(asked) {
    const experts = asked ?? (this.pinned === null ? null : new Set([this.pinned]));
    this.stage.light(experts);
    for (const node of [this.strips.node, this.maps.node]) {
      if (experts) put(node, "data-lit", [...experts].join(" "));
      else node.removeAttribute("data-lit");
    }
  }

  // ── what the visitor does ───────────────────────────────────────────────────────────────

  /** Shown at once; told to Python at once, or when held keys come to rest. */
  pick(change, whenRested = false) {
    const next = { ...this.selection, ...change };
    if (same(next, this.selection)) return;
    this.selection = next;
    this.show();
    this.stage.draw();
    clearTimeout(this.resting);
    if (whenRested) this.resting = setTimeout(() => this.tell(), KEY_REST_MS);
    else this.tell();
  }

  /** A pick by pointing at it, or by Enter: it may lead to where the answer is drawn. */
  pickAndShow(change) {
    this.pick(change);
    this.stage.reveal();
  }

  tell() {
    this.pending = { pick: { ...this.selection }, at: Date.now() };
    this.send({ ...this.selection });
  }

  scrub(outcome) {
    this.selection = { ...this.selection, outcome };
    this.show();
    this.stage.draw();
  }

  release() {
    this.scrub(Number(this.thumb.value));
    clearTimeout(this.resting);
    this.resting = setTimeout(() => this.tell(), KEY_REST_MS / 2); // held arrow keys release at every repeat
  }

  // ── lectures ────────────────────────────────────────────────────────────────────────────

  leaveLink() {
    return el("button", { type: "button", class: "leave round", "aria-label": this.say("leave_present"), onclick: () => this.leave() }, iconOf("close"));
  }

  presentKey(event) {
    if (!this.data?.present) return;
    const inside = event.composedPath()[0];
    if (inside?.matches?.("input, textarea, select, [contenteditable=true]")) return;
    if (event.key === "Escape") this.leave();
    else if (event.key === " " && !inside?.matches?.("button, a")) {
      event.preventDefault();
      this.stage.toggle();
    } else if (!event.defaultPrevented) this.stage.stepKey(event);
  }
}

/** Streamlit says on its root element whether the page's script is running. */
function scriptRuns() {
  const state = document.querySelector("[data-test-script-state]")?.dataset.testScriptState;
  return state !== undefined && state !== "notRunning";
}

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

/** Whether a stage says what the one before it said, and at most has more outcomes now. */
function grownFrom(before, after) {
  if (!before || !after) return before === after;
  const { outcomes: had, ...frame } = before;
  const { outcomes: has, ...now } = after;
  return same(frame, now) && had.length === has.length && had.every((outcome, i) => outcome === null || same(outcome, has[i]));
}

const explorers = new WeakMap();

/** Streamlit calls this on mount and on every change of data. */
export default function explore({ data, parentElement, setStateValue, setTriggerValue }) {
  if (!explorers.has(parentElement)) explorers.set(parentElement, new Explorer(parentElement));
  const explorer = explorers.get(parentElement);
  explorer.connect();
  explorer.update(data, {
    send: (pick) => setStateValue("pick", pick),
    ask: (rest) => setStateValue("rest", rest),
    leave: () => setTriggerValue("leave", true),
  });
  return () => explorer.disconnect();
}
