// Plates, part 1: what all pictures of the chapters share. Python joins the first two files of
// assets/explorer (building DOM, packed data, palette) and this folder into one ES module.
//
// A plate is a figure with controls above, one SVG, and a foot: number of the figure in the
// visual guide, identities checked in Python, table twin, and downloads. Nothing is sent to the
// server while a visitor drags: all outcomes came with the data.

/** float32 array with a shape: at(i, j, ..) */
function arrayOf({ f4, shape }) {
  const values = new Float32Array(bytesOf(f4).buffer);
  const strides = shape.map((_, i) => shape.slice(i + 1).reduce((a, b) => a * b, 1));
  const at = (...index) => values[index.reduce((offset, i, axis) => offset + i * strides[axis], 0)];
  return { values, shape, at };
}

const signedNumber = (value, digits = 2) => (value > 0 ? "+" : "") + number(value, digits);
const percent = (value, digits = 1) => `${number(100 * value, digits)} %`;
const maxOf = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity);

/** Every kind of picture by the name that Python gives it; each file adds its own. */
const PICTURES = {};

/** A base for one picture. A subclass has controls(), draw(width) and sheet(), and may have sentence() and below(). */
class Picture {
  constructor(plate, data) {
    Object.assign(this, { plate, data, say: plate.say, tooltip: plate.tooltip });
    this.init?.();
  }

  controls() {
    return [];
  }

  text(parent, x, y, content, attributes = {}) {
    const node = svg("text", { x: px(x), y: px(y), ...attributes }, String(content));
    parent.append(node);
    return node;
  }

  /** A wider text, broken at words to fit `room`; returns the y below it. */
  lines(parent, x, y, content, room, attributes = {}, leading = 16) {
    let at = y;
    for (const line of wrap(content, room, this.plate.family, attributes["data-size"] ?? 12.5)) {
      this.text(parent, x, at, line, attributes);
      at += leading;
    }
    return at;
  }

  rect(parent, x, y, width, height, attributes = {}) {
    const node = svg("rect", { x: px(x), y: px(y), width: px(Math.max(0, width)), height: px(Math.max(0, height)), ...attributes });
    parent.append(node);
    return node;
  }

  line(parent, x1, y1, x2, y2, attributes = {}) {
    const node = svg("line", { x1: px(x1), y1: px(y1), x2: px(x2), y2: px(y2), ...attributes });
    parent.append(node);
    return node;
  }

  /** Something with an exact value, for the pointer and for the keyboard. */
  mark(node, lines) {
    this.tooltip.describe(node, lines);
    furnish(node, { role: "img", tabindex: -1, "aria-label": lines(null).filter(Boolean).map((l) => l.textContent ?? l).join(" "),
      class: `mark ${node.getAttribute("class") ?? ""}` }, []);
    this.plate.marks.push(node);
    return node;
  }

  /** Digits that fit numbers of this size, and more where the last chosen and the first masked would print alike. */
  digits(values, chosen) {
    const few = maxOf(values.map(Math.abs)) < 2 ? 2 : 1;
    const least = Math.min(...chosen.map((e) => values[e]));
    const next = maxOf(values.filter((_, e) => !chosen.includes(e)));
    return [few, few + 1].find((n) => number(least, n) !== number(next, n)) ?? few + 2;
  }

  /** What the dashed line in a chart of probabilities is, ending at x. */
  evenLegend(g, x, y, even) {
    const label = this.say("chance", { value: number(even, 3) });
    const left = x - textWidth(label, 12, 400, this.plate.family);
    this.line(g, left - 27, y - 4, left - 7, y - 4, { class: "threshold" });
    this.text(g, x, y, label, { class: "small", "text-anchor": "end" });
  }

  expert(e) {
    return this.say("expert", { expert: e + 1 });
  }

  /**
   * A row of bars, one per expert, positive up and negative down, numbers on the bars.
   * options: x y width height values, low high, chosen, faded(e), print(e), order, tip(e), even (a level)
   */
  bars(parent, options) {
    const { x, y, width, height, values, chosen = [], print, tip } = options;
    const order = options.order ?? range(values.length);
    const low = options.low ?? Math.min(0, ...values);
    const high = options.high ?? Math.max(0, ...values);
    const span = high - low || 1;
    const zero = y + (high / span) * height;
    const pitch = width / order.length;
    const thick = Math.min(34, pitch * 0.74);
    const even = options.even ? y + ((high - options.even) / span) * height : null;
    if (even !== null) this.line(parent, x, even, x + width, even, { class: "threshold" });
    this.line(parent, x, zero, x + width, zero, { class: "zero" });
    order.forEach((e, i) => {
      const value = values[e];
      const centre = x + (i + 0.5) * pitch;
      const group = svg("g", { "data-expert": e, class: "one" });
      if (value) { // neither 0 nor masked
        const size = Math.max(1, (Math.abs(value) / span) * height);
        this.rect(group, centre - thick / 2, value < 0 ? zero : zero - size, thick, size,
          { class: "bar", rx: 2, "data-faded": options.faded?.(e) ?? false });
      }
      const label = print?.(e);
      const top = zero - 5 - (Math.max(0, value || 0) / span) * height;
      const crossed = even !== null && top > even - 3 && top - 12 < even; // a label goes above the line, not under it
      if (label) this.text(group, centre, crossed ? even - 5 : top, label, { class: "tick ink halo", "text-anchor": "middle", "data-strong": chosen.includes(e) });
      this.rect(group, centre - pitch / 2, y - 14, pitch, height + 34, { class: "hit" });
      this.text(group, centre, y + height + 16, e + 1, { class: "tick", "text-anchor": "middle", "data-strong": chosen.includes(e) });
      if (tip) this.mark(group, () => tip(e));
      if (options.onPick) furnish(group, { role: "button", onclick: () => options.onPick(e), class: "mark one pickable" }, []);
      parent.append(group);
    });
    return { zero, pitch };
  }

