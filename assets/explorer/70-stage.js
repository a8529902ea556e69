// Part 9: the stage around the drawing: title, steps, playing, keyboard.

const whenIdle = window.requestIdleCallback ?? ((job) => setTimeout(job, 60)); // Safari has none
const forgetIdle = window.cancelIdleCallback ?? clearTimeout;

const STEP_MS = 2400; // long enough to read one sentence
const SEEN_ENOUGH = 160; // px of the stage in view: a pick is noticed without scrolling

class Stage {
  constructor(explorer) {
    this.explorer = explorer;
    this.step = Infinity; // the first view is complete: everything visible
    this.timer = null;
    this.shelf = new Map(); // outcome -> finished drawing, laid out in the page; one is shown
  }

  // ── building ────────────────────────────────────────────────────────────────────────────

  /** The frame is built once per language; only the drawing inside it changes. */
  build() {
    const { say } = this.explorer;
    clearTimeout(this.timer);
    this.timer = null;
    const button = (icon, label, onclick) =>
      el("button", { type: "button", class: "round", "aria-label": label, onclick }, iconOf(icon));
    this.title = el("h2", { class: "title" });
    this.subtitle = el("span", { class: "subtitle" });
    this.caption = el("span", { class: "subtitle save-only" });
    this.at = 0;
    this.scroller = el("div", { class: "scroller", onscroll: () => this.explorer.later("wide", () => this.scrolled()),
      onkeydown: (event) => this.onKey(event),
      onpointerover: (event) => this.hover(event.target), onpointerleave: () => this.hover(null),
      onfocusin: (event) => this.hover(event.target), onfocusout: () => this.hover(null) });
    this.playButton = button("play", say("play"), () => this.toggle());
    this.slider = el("input", { type: "range", class: "slider", min: 1, step: 1, "aria-label": say("steps"),
      oninput: () => { this.pause(); this.goTo(Number(this.slider.value) - 1); } });
    this.dots = el("div", { class: "dots", "aria-hidden": "true" });
    this.sentence = el("p", { class: "sentence" });
    this.dropNote = el("p", { class: "sentence warn tall-only" });
    this.live = el("div", { class: "unseen", "aria-live": "polite" });
    this.controls = el("div", { class: "controls" },
      el("div", { class: "buttons" }, button("first", say("first"), () => { this.pause(); this.goTo(0); }),
        button("previous", say("previous"), () => this.move(-1)), this.playButton,
        button("next", say("next"), () => this.move(1))),
      el("div", { class: "steps" }, this.dots, this.slider), this.sentence, this.dropNote);
    this.waiting = el("p", { class: "waiting" }, say("stage_wait"));
    this.node = el("section", { class: "stage", "aria-label": say("stage_label"), "data-ready": "false" },
      el("header", {}, this.title, this.subtitle, this.caption, this.explorer.saveButtons(() => this.node, () => this.pictureName(), say("stage_label"))),
      this.scroller, this.waiting, this.controls, this.live);
    this.edition = null;
    this.drawing = null;
    return this.node;
  }

  /** Draws the stage Python sent, for the outcome under the thumb. `animate` only for new steps. */
  draw() {
    const { explorer } = this;
    const { stage } = explorer.data;
    const fits = stage && explorer.isCurrent(stage);
    put(this.node, "data-ready", Boolean(fits));
    put(this.node, "data-empty", !stage);
    this.waiting.hidden = Boolean(fits);
    if (!stage) return;
    const width = this.roomFor();
    if (width < 40) return;
    const edition = `${explorer.version} ${width} ${this.zoom}`;
    const focused = this.marks?.findIndex((mark) => mark.matches(":focus")) ?? -1;
    if (this.edition !== edition) {
      forgetIdle(this.stocking);
      this.shelf.clear();
      this.scroller.replaceChildren();
    }
    this.edition = edition;
    const drawing = this.drawingOf(explorer.selection.outcome);
    if (this.drawing === drawing) return;
    if (this.drawing) put(this.drawing.view, "data-shown", false);
    put(drawing.view, "data-shown", true);
    this.drawing = drawing;
    this.journey = drawing.j;
    this.geometry = drawing.g;
    this.marks = drawing.marks;
    this.light(this.lit);
    makeTabStop(this.marks, clamp(focused, 0, this.marks.length - 1));
    if (focused >= 0) this.marks[clamp(focused, 0, this.marks.length - 1)].focus();
    this.frame(stage, explorer.say);
    this.showCut();
    this.showStep(false);
    put(this.node, "data-stocked", false);
    if (explorer.thumb.matches(":hover, :focus")) this.stock();
  }

