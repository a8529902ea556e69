// VG-44, 45: a picture becomes patches, each one flattened, projected, and told where it lies.
// First the base of all pictures of this chapter: boards of patches with one cursor.

const SIXBIT = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const levelsOf = (text) => Uint8Array.from(text, (letter) => SIXBIT.indexOf(letter));

class PatchPicture extends Picture {
  get grid() {
    return this.data.grid;
  }

  where(patch) {
    return this.say("row_column", { row: Math.floor(patch / this.grid) + 1, column: (patch % this.grid) + 1 });
  }

  href(src) {
    return /^data:image\/(jpeg|png);base64,/.test(src) ? src : "";
  }

  /** n columns of boards on a wide screen, one below the other on a phone: [x, y, size][] and the y below. */
  places(n, width, top, under) {
    const columns = width >= 700 ? n : 1;
    const gap = 26;
    const size = Math.min((width - gap * (columns - 1)) / columns, 420);
    const step = columns > 1 ? (width - size * columns) / (columns - 1) : 0;
    const at = range(n).map((i) => [(i % columns) * (size + step), top + Math.floor(i / columns) * (size + under)]);
    return { at, size, bottom: top + Math.ceil(n / columns) * (size + under) };
  }

  title(g, x, y, size, title, aside = "") {
    this.text(g, x, y - 12, title, { class: "strong" });
    const room = size - textWidth(title, 13, 650, this.plate.family) - 14;
    if (aside && room > 40) this.text(g, x + size, y - 12, clip(aside, room, this.plate.family, 12), { class: "small", "text-anchor": "end" });
  }

  photo(g, x, y, size, src = this.data.src) {
    g.append(svg("image", { href: this.href(src), x: px(x), y: px(y), width: px(size), height: px(size), preserveAspectRatio: "none" }));
  }

  /** One patch of a sheet of equal squares, `across` in a row. */
  crop(g, src, i, across, down, x, y, size) {
    const inner = svg("svg", { x: px(x), y: px(y), width: px(size), height: px(size), viewBox: `${i % across} ${Math.floor(i / across)} 1 1`, preserveAspectRatio: "none" });
    inner.append(svg("image", { href: this.href(src), width: across, height: down, preserveAspectRatio: "none", class: "pixels" }));
    g.append(inner);
  }

  gridlines(g, x, y, size, n = this.grid) {
    const step = size / n;
    const d = range(n - 1).map((i) => `M${px(x)} ${px(y + (i + 1) * step)}h${px(size)}M${px(x + (i + 1) * step)} ${px(y)}v${px(size)}`).join("");
    g.append(svg("path", { d, class: "patch-lines" }));
  }

  ring(g, x, y, size, patch) {
    const step = size / this.grid;
    const at = [x + (patch % this.grid) * step, y + Math.floor(patch / this.grid) * step];
    this.rect(g, at[0] - 1, at[1] - 1, step + 2, step + 2, { class: "patch-ring outer" });
    this.rect(g, at[0] - 1, at[1] - 1, step + 2, step + 2, { class: "patch-ring" });
  }

  /** The pointer and the arrow keys choose a patch; one surface, so one stop of the tab key. */
  surface(g, x, y, size, label, tip) {
    const step = size / this.grid;
    const at = (event) => {
      const box = node.getBoundingClientRect();
      const cell = (value, room) => clamp(Math.floor((value / room) * this.grid), 0, this.grid - 1);
      return cell(event.clientY - box.top, box.height) * this.grid + cell(event.clientX - box.left, box.width);
    };
    const node = this.rect(g, x, y, size, size, { class: "hit mark board-surface" });
    this.tooltip.describe(node, (event) => tip(event ? at(event) : this.patch));
    furnish(node, { role: "application", tabindex: -1, "aria-label": `${label} · ${this.where(this.patch)}`,
      onclick: (event) => this.choose(at(event)),
      onkeydown: (event) => {
        const move = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.grid, ArrowDown: this.grid }[event.key];
        const next = this.patch + (move ?? 0);
        if (!move || next < 0 || next >= this.grid ** 2 || (Math.abs(move) === 1 && Math.floor(next / this.grid) !== Math.floor(this.patch / this.grid))) return;
        event.preventDefault();
        event.stopPropagation();
        this.choose(next);
      } }, []);
    this.plate.marks.push(node);
    return step;
  }

  choose(patch) {
    this.patch = patch;
    this.plate.draw();
  }

  /** A board of one colour per patch: at most one path per class. */
  cells(g, x, y, size, classOf) {
    const step = size / this.grid;
    const paths = new Map();
    range(this.grid ** 2).forEach((i) => {
      const name = classOf(i);
      if (name === null) return;
      paths.set(name, `${paths.get(name) ?? ""}M${px(x + (i % this.grid) * step)} ${px(y + Math.floor(i / this.grid) * step)}h${px(step)}v${px(step)}h${px(-step)}z`);
    });
    for (const [name, d] of paths) g.append(svg("path", { d, class: name }));
  }

  /** The scale of amounts in ten steps, with what its ends mean. */
  scale(g, x, y, size, low, high) {
    const wide = textWidth(low, 12, 400, this.plate.family) + 8;
    const room = size - wide - textWidth(high, 12, 400, this.plate.family) - 8;
    this.text(g, x, y + 10, low, { class: "small" });
    range(10).forEach((i) => this.rect(g, x + wide + (i * room) / 10, y, room / 10 + 0.4, 12, { class: `shade s${i}` }));
    this.text(g, x + size, y + 10, high, { class: "small", "text-anchor": "end" });
  }

  keep() {
    return { patch: this.patch };
  }

  restore({ patch }) {
    if (patch !== undefined && patch < this.grid ** 2) this.patch = patch;
  }
}

