// VG-50, 51: one matrix of scores, two softmaxes: down the columns (dispatch) and along the rows (combine).

class VisionMixing extends Picture {
  init() {
    Object.assign(this, { row: 0, column: 0 });
  }

  keep() {
    return { row: this.row, column: this.column };
  }

  restore(kept) {
    Object.assign(this, kept);
  }

  draw(g, width) {
    const { data, say } = this;
    const n = data.rows.length;
    const columns = width >= 700 ? 3 : 1;
    const gap = 34;
    const size = Math.min(360, (width - gap * (columns - 1)) / columns);
    const step = columns > 1 ? (width - columns * size) / (columns - 1) : 0;
    const flat = (rows) => rows.flat();
    [["scores", maxOf(flat(data.scores).map(Math.abs)), 0], ["dispatch", maxOf(flat(data.dispatch)), 1], ["combine", maxOf(flat(data.combine)), 2]].forEach(([name, top, i]) => {
      const x = (i % columns) * (size + step);
      const y = 30 + Math.floor(i / columns) * (size + 66);
      const cell = size / n;
      this.text(g, x, y - 12, say(`matrix_${name}`), { class: "strong" });
      heat(g, { rows: n, cols: n, at: (r, c) => data[name][r][c], x, y, cw: cell, ch: cell, top });
      if (name !== "combine") this.rect(g, x + this.column * cell, y, cell, size, { class: name === "dispatch" ? "ring" : "chosen-cell" });
      if (name !== "dispatch") this.rect(g, x, y + this.row * cell, size, cell, { class: name === "combine" ? "ring" : "chosen-cell" });
      this.text(g, x, y + size + 20, say(`sum_${name}`, { column: number(data.column_sum[this.column], 3), row: number(data.row_sum[this.row], 3), rows: data.size[0], columns: data.size[1] }), { class: "small" });
      this.surface(g, name, x, y, size, n);
    });
    return 30 + Math.ceil(3 / columns) * (size + 66) - 34;
  }

  surface(g, name, x, y, size, n) {
    const { data, say } = this;
    const node = this.rect(g, x, y, size, size, { class: "hit mark board-surface" });
    const cell = (event) => {
      const box = node.getBoundingClientRect();
      const at = (v, room) => clamp(Math.floor((v / room) * n), 0, n - 1);
      return [at(event.clientY - box.top, box.height), at(event.clientX - box.left, box.width)];
    };
    const go = (r, c) => { Object.assign(this, { row: clamp(r, 0, n - 1), column: clamp(c, 0, n - 1) }); this.plate.draw(); };
    this.tooltip.describe(node, (event) => {
      const [r, c] = event ? cell(event) : [this.row, this.column];
      return [say("patch_slot", { patch: data.rows[r] + 1, slot: data.columns[c] + 1, expert: Math.floor(data.columns[c] / data.per) + 1 }), `${say(`matrix_${name}`)}: ${number(data[name][r][c], name === "scores" ? 2 : 5)}`];
    });
    furnish(node, { role: "application", tabindex: -1, "aria-label": say(`matrix_${name}`), onclick: (event) => go(...cell(event)),
      onkeydown: (event) => {
        const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
        if (!move) return;
        event.preventDefault();
        event.stopPropagation();
        go(this.row + move[0], this.column + move[1]);
      } }, []);
    this.plate.marks.push(node);
  }

  sentence() {
    const { data, say, row, column } = this;
    return say("mixing_say", { patch: data.rows[row] + 1, slot: data.columns[column] + 1, score: number(data.scores[row][column]), dispatch: percent(data.dispatch[row][column], 3), combine: percent(data.combine[row][column], 3) });
  }

  sheet() {
    const { data, say } = this;
    return { head: [say("sheet_patch_n"), say("sheet_slot_n"), "R", "D", "C"],
      rows: data.rows.flatMap((r, i) => data.columns.map((c, j) => [r + 1, c + 1, data.scores[i][j], data.dispatch[i][j], data.combine[i][j]])) };
  }
}

PICTURES.mixing = VisionMixing;
