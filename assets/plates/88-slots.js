// VG-52, 53: Soft MoE. Every slot is a blend of all patches; every patch reads all slots.

class VisionSlots extends PatchPicture {
  init() {
    const { data } = this;
    this.patch = Math.floor(data.grid / 2) * data.grid + Math.floor(data.grid / 2);
    this.slot = data.slot_effective.indexOf(Math.min(...data.slot_effective));
    this.dispatch = levelsOf(data.dispatch);
    this.read = levelsOf(data.reads);
  }

  keep() {
    return { patch: this.patch, slot: this.slot };
  }

  restore(kept) {
    super.restore(kept);
    this.slot = clamp(kept.slot ?? this.slot, 0, this.data.slots.length - 1);
  }

  /** A level as a multiple of an even share. */
  times(level) {
    const [low, high] = this.data.span.map(Math.log);
    return Math.exp(low + (level / 63) * (high - low));
  }

  weights(g, x, y, size, row) {
    this.photo(g, x, y, size);
    this.rect(g, x, y, size, size, { class: "shroud" });
    const top = maxOf([...row].map((l) => this.times(l)));
    const low = Math.min(...[...row].map((l) => this.times(l)));
    this.cells(g, x, y, size, (i) => `shade s${top > low ? Math.round((9 * (this.times(row[i]) - low)) / (top - low)) : 5} glaze`);
    this.scale(g, x, y + size + 10, size, `${number(low, 1)}×`, `${number(top, 1)}×`);
  }

  draw(g, width) {
    const { data, say, grid } = this;
    const { at, size, bottom } = this.places(3, width, 30, 48);
    const [one, two, three] = at;
    const n = grid ** 2;
    this.title(g, ...one, size, say("slots_board"), say("slots_shown", { shown: data.slots.length, all: data.total }));
    this.board(g, ...one, size);
    const mine = this.dispatch.subarray(this.slot * n, (this.slot + 1) * n);
    const e = Math.floor(data.slots[this.slot] / data.per);
    this.title(g, ...two, size, say("slot_reads", { slot: data.slots[this.slot] + 1, expert: e + 1 }), "");
    this.weights(g, ...two, size, mine);
    const row = this.read.subarray(this.patch * n, (this.patch + 1) * n);
    this.title(g, ...three, size, say("patch_reads"), this.where(this.patch));
    this.weights(g, ...three, size, row);
    this.surface(g, ...two, size, say("slots_board"), (i) => [this.where(i), say("tip_times", { times: number(this.times(mine[i]), 2) })]);
    this.ring(g, ...three, size, this.patch);
    this.surface(g, ...three, size, say("patch_reads"), (i) => [this.where(i), say("tip_times", { times: number(this.times(row[i]), 2) })]);
    return bottom;
  }

  board(g, x, y, size) {
    const { data, say } = this;
    const across = data.columns;
    const down = data.slots.length / across;
    const label = 26;
    const w = (size - label) / across;
    const h = size / down;
    range(down).forEach((e) => {
      const chip = svg("g", { "data-expert": e });
      this.rect(chip, x, y + e * h + 2, 20, h - 4, { class: "bar", rx: 5 });
      this.text(chip, x + 10, y + (e + 0.5) * h + 5, e + 1, { class: "on", "text-anchor": "middle" });
      g.append(chip);
    });
    data.slots.forEach((slot, i) => {
      const [sx, sy] = [x + label + (i % across) * w, y + Math.floor(i / across) * h];
      const one = svg("g", {});
      this.crop(one, data.sheet, i, across, down, sx + 1.5, sy + 2, Math.min(w, h) - 4);
      this.rect(one, sx, sy, w, h, { class: "hit" });
      this.mark(one, () => [say("slot_n", { slot: slot + 1, expert: Math.floor(slot / data.per) + 1 }), say("tip_effective", { n: number(data.slot_effective[i], 1), all: this.grid ** 2 })]);
      furnish(one, { role: "button", class: "mark pickable", "aria-pressed": i === this.slot, onclick: () => { this.slot = i; this.plate.draw(); } }, []);
      g.append(one);
      if (i === this.slot) this.rect(g, sx, sy + 0.5, Math.min(w, h) - 1, Math.min(w, h) - 1, { class: "patch-ring outer", rx: 3 });
      if (i === this.slot) this.rect(g, sx, sy + 0.5, Math.min(w, h) - 1, Math.min(w, h) - 1, { class: "patch-ring", rx: 3 });
    });
  }

  sentence() {
    const { data, say, grid } = this;
    return say("slots_say", { slot: data.slots[this.slot] + 1, n: number(data.slot_effective[this.slot], 0), all: grid ** 2, largest: percent(data.largest[this.slot]), even: percent(1 / grid ** 2, 2), reads: number(data.patch_effective[this.patch], 0), least: data.least.toExponential(0).replace("-", "−") });
  }

  sheet() {
    const { say, grid } = this;
    const n = grid ** 2;
    return { head: [say("row"), say("column"), say("sheet_slot"), say("sheet_patch")],
      rows: range(n).map((i) => [Math.floor(i / grid) + 1, (i % grid) + 1, number(this.times(this.dispatch[this.slot * n + i]), 3), number(this.times(this.read[this.patch * n + i]), 3)]) };
  }
}

PICTURES.slots = VisionSlots;
