// Plates, last part: the frame around one picture, and the door through which Streamlit calls.

const PICTURES = { zoom: Zoom, gates: Gates, product: Product, softmax: Softmax, mixture: Mixture, stack: Stack, flow: Flow, collapse: Collapse };
Object.assign(PICTURES, { patches: VisionPatches, tints: VisionTints, priority: VisionPriority, keepcurve: VisionCurve, slots: VisionSlots, mixing: VisionMixing });

class Plate {
  constructor(host) {
    this.host = host;
    this.data = null;
    this.marks = [];
    this.frames = {};
    this.root = el("div", { class: "hx plate" });
    this.rules = el("style");
    this.probe = el("span", { class: "probe", "aria-hidden": "true" });
    this.tooltip = new Tooltip(this.root);
    this.say = (key, values) => fill(this.data.say[key] ?? key, values);
    this.observer = new ResizeObserver(() => this.later("fit", () => this.fit()));
    this.probe.addEventListener("transitionend", () => this.paint());
  }

  connect() {
    if (this.connected) return;
    this.connected = true;
    this.host.append(this.rules, this.root);
    this.observer.observe(this.root);
  }

  disconnect() {
    this.connected = false;
    this.picture?.leave?.();
    this.observer.disconnect();
    Object.values(this.frames).forEach(cancelAnimationFrame);
  }

  later(name, job) {
    cancelAnimationFrame(this.frames[name]);
    this.frames[name] = requestAnimationFrame(job);
  }

  update(data) {
    const text = JSON.stringify(data);
    if (text === this.seen) return;
    this.seen = text;
    this.data = data;
    this.family = getComputedStyle(this.root).fontFamily || "sans-serif";
    const kept = this.picture?.keep?.();
    this.picture?.leave?.();
    this.picture = new PICTURES[data.plate](this, data, kept);
    if (kept) this.picture.restore?.(kept);
    this.build();
    this.paint();
    this.fit(true);
  }

  build() {
    const { data, say } = this;
    this.svg = svg("svg", { class: "canvas", role: "group", "aria-label": data.alt, focusable: "false" });
    this.svg.addEventListener("keydown", (event) => this.onKey(event));
    this.canvas = el("div", { class: "picture" }, this.svg);
    this.controls = el("div", { class: "tools" }, ...this.picture.controls());
    this.said = el("p", { class: "said", "aria-live": "polite" });
    this.room = el("div", { class: "table", hidden: "" });
    const tool = (key, action) => el("button", { type: "button", class: "quiet-button", onclick: action }, say(key));
    this.tableButton = el("button", { type: "button", class: "quiet-button", "aria-expanded": "false", onclick: () => this.toggleTable() }, say("table"));
    const name = `${data.plate}-${(data.figures[0] ?? "").toLowerCase()}`;
    const foot = el("div", { class: "foot" },
      el("span", { class: "figures" }, data.figures.join(" · ")),
      data.checks.length ? el("span", { class: "checks" }, ...data.checks.map(({ text, good }) =>
        el("span", { class: good ? "good" : "bad" }, `${good ? "✓" : "✗"} ${text}`))) : null,
      el("span", { class: "take" }, this.tableButton, tool("csv", () => handCsv(name, this.picture.sheet())),
        tool("svg", () => saveAs(this.canvas, name, "svg")), tool("png", () => saveAs(this.canvas, name, "png"))));
    this.root.replaceChildren(this.probe, ...(this.controls.children.length ? [this.controls] : []), this.canvas, this.said, foot, this.room, this.tooltip.box);
  }

  /** Draws for the width there is; the same width is drawn again only when forced. */
  fit(force = false) {
    const width = Math.floor(this.root.clientWidth);
    if (!this.data || width < 40 || (!force && width === this.width)) return;
    this.width = width;
    this.draw();
  }

  draw() {
    const focused = this.marks.findIndex((mark) => mark.matches(":focus"));
    this.marks = [];
    const group = svg("g");
    const height = this.picture.draw(group, this.width);
    this.svg.replaceChildren(group);
    furnish(this.svg, { viewBox: `0 0 ${this.width} ${Math.ceil(height)}`, width: this.width, height: Math.ceil(height) }, []);
    if (this.marks.length) makeTabStop(this.marks, clamp(focused, 0, this.marks.length - 1));
    if (focused >= 0) this.marks[clamp(focused, 0, this.marks.length - 1)]?.focus();
    this.tell();
  }

  /** The one plain sentence under the picture, with the numbers it shows just now. */
  tell() {
    write(this.said, this.picture.sentence?.() ?? "");
    this.said.hidden = !this.said.textContent;
    if (!this.room.hidden) this.fillTable();
  }

  onKey(event) {
    if (this.picture.onKey?.(event)) return;
    if ((event.key === "Enter" || event.key === " ") && event.target.matches?.(".pickable")) {
      event.preventDefault();
      event.target.dispatchEvent(new MouseEvent("click", { bubbles: true }));
      return;
    }
    rove(this.marks, LINE_KEYS, event);
  }

  toggleTable() {
    this.room.hidden = !this.room.hidden;
    put(this.tableButton, "aria-expanded", !this.room.hidden);
    if (!this.room.hidden) this.fillTable();
  }

  fillTable() {
    const { head, rows } = this.picture.sheet();
    const cell = (tag, text) => el(tag, tag === "th" ? { scope: "col" } : {}, String(text));
    this.room.replaceChildren(el("table", {}, el("caption", { class: "unseen" }, this.data.alt),
      el("thead", {}, el("tr", {}, ...head.map((text) => cell("th", text)))),
      el("tbody", {}, ...rows.slice(0, 400).map((row) => el("tr", {}, ...row.map((text) => cell("td", text)))))));
    furnish(this.room, { tabindex: 0, role: "region", "aria-label": this.say("table") }, []);
  }

  paint() {
    const card = rgbOfStyle(getComputedStyle(this.probe).backgroundColor);
    this.rules.textContent = paletteRules(this.data.palette, null, (hex) => contrast(rgbOfHex(hex), card) < 3);
  }
}

const plates = new WeakMap();

/** Streamlit calls this on mount and on every change of data. */
export default function show({ data, parentElement }) {
  if (!plates.has(parentElement)) plates.set(parentElement, new Plate(parentElement));
  const plate = plates.get(parentElement);
  plate.connect();
  plate.update(data);
  return () => plate.disconnect();
}