class VisionPatches extends PatchPicture {
  init() {
    const { data } = this;
    this.patch = Math.floor(data.grid / 2) * data.grid + Math.floor(data.grid / 2);
    this.crop_ = data.crops.indexOf(data.patch);
    this.colours = bytesOf(data.colours);
    this.like = levelsOf(data.like);
  }

  controls() {
    const { say, data } = this;
    const side = data.grid * data.patch;
    return [this.scrubber({ label: say("patch_size"), count: data.crops.length, value: this.crop_, ends: [data.crops[0], data.crops.at(-1)].map((p) => `${p} px`),
      show: (i) => say("patch_count", { size: data.crops[i], n: (side / data.crops[i]) ** 2 }), onMove: (i) => { this.crop_ = i; this.plate.draw(); } }).node];
  }

  draw(g, width) {
    const { data, say, grid, patch } = this;
    const { at, size, bottom } = this.places(3, width, 30, 52);
    const side = grid * data.patch;
    const [one, two, three] = at;
    const step = size / grid;
    this.title(g, ...one, size, say("patches_picture"), this.where(patch));
    this.photo(g, ...one, size);
    this.gridlines(g, ...one, size, side / data.crops[this.crop_]);
    this.title(g, ...two, size, say("patches_embedded"), say("patches_share", { share: percent(data.share, 0) }));
    range(grid ** 2).forEach((i) => this.rect(g, two[0] + (i % grid) * step, two[1] + Math.floor(i / grid) * step, step + 0.3, step + 0.3,
      { fill: `rgb(${this.colours[3 * i]} ${this.colours[3 * i + 1]} ${this.colours[3 * i + 2]})` }));
    this.title(g, ...three, size, say("patches_like"));
    const row = this.like.subarray(patch * grid ** 2, (patch + 1) * grid ** 2);
    this.cells(g, ...three, size, (i) => `shade s${Math.min(9, Math.floor(row[i] / 6.4))}`);
    this.scale(g, three[0], three[1] + size + 10, size, "0", "1");
    for (const place of at) {
      this.ring(g, ...place, size, patch);
      this.surface(g, ...place, size, say("patches_picture"), (i) => [this.where(i), say("tip_like", { value: number(row[i] / 63) })]);
    }
    return this.flattened(g, bottom, width);
  }

  /** The chosen patch, large; its rows laid end to end; some of the filters that read them. */
  flattened(g, y, width) {
    const { data, say, patch, grid } = this;
    const p = data.patch;
    const big = 96;
    this.text(g, 0, y + 12, say("chosen_patch"), { class: "strong" });
    this.crop(g, data.src, patch, grid, grid, 0, y + 24, big);
    const x = big + 26;
    const room = width - x;
    const pixel = room / (p * p);
    this.text(g, x, y + 34, say("flattened", { n: 3 * p * p }), { class: "small" });
    const row = Math.floor(patch / grid) * p;
    const column = (patch % grid) * p;
    const side = grid * p;
    range(p).forEach((r) => {
      const inner = svg("svg", { x: px(x + r * p * pixel), y: px(y + 42), width: px(p * pixel + 0.3), height: 20, viewBox: `${column} ${row + r} ${p} 1`, preserveAspectRatio: "none" });
      inner.append(svg("image", { href: this.href(data.src), width: side, height: side, preserveAspectRatio: "none", class: "pixels" }));
      g.append(inner);
    });
    this.text(g, x, y + 84, clip(say("filters", { shown: 32, all: data.width }), room, this.plate.family, 12), { class: "small" });
    const n = room >= 32 * 20 ? 32 : 16;
    const cell = Math.min(28, room / n);
    range(32).forEach((i) => this.crop(g, data.filters, i, 16, 2, x + (i % n) * cell, y + 92 + Math.floor(i / n) * cell, cell - 2));
    return y + Math.max(130, 96 + (32 / n) * cell);
  }

  sentence() {
    const { data, say } = this;
    const side = data.grid * data.patch;
    const size = data.crops[this.crop_];
    const n = (side / size) ** 2;
    return say(size === data.patch ? "patches_say" : "patches_say_other", { side, size, n, values: 3 * size * size, width: data.width, model: data.patch });
  }

  sheet() {
    const { data, say, grid } = this;
    return { head: [say("row"), say("column"), "R", "G", "B", say("patches_like")],
      rows: range(grid ** 2).map((i) => [Math.floor(i / grid) + 1, (i % grid) + 1, ...range(3).map((c) => this.colours[3 * i + c]), number(this.like[this.patch * grid ** 2 + i] / 63)]) };
  }
}

PICTURES.patches = VisionPatches;
