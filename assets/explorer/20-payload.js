// Part 3: reading what Python sent. Data are 0-based; everything shown is 1-based.

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

const NO_CHOICE = 255;
const DROPPED = 128;

/** Who chose whom, in one model: bytes [outcome][layer][token][head][choice], of the outcomes that are ready. */
class Choices {
  constructor(model, layers, tokens, outcomes) {
    Object.assign(this, { heads: model.heads, k: model.k, layers, tokens });
    this.bytes = bytesOf(model.choice);
    let ready = 0;
    this.place = outcomes.map((outcome) => (outcome.ready ? ready++ : -1));
  }

  at(outcome, layer, token, head, choice) {
    const i = (((this.place[outcome] * this.layers + layer) * this.tokens + token) * this.heads + head) * this.k + choice;
    const byte = this.bytes[i] ?? NO_CHOICE;
    return byte === NO_CHOICE ? null : { expert: byte % DROPPED, dropped: byte >= DROPPED };
  }

  /** All choices of one sub-token, best first. */
  of(outcome, layer, token, head) {
    return range(this.k).map((choice) => this.at(outcome, layer, token, head, choice)).filter(Boolean);
  }

  /** The experts chosen by any sub-token of a token, dropped choices included (design.md 2). */
  experts(outcome, layer, token) {
    const found = new Set();
    for (let head = 0; head < this.heads; head++) {
      for (const { expert } of this.of(outcome, layer, token, head)) found.add(expert);
    }
    return found;
  }
}

/** A vector sent as int8 with its largest magnitude. */
function vectorOf(packed) {
  const q = new Int8Array(bytesOf(packed.q).buffer);
  return { length: q.length, level: (i) => q[i] / 127, value: (i) => (q[i] / 127) * packed.max, max: packed.max };
}

/** One part of a vector, for the sub-tokens. */
function slice(vector, start, length) {
  return { length, max: vector.max, level: (i) => vector.level(start + i), value: (i) => vector.value(start + i) };
}

const towardsText = (colour, share) => `color-mix(in oklab, ${colour} ${share}%, var(--text))`;

const HEX = /^#[0-9a-f]{6}$/i;

/**
 * The rules that give every [data-expert] its colours, and that light all marks of an expert
 * when an ancestor names it in data-lit. So hover linking is one attribute, not a loop.
 */
function paletteRules(palette, scale, needsEdge) {
  const rules = palette.map(({ fill: colour, ink }, e) => {
    if (!HEX.test(colour) || !HEX.test(ink)) return "";
    const [edge, line] = needsEdge(colour) ? [towardsText(colour, 50), towardsText(colour, 88)] : [colour, colour];
    return `[data-expert="${e}"]{--fill:${colour};--on:${ink};--edge:${edge};--line-fill:${line}}`
      + `[data-lit~="${e}"] [data-expert="${e}"]{--lit:1}`;
  });
  (scale ?? []).forEach((colour, i) => HEX.test(colour) && rules.push(`.hx{--seq-${i}:${colour}}`));
  return rules.join("\n");
}

/** WCAG relative luminance of [r, g, b] in 0..255. */
function luminance(rgb) {
  const [r, g, b] = rgb.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function contrast(a, b) {
  const [light, dark] = [luminance(a), luminance(b)].sort((x, y) => y - x);
  return (light + 0.05) / (dark + 0.05);
}

const rgbOfHex = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));

/** The colour a CSS expression has just now, whichever notation the browser reports. */
function rgbOfStyle(colour) {
  ruler.fillStyle = "#000";
  ruler.fillStyle = colour;
  ruler.fillRect(0, 0, 1, 1);
  return [...ruler.getImageData(0, 0, 1, 1).data].slice(0, 3);
}