  /** A range input whose stops were all computed before: { node, input, set } */
  scrubber({ label, count, value, show, onMove, ends = ["", ""] }) {
    const output = el("output", { class: "value" });
    const input = el("input", { type: "range", class: "slider", min: 0, max: count - 1, step: 1, "aria-label": label,
      oninput: () => this.plate.later("scrub", () => { set(Number(input.value)); onMove(Number(input.value)); }) });
    const set = (i) => {
      if (Number(input.value) !== i) input.value = i;
      input.style.setProperty("--done", count > 1 ? i / (count - 1) : 1);
      const text = show(i);
      write(output, text);
      put(input, "aria-valuetext", text);
    };
    input.value = value;
    set(value);
    const node = el("div", { class: "field scrub" }, el("span", { class: "label" }, label),
      el("div", { class: "thumb" }, input, el("div", { class: "ends", "aria-hidden": "true" }, ...ends.map((end) => el("span", {}, end)))), output);
    return { node, input, set };
  }

  /** A radio group of worded buttons. options: [code, text][] */
  radios({ label, options, value, onPick, hidden = false }) {
    const buttons = options.map(([code, text, expert]) => el("button", { type: "button", role: "radio", class: "option",
      "data-value": code, "data-expert": expert ?? null, onclick: () => choose(code, true) }, text));
    const choose = (code, tell) => {
      buttons.forEach((button) => put(button, "aria-checked", button.dataset.value === String(code)));
      makeTabStop(buttons, Math.max(0, buttons.findIndex((button) => button.dataset.value === String(code))));
      if (tell) onPick(code);
    };
    const node = el("div", { class: "field" }, hidden ? null : el("span", { class: "label", "aria-hidden": "true" }, label),
      el("div", { class: "options", role: "radiogroup", "aria-label": label,
        onkeydown: (event) => rove(buttons, LINE_KEYS, event, (i) => choose(options[i][0], true)) }, ...buttons));
    choose(value, false);
    return { node, set: (code) => choose(code, false) };
  }
}

/** Words into lines of at most `room` px; CJK may break anywhere. */
function wrap(content, room, family, size = 12.5) {
  const pieces = String(content).match(/[\u3000-\u9fff\uff00-\uffef]|[^\s\u3000-\u9fff\uff00-\uffef]+\s*|\s+/g) ?? [];
  const lines = [""];
  for (const piece of pieces) {
    const longer = lines.at(-1) + piece;
    if (lines.at(-1) && textWidth(longer.trimEnd(), size, 400, family) > room) lines.push(piece.trimStart());
    else lines[lines.length - 1] = longer;
  }
  return lines.map((line) => line.trimEnd());
}

/** A text cut with an ellipsis to fit `room` px. */
function clip(content, room, family, size = 12.5, weight = 400) {
  if (textWidth(content, size, weight, family) <= room) return content;
  const letters = [...content];
  while (letters.length > 1 && textWidth(`${letters.join("")}…`, size, weight, family) > room) letters.pop();
  return `${letters.join("")}…`;
}

const LEVEL_COUNT = 6;

/** A heat map as at most thirteen paths, one per shade: warm above zero, cold below. */
function heat(parent, { rows, cols, at, x, y, cw, ch, top }) {
  const paths = new Map();
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < cols; c++) {
      const level = clamp(Math.round((at(r, c) / top) * LEVEL_COUNT), -LEVEL_COUNT, LEVEL_COUNT);
      paths.set(level, `${paths.get(level) ?? ""}M${px(x + c * cw)} ${px(y + r * ch)}h${px(cw)}v${px(ch)}h${px(-cw)}z`);
    }
  }
  for (const [level, d] of paths) parent.append(svg("path", { d, class: `cell v${level}`.replace("v-", "n") }));
  parent.append(svg("rect", { class: "frame", x: px(x - 0.5), y: px(y - 0.5), width: px(cols * cw + 1), height: px(rows * ch + 1), rx: 2 }));
}
