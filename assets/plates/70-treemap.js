// VG-54: all weights of the loaded model as areas; experts that nobody chose are grey.

/** 46,702,792,704 */
const grouped = (value) => Math.round(value).toLocaleString("en");

/** 46.7 B, 467 亿: the language says its units, largest first, as "1e9: B|1e6: M". */
function shortened(say, value, digits = 1) {
  for (const unit of say("units").split("|")) {
    const [size, name] = unit.split(": ");
    const shown = value / Number(size);
    if (shown >= 0.9995) return `${number(shown, shown < 9.995 ? digits : shown < 99.95 ? Math.min(digits, 1) : 0)} ${name}`;
  }
  return grouped(value);
}

/** A box cut along one axis, in proportion to sizes. */
function sliced({ x, y, w, h }, sizes, down) {
  const total = sum(sizes) || 1;
  let at = 0;
  return sizes.map((size) => {
    const share = size / total;
    const box = down ? { x, y: y + at * h, w, h: share * h } : { x: x + at * w, y, w: share * w, h };
    at += share;
    return box;
  });
}

class Treemap extends Picture {
  init() {
    this.model = this.data.model;
    this.k = this.now.trained;
  }

  get now() {
    return this.data.models[this.model];
  }

  keep() {
    return { from: this.data.model, model: this.model, k: this.k };
  }

  restore({ from, model, k }) {
    if (from === this.data.model) this.model = model;
    this.k = Math.min(k, this.now.experts);
  }

  controls() {
    const { data, say } = this;
    this.which = this.radios({ label: say("model"), options: data.models.map((m, i) => [i, m.name]), value: this.model, onPick: (i) => { this.model = Number(i); this.plate.draw(); } });
    const trained = data.models[0].trained;
    this.thumb = this.scrubber({ label: say("k_label"), count: data.models[0].experts, value: this.k - 1, ends: ["1", String(data.models[0].experts)],
      show: (i) => (i + 1 === trained ? say("k_trained", { k: i + 1 }) : say("k_what_if", { k: i + 1 })), onMove: (i) => { this.k = i + 1; this.plate.draw(); } });
    return [this.which.node, this.thumb.node];
  }

  draw(g, width) {
    const top = this.meter(g, width);
    return width >= 700 ? this.wide(g, width, top) : this.narrow(g, width, top);
  }

  /** How much of all weights this token uses. */
  meter(g, width) {
    const { say, k } = this;
    const now = this.now;
    const share = now.active[k - 1] / now.total;
    const room = width - 2;
    this.text(g, 0, 20, say("tree_used", { share: percent(share, 0) }), { class: "big" });
    const note = say("tree_of", { active: grouped(now.active[k - 1]), total: grouped(now.total) });
    if (textWidth(note, 12, 400, this.plate.family) + 150 < width) this.text(g, width, 20, note, { class: "small", "text-anchor": "end" });
    this.rect(g, 1, 32, room, 14, { class: "room", rx: 3 });
    this.rect(g, 1, 32, room * share, 14, { class: "solid", rx: 3 });
    const blind = (now.total - (now.units - now.chance[k - 1]) * now.expert) / now.total;
    this.line(g, 1 + room * blind, 28, 1 + room * blind, 50, { class: "threshold" });
    const label = say("tree_chance", { share: percent(blind, 0) });
    const half = textWidth(label, 12, 400, this.plate.family) / 2;
    this.text(g, clamp(1 + room * blind, half, width - half), 64, label, { class: "small", "text-anchor": "middle" });
    return 78;
  }

  columns() {
    return [{ name: this.say("tree_ends"), table: this.now.outside }, ...this.now.blocks.map((table, i) => ({ name: this.say("layer_n", { layer: i + 1 }), table, layer: i }))];
  }

  wide(g, width, top) {
    const parts = this.columns();
    const box = { x: 0, y: top + 22, w: width, h: 330 };
    sliced(box, parts.map((part) => sum(Object.values(part.table))), false).forEach((at, i) => {
      this.text(g, at.x + 2, top + 14, clip(parts[i].name, at.w - 4, this.plate.family), { class: "strong" });
      this.part(g, at, parts[i], true);
    });
    return box.y + box.h + 2;
  }

  narrow(g, width, top) {
    const parts = this.columns();
    const whole = 560;
    let y = top;
    const sizes = parts.map((part) => sum(Object.values(part.table)));
    parts.forEach((part, i) => {
      const h = (whole * sizes[i]) / sum(sizes);
      this.text(g, 0, y + 14, part.name, { class: "strong" });
      this.part(g, { x: 0, y: y + 20, w: width, h }, part, false);
      y += h + 28;
    });
    return y;
  }

