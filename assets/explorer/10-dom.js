// The explorer, part 1 of 10: building DOM, formatting numbers, tooltips, roving focus.
//
// Python joins the files of this folder in name order into one ES module, so they share one
// scope and import nothing. Text only ever enters the page through textContent: what a visitor
// typed stays text.

const SVG_NS = "http://www.w3.org/2000/svg";

/** An HTML element; attributes starting with "on" are listeners, null attributes are left out. */
function el(tag, attributes = {}, ...children) {
  return furnish(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
function svg(tag, attributes = {}, ...children) {
  return furnish(document.createElementNS(SVG_NS, tag), attributes, children);
}

function furnish(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) node.style.setProperty(name, value);
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Writes only what changed: the strips of a long text hold thousands of attributes. */
function put(node, name, value) {
  const text = String(value);
  if (node.getAttribute(name) !== text) node.setAttribute(name, text);
}

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const range = (n) => Array.from({ length: n }, (_, i) => i);
const sum = (values) => values.reduce((a, b) => a + b, 0);
const px = (value) => Number(value.toFixed(2)); // keeps path strings short

/** A number as print shows it: fixed digits and a real minus sign. */
const number = (value, digits = 2) => {
  const text = value.toFixed(digits);
  return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "−");
};

/** Replaces {placeholders}; an unknown key shows itself, so that a missing text is seen. */
function fill(template, values = {}) {
  return template.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

const ruler = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

/** Width of a text in px, needed wherever SVG text must fit into a box. */
function textWidth(text, size, weight, family) {
  ruler.font = `${weight} ${size}px ${family}`;
  return ruler.measureText(text).width;
}

const stillness = matchMedia("(prefers-reduced-motion: reduce)");

/**
 * One tooltip for the whole component. `describe(node, lines)` says what a node shows: `lines`
 * is a function, called only when the pointer or the focus arrives, returning texts or nodes.
 */
class Tooltip {
  constructor(root) {
    this.root = root;
    this.lines = new WeakMap();
    this.box = el("div", { class: "tip", role: "tooltip", hidden: "" });
    root.append(this.box);
    root.addEventListener("pointermove", (event) => this.follow(event));
    root.addEventListener("pointerleave", () => this.hide());
    root.addEventListener("focusin", (event) => this.visit(event.target));
    root.addEventListener("focusout", () => this.hide());
    root.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || this.box.hidden) return;
      event.stopPropagation(); // one press closes one thing
      this.hide();
    });
  }

  describe(node, lines) {
    this.lines.set(node, lines);
    return node;
  }

  owner(node) {
    while (node && node !== this.root && !this.lines.has(node)) node = node.parentNode;
    return node && node !== this.root && this.lines.has(node) ? node : null;
  }

  follow(event) {
    const node = this.owner(event.target);
    if (node) this.show(node, event.clientX, event.clientY, event);
    else this.hide();
  }

  /** Only keyboard focus opens the tooltip: a click has just been under the pointer anyway. */
  visit(target) {
    const node = this.owner(target);
    if (!node || !target.matches(":focus-visible")) return;
    const box = node.getBoundingClientRect();
    this.show(node, box.left + box.width / 2, box.top, null);
  }

  show(node, clientX, clientY, event) {
    const lines = this.lines.get(node)(event).filter(Boolean);
    if (!lines.length) return this.hide();
    this.box.replaceChildren(...lines.map((line) => (typeof line === "string" ? el("div", {}, line) : line)));
    this.box.hidden = false;
    const frame = this.root.getBoundingClientRect();
    const x = clamp(clientX - frame.left + 14, 4, Math.max(4, frame.width - this.box.offsetWidth - 4));
    const above = clientY - frame.top - this.box.offsetHeight - 14;
    const y = clientY - this.box.offsetHeight - 14 < 4 ? clientY - frame.top + 20 : above;
    this.box.style.transform = `translate(${px(x)}px, ${px(y)}px)`;
  }

  hide() {
    this.box.hidden = true;
  }
}

/**
 * Says in data-above and data-below which edges of a scrolled box cut its content off; CSS fades them.
 * `beyond`: by how much the content is larger than the box, `at`: how far it is scrolled, in pixels.
 */
function markCuts(box, beyond, at) {
  put(box, "data-above", beyond > 2 && at > 2);
  put(box, "data-below", beyond > 2 && at < beyond - 2);
  return beyond > 2;
}

/** A word with its definition, for the pointer, the keyboard, and a screen reader (as the page's own glossary words). */
function explained(tooltip, node, definition) {
  node.classList.add("term");
  furnish(node, { tabindex: 0 }, [el("span", { class: "unseen" }, ` (${definition}) `)]);
  return tooltip.describe(node, () => [definition]);
}

/** Roving focus: of many items one is in the tab order; `keys` maps a key to a step (or ±Infinity). */
function rove(items, keys, event, onMove) {
  const step = keys[event.key];
  const here = items.indexOf(event.target);
  if (step === undefined || here < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  event.stopPropagation();
  const next = clamp(here + step, 0, items.length - 1);
  makeTabStop(items, next);
  items[next].focus();
  onMove?.(next);
}

function makeTabStop(items, index) {
  items.forEach((item, i) => put(item, "tabindex", i === index ? 0 : -1));
}

const LINE_KEYS = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity };

/** A radio group of small number buttons ("layer 1 2 3 4"). */
class NumberPicker {
  constructor({ label, count, name, onPick, title = el("span", { class: "label", "aria-hidden": "true" }, label) }) {
    this.buttons = range(count).map((i) =>
      el("button", { type: "button", role: "radio", class: "number", "data-value": i,
        "aria-label": name(i), onclick: () => onPick(i) }, String(i + 1)));
    this.group = el("div", { class: "numbers", role: "radiogroup", "aria-label": label,
      onkeydown: (event) => rove(this.buttons, LINE_KEYS, event, onPick) }, ...this.buttons);
    this.node = el("div", { class: "field" }, title, this.group);
  }

  show(index) {
    this.buttons.forEach((button, i) => put(button, "aria-checked", i === index));
    makeTabStop(this.buttons, index);
  }
}