  /**
   * The drawing of an outcome, from the shelf or made now. The shelf keeps the drawings in the page,
   * unseen but laid out: styles and texts of a new one cost a long task, at every scrubbed value.
   */
  drawingOf(outcome) {
    if (!this.shelf.has(outcome)) {
      const { say, tooltip, family, data } = this.explorer;
      const journey = journeyOf(data.stage, outcome);
      const geometry = geometryOf(journey, this.roomFor());
      const drawing = new Drawing(journey, geometry, { say, tooltip, family, zoom: this.zoom });
      this.scroller.append(drawing.view);
      this.shelf.set(outcome, drawing);
    }
    return this.shelf.get(outcome);
  }

  /**
   * Once a hand is at the thumb, the other outcomes are drawn too, while the browser idles: then
   * scrubbing only shows another drawing.
   */
  stock() {
    forgetIdle(this.stocking);
    const { outcomes, stage } = this.explorer.data;
    if (!stage || !this.edition) return;
    const next = outcomes.findIndex(({ ready }, outcome) => ready && !this.shelf.has(outcome));
    put(this.node, "data-stocked", next < 0);
    if (next < 0) return;
    this.stocking = whenIdle(() => { // two short tasks: drawing, then styles and layout
      const drawing = this.drawingOf(next);
      drawing.showStep(this.stepNow, false);
      this.stocking = whenIdle(() => {
        drawing.root.getBoundingClientRect();
        this.stock();
      });
    });
  }

  scrolled() {
    this.at = this.scroller.scrollLeft;
    this.showCut();
  }

  /** From what is known: asking the scroller would force a layout at every scrubbed value. */
  showCut() {
    markCuts(this.scroller, this.geometry.width * this.zoom - this.available, this.at);
  }

  frame(stage, say) {
    put(this.node, "data-wide", this.geometry.wide);
    put(this.node, "data-masked", false);
    const model = this.explorer.data.models[stage.model];
    write(this.title, say(this.explorer.data.kind === "image" ? "stage_title_image" : "stage_title", { name: stage.name, layer: this.explorer.layerNumber(stage.layer) }));
    write(this.subtitle, say("stage_subtitle", { model: model?.name ?? "" }));
    put(this.slider, "max", this.journey.steps.length);
    this.dots.replaceChildren(...this.journey.steps.map((_, i) => el("i", { "--at": i / Math.max(1, this.last) })));
    write(this.caption, this.explorer.capacityNow()); // the title names the layer
    write(this.dropNote, this.drawing.dropNote());
  }

  pictureName() {
    const { stage } = this.explorer.data;
    return `${stage.name} ${this.explorer.say("layer_n", { layer: this.explorer.layerNumber(stage.layer) })}`;
  }

  /** After a pick: brings the stage into view where it is out of sight, as on a phone. */
  reveal() {
    if (!this.explorer.data.stage) return;
    const { top, bottom } = this.node.getBoundingClientRect();
    const seen = Math.min(bottom, window.innerHeight) - Math.max(top, 0);
    if (seen >= Math.min(SEEN_ENOUGH, bottom - top)) return;
    this.node.scrollIntoView({ block: "nearest", behavior: stillness.matches ? "auto" : "smooth" });
  }

  /** Reads the width once per resize: asking at every scrubbed value would force a layout each time. */
  measure() {
    this.available = this.scroller.clientWidth;
  }

  /** Width to draw in; on a lecture screen everything is drawn larger, so fewer units fit. */
  roomFor() {
    const { explorer } = this;
    const width = this.available;
    this.zoom = 1;
    if (explorer.data.present && width >= WIDE_FROM) {
      const free = explorer.root.clientHeight - 190; // title and controls
      this.zoom = clamp(Math.min(width / 1000, free / 480), 1, 3);
    }
    return Math.floor(width / this.zoom);
  }

  // ── steps ───────────────────────────────────────────────────────────────────────────────

