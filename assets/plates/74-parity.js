// The parity calculator: what equal parameters and equal multiplications cost, for every number of heads.

class Parity extends Picture {
  init() {
    this.at = this.data.start;
  }

  keep() {
    return { heads: this.data.heads[this.at] };
  }

  restore({ heads }) {
    if (this.data.heads.includes(heads)) this.at = this.data.heads.indexOf(heads);
  }

  controls() {
    const { data, say } = this;
    if (data.heads.length < 2) return [];
    return [this.scrubber({ label: say("heads_label"), count: data.heads.length, value: this.at, ends: [String(data.heads[0]), String(data.heads.at(-1))],
      show: (i) => `h = ${data.heads[i]}`, onMove: (i) => { this.at = i; this.plate.draw(); } }).node];
  }

  get rows() {
    return this.data.stops[this.at];
  }

  get columns() {
    return ["parameters", "active", "macs", ...(this.data.timed ? ["ms"] : [])];
  }

  print(column, value) {
    return column === "ms" ? this.say("ms", { n: number(value, value < 10 ? 2 : 1) }) : shortened(this.say, value, 2);
  }

  draw(g, width) {
    const wide = width >= 700;
    return wide ? this.wide(g, width) : this.narrow(g, width);
  }

  get plain() {
    return this.rows.find((row) => row.design === "smoe");
  }

  wide(g, width) {
    const { say, columns } = this;
    const label = 232;
    const gap = 22;
    const room = (width - label) / columns.length - gap;
    columns.forEach((column, c) => this.text(g, label + c * (room + gap), 16, say(`col_${column}`), { class: "strong" }));
    const pitch = 52;
    const bottom = 34 + this.rows.length * pitch;
    this.rows.forEach((row, r) => {
      const y = 34 + r * pitch;
      const line = svg("g");
      this.text(line, 0, y + 16, say(`design_${row.design}`), { class: row.design === "smoe" ? "strong" : "tick ink" });
      if (row.problem) this.lines(line, 0, y + 32, say(`none_${row.design}`), width - 8, { class: "small", "data-size": 12 });
      else {
        this.text(line, 0, y + 32, this.shape(row), { class: "small" });
        columns.forEach((column, c) => this.cell(line, row, column, label + c * (room + gap), y, room));
      }
      this.rect(line, 0, y - 2, width, pitch, { class: "hit" });
      this.mark(line, () => this.tip(row));
      g.append(line);
    });
    return bottom;
  }

  narrow(g, width) {
    const { say, columns } = this;
    const label = 104;
    let y = 0;
    this.rows.forEach((row) => {
      const line = svg("g");
      const top = y;
      this.text(line, 0, y + 16, say(`design_${row.design}`), { class: "strong" });
      if (row.problem) y = this.lines(line, 0, y + 34, say(`none_${row.design}`), width, { class: "small", "data-size": 12 }) + 6;
      else {
        this.text(line, 0, y + 33, this.shape(row), { class: "small" });
        y += 54;
        for (const column of columns) {
          this.text(line, 0, y + 12, say(`short_${column}`), { class: "tick" });
          this.cell(line, row, column, label, y - 15, width - label);
          y += 30;
        }
        y += 8;
      }
      this.rect(line, 0, top, width, y - top, { class: "hit" });
      this.mark(line, () => this.tip(row));
      g.append(line);
    });
    return y;
  }

  peak(column) {
    return maxOf(this.rows.filter((row) => !row.problem && row[column] !== null).map((row) => row[column])) || 1;
  }

  cell(parent, row, column, x, y, room) {
    const value = row[column];
    if (value === null || value === undefined) {
      this.text(parent, x, y + 30, "–", { class: "tick" });
      return;
    }
    const multi = ["text", "code", "follow"].includes(row.design);
    this.rect(parent, x, y + 16, Math.max(1.5, (value / this.peak(column)) * (room - 4)), 9, { class: multi ? "solid" : "hold", rx: 2 });
    const even = x + (this.plain[column] / this.peak(column)) * (room - 4); // where the plain sparse layer ends
    this.line(parent, even, y + 13.5, even, y + 27.5, { class: "rod" });
    const ratio = value / this.plain[column];
    this.text(parent, x, y + 12, this.print(column, value), { class: "tick ink halo", "data-strong": multi });
    this.text(parent, x + room - 4, y + 12, row.design === "smoe" ? "= 1" : `× ${number(ratio, ratio < 9.95 ? 2 : 1)}`, { class: "tick halo", "text-anchor": "end", "data-strong": Math.abs(ratio - 1) > 0.25 });
  }

  shape(row) {
    return this.say(row.experts ? "shape" : "shape_dense", { experts: row.experts, k: row.chosen, width: row.width, inner: row.inner });
  }

  tip(row) {
    const { say, columns } = this;
    if (row.problem) return [say(`design_${row.design}`), say(`none_${row.design}`)];
    return [say(`design_${row.design}`), this.shape(row), ...columns.filter((c) => row[c] !== null).map((c) => `${say(`col_${c}`)}: ${c === "ms" ? this.print(c, row[c]) : grouped(row[c])}`), say("tip_built", { n: grouped(row.built) })];
  }

  sentence() {
    const { data, say } = this;
    const h = data.heads[this.at];
    if (h === 1) return say("parity_one");
    const of = (design, column) => {
      const row = this.rows.find((r) => r.design === design);
      return row.problem ? null : row[column] / this.plain[column];
    };
    const said = ["text", "code", "follow"].filter((design) => of(design, "macs") !== null)
      .map((design) => say(`parity_${design}`, { h, parameters: percent(of(design, "parameters"), 0), macs: number(of(design, "macs"), 2) }));
    return said.length ? said.reduce((first, second) => say("joined", { first, second })) : "";
  }

  sheet() {
    const { data, say, columns } = this;
    return { head: [say("design"), "h", "E", "k", "d / h", say("inner"), ...columns.map((c) => say(`col_${c}`)), say("built")],
      rows: data.stops.flatMap((rows, i) => rows.map((row) => (row.problem ? [say(`design_${row.design}`), data.heads[i], "", "", "", "", ...columns.map(() => ""), ""]
        : [say(`design_${row.design}`), data.heads[i], row.experts, row.chosen, row.width, row.inner, ...columns.map((c) => row[c] ?? ""), row.built]))) };
  }
}

PICTURES.parity = Parity;