  /** One block, or what stands outside of all: what always works as slices, the experts as equal tiles. */
  part(g, box, { table, layer }, down) {
    const keys = ["embedding", "position", "attention", "square", "router", "norms", "dense"].filter((key) => table[key]);
    const sizes = keys.map((key) => table[key]);
    const [above, below] = sliced(box, [sum(sizes), table.experts ?? 0], true);
    sliced(above, sizes, down).forEach((at, i) => this.always(g, at, keys[i], sizes[i]));
    if (table.experts) this.experts(g, below, layer);
  }

  always(g, { x, y, w, h }, key, size) {
    const { say } = this;
    const tile = svg("g");
    this.rect(tile, x + 1, y + (h > 4 ? 1 : 0), w - 2, h - (h > 4 ? 2 : 0), { class: "always", rx: h > 8 && w > 8 ? 3 : 0 });
    const name = say(`part_${key}`);
    if (h > 14 && w > 34) {
      const lines = h > 38 && w > 60 ? [clip(name, w - 12, this.plate.family), shortened(say, size)] : [clip(name, w - 10, this.plate.family)];
      lines.forEach((line, i) => this.text(tile, x + w / 2, y + h / 2 + 4 + (i - (lines.length - 1) / 2) * 16, line, { class: i ? "small" : "tick ink", "text-anchor": "middle" }));
    }
    this.mark(tile, () => [name, say("tip_weights", { n: grouped(size) }), say("tip_always")]);
    g.append(tile);
  }

  experts(g, box, layer) {
    const { say, k } = this;
    const now = this.now;
    const visits = now.visits[k - 1][layer];
    const columns = this.across(box, now.experts);
    const [w, h] = [box.w / columns, box.h / Math.ceil(now.experts / columns)];
    range(now.experts).forEach((e) => {
      const [x, y] = [box.x + (e % columns) * w, box.y + Math.floor(e / columns) * h];
      const used = visits[e] > 0;
      const tile = svg("g", { "data-expert": e, "data-idle": !used });
      this.rect(tile, x + 1, y + 1, w - 2, h - 2, { class: used ? "bar" : "idle", rx: 3 });
      this.text(tile, x + w / 2, y + h / 2 + 4.5, e + 1, { class: used ? "on" : "small", "text-anchor": "middle" });
      this.mark(tile, () => [say("expert_in", { expert: e + 1, layer: layer + 1 }), say("tip_weights", { n: grouped(now.expert) }),
        !used ? say("tip_idle") : now.heads > 1 ? say("tip_visits", { n: visits[e], heads: now.heads }) : say("tip_chosen")]);
      g.append(tile);
    });
  }

  /** Columns of the tiles: the divisor of E that makes them least slender. */
  across({ w, h }, experts) {
    const slender = (c) => Math.abs(Math.log((w / c) / (h / (experts / c)) / 1.3));
    return range(experts).map((i) => i + 1).filter((c) => experts % c === 0).reduce((a, b) => (slender(b) < slender(a) ? b : a));
  }

  sentence() {
    const { data, say, k } = this;
    const now = this.now;
    const visited = sum(now.visits[k - 1].flat().map((n) => (n > 0 ? 1 : 0)));
    const values = { name: data.name, k, heads: now.heads, visited, units: now.units, idle: now.units - visited, chance: number(now.chance[k - 1], 1),
      active: percent(now.active[k - 1] / now.total, 0), sub: percent(now.sub[k - 1] / now.total, 0), macs: shortened(say, now.macs[k - 1], 2),
      trained: now.trained, bits: now.bits[k - 1] === null ? "–" : number(now.bits[k - 1]), base: now.bits[now.trained - 1] === null ? "–" : number(now.bits[now.trained - 1]) };
    const first = say(now.heads > 1 ? "tree_say" : "tree_say_one", values);
    return k === now.trained || now.bits[0] === null ? first : say("joined", { first, second: say("tree_say_k", values) });
  }

  sheet() {
    const { say, k } = this;
    const rows = this.columns().flatMap(({ name, table, layer }) => Object.entries(table).flatMap(([key, size]) => (key === "experts"
      ? range(this.now.experts).map((e) => [name, this.expert(e), this.now.expert, this.now.visits[k - 1][layer][e] > 0 ? this.now.expert : 0])
      : [[name, say(`part_${key}`), size, size]])));
    return { head: [say("where"), say("part"), say("weights"), say("used")], rows };
  }
}

PICTURES.treemap = Treemap;