  get last() {
    return (this.journey?.steps.length ?? 1) - 1;
  }

  get stepNow() {
    return clamp(this.step, 0, this.last);
  }

  goTo(step) {
    if (!this.journey) return;
    this.step = clamp(step, 0, this.last);
    this.showStep(true);
  }

  move(by) {
    this.pause();
    this.goTo(this.stepNow + by);
  }

  showStep(animate) {
    const step = this.stepNow;
    const name = this.journey.steps[step];
    this.drawing.showStep(step, animate && !stillness.matches);
    put(this.node, "data-step", step + 1);
    put(this.node, "data-masked", step >= this.journey.steps.indexOf("keep"));
    put(this.node, "data-drops", step >= this.journey.steps.indexOf("experts") && this.journey.dropped.length > 0);
    this.tell(step, name);
  }

  tell(step, name) {
    const { say, data } = this.explorer;
    const values = { step: step + 1, steps: this.last + 1 };
    const story = STORIES[name](this.journey, say, { ...data.stage, image: data.kind === "image" }, this.explorer.layerNumber(data.stage.layer));
    const count = el("span", { class: "count" }, say("step_of", values));
    this.sentence.replaceChildren(count, ` ${story}`);
    this.slider.value = step + 1;
    [...this.dots.children].forEach((dot, i) => put(dot, "data-done", i <= step));
    this.slider.style.setProperty("--done", this.last ? step / this.last : 1);
    put(this.slider, "aria-valuetext", `${say("step_of", values)} ${story}`);
    write(this.live, `${say("step_of", values)} ${story}`);
  }

  // ── playing: timers and CSS only, never a message to Python ─────────────────────────────

  toggle() {
    if (this.timer !== null) return this.pause();
    if (!this.journey) return;
    this.goTo(this.step >= this.last ? 0 : this.step + 1);
    this.tick();
    this.showPlaying();
  }

  tick() {
    this.timer = setTimeout(() => {
      this.goTo(this.step + 1);
      if (this.step < this.last) this.tick();
      else this.pause();
    }, STEP_MS);
  }

  pause() {
    clearTimeout(this.timer);
    this.timer = null;
    this.showPlaying();
  }

  showPlaying() {
    const { say } = this.explorer;
    const playing = this.timer !== null;
    this.playButton.replaceChildren(iconOf(playing ? "pause" : "play"));
    put(this.playButton, "aria-label", say(playing ? "pause" : "play"));
  }

  // ── keyboard and linking ────────────────────────────────────────────────────────────────

  /** Left and right step; up and down read the marks that are visible, one by one. */
  onKey(event) {
    if (this.stepKey(event)) return;
    const visible = this.marks.filter((mark) => !mark.closest('[aria-hidden="true"]'));
    rove(visible, { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity }, event, () => {
      this.marks.forEach((mark) => put(mark, "tabindex", mark.matches(":focus") ? 0 : -1));
    });
  }

  stepKey(event) {
    const by = { ArrowRight: 1, ArrowLeft: -1, PageDown: 1, PageUp: -1 }[event.key];
    if (!by || event.altKey || event.ctrlKey || event.metaKey) return false;
    event.preventDefault();
    event.stopPropagation();
    this.move(by);
    return true;
  }

  hover(target) {
    const expert = target?.closest?.("[data-expert]")?.dataset.expert;
    this.explorer.light(expert === undefined ? null : new Set([Number(expert)]));
  }

  /** Lights the marks of these experts; null lights all. */
  light(experts) {
    this.lit = experts;
    if (!this.drawing) return;
    if (experts) put(this.drawing.root, "data-lit", [...experts].join(" "));
    else this.drawing.root.removeAttribute("data-lit");
  }
}

const ICONS = {
  first: "M5 4v12M16 4.5v11L8 10z",
  previous: "M13.5 4.5v11L5.5 10z",
  play: "M6 3.8v12.4L16 10z",
  pause: "M6 4h3v12H6zM11.5 4h3v12h-3z",
  next: "M6.5 4.5v11L14.5 10z",
  close: "M5 5l10 10M15 5L5 15",
};

function iconOf(name) {
  return svg("svg", { viewBox: "0 0 20 20", class: `icon ${name}`, "aria-hidden": "true" }, svg("path", { d: ICONS[name] }));
}
