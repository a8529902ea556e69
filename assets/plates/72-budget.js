// VG-55, VG-56: a model's parameters part by part as a waterfall, all of them above, those of one token below.

class Budget extends Picture {
  init() {
    this.at = this.data.trained;
    this.bits = 16;
    this.context = 1;
  }

  keep() {
    return { same: JSON.stringify([this.data.name, this.data.ks]), at: this.at, bits: this.bits, context: this.context };
  }

  restore({ same, at, bits, context }) {
    Object.assign(this, { bits, context });
    if (same === JSON.stringify([this.data.name, this.data.ks])) this.at = at;
  }

  controls() {
    const { data, say } = this;
    const nodes = [];
    if (data.ks.length > 1) {
      this.thumb = this.scrubber({ label: say("chosen_label"), count: data.ks.length, value: this.at, ends: [String(data.ks[0]), String(data.ks.at(-1))],
        show: (i) => (i === data.trained ? say("chosen_own", { k: data.ks[i] }) : `k = ${data.ks[i]}`), onMove: (i) => { this.at = i; this.plate.draw(); } });
      nodes.push(this.thumb.node);
    }
    nodes.push(this.scrubber({ label: say("context_label"), count: data.contexts.length, value: this.context, ends: ["0", grouped(data.contexts.at(-1))],
      show: (i) => say("context_value", { n: grouped(data.contexts[i]) }), onMove: (i) => { this.context = i; this.plate.draw(); } }).node);
    nodes.push(this.radios({ label: say("bits_label"), options: [16, 8, 4].map((b) => [b, say("bits_value", { bits: b })]), value: this.bits, onPick: (b) => { this.bits = Number(b); this.plate.draw(); } }).node);
    return nodes;
  }

  get active() {
    return this.data.active[this.at];
  }

  get totals() {
    return [sum(this.data.parts.map((part) => part.total)), sum(this.active)];
  }

  bytes(count) {
    return shortened((key) => this.say(key === "units" ? "byte_units" : key), (count * this.bits) / 8);
  }

  get macs() {
    return this.data.macs[this.at] + this.data.contexts[this.context] * this.data.attended;
  }

  draw(g, width) {
    const top = this.headline(g, width);
    const wide = width >= 560;
    return this.cost(g, width, this.waterfall(g, width, top, wide) + 18);
  }

  headline(g, width) {
    const { say, bits } = this;
    const [total, active] = this.totals;
    const wide = width >= 560;
    const x = wide ? width / 2 : 0;
    const room = wide ? width / 2 - 14 : width;
    const block = (at, y, kind, values) => {
      this.rect(g, at, y + 5, 12, 12, { class: kind, rx: 2 });
      this.text(g, at + 20, y + 18, say(values.key, values), { class: "big" });
      return this.lines(g, at + 20, y + 38, say(`${values.key}_note`, values), room - 20, { class: "small", "data-size": 12 });
    };
    const first = block(0, 0, "hold", { key: "in_memory", n: shortened(say, total), exact: grouped(total), bytes: this.bytes(total), bits });
    const second = block(x, wide ? 0 : first + 6, "solid", { key: "for_token", n: shortened(say, active), exact: grouped(active), bytes: this.bytes(active), share: percent(active / total) });
    return Math.max(first, second) + 10;
  }

  /** Every part begins where the one before ended: above the total, below what a token uses. */
  waterfall(g, width, top, wide) {
    const { data, say } = this;
    const [total, active] = this.totals;
    const [label, right] = wide ? [112, 122] : [0, 0];
    const [head, pitch] = wide ? [0, 36] : [20, 54];
    const room = width - label - right - 2;
    const sx = (v) => label + (v / total) * room;
    let [sumTotal, sumActive] = [0, 0];
    const rows = [...data.parts.map((part, i) => ({ key: `part_${part.name}`, total: part.total, active: this.active[i] })), { key: "sum", total, active, last: true }];
    rows.forEach((row, i) => {
      const y = top + i * pitch + (row.last ? 8 : 0);
      const [from, start] = row.last ? [0, 0] : [sumTotal, sumActive];
      const line = svg("g");
      if (row.last) this.line(line, 0, y - 5, width, y - 5, { class: "gridline" });
      this.text(line, 0, wide ? y + 19 : y + 14, say(row.key), { class: row.last ? "strong" : "tick ink" });
      this.rect(line, sx(from), y + head + 4, Math.max(1.5, (row.total / total) * room), 11, { class: "hold", rx: 2 });
      this.rect(line, sx(start), y + head + 17, Math.max(1.5, (row.active / total) * room), 11, { class: "solid", rx: 2 });
      if (!row.last) this.line(line, sx(from + row.total), y + head + 4, sx(from + row.total), y + head + pitch + 4 + (i === rows.length - 2 ? 8 : 0), { class: "carry" });
      if (!row.last) this.line(line, sx(start + row.active), y + head + 17, sx(start + row.active), y + head + pitch + 17 + (i === rows.length - 2 ? 8 : 0), { class: "carry" });
      if (wide) {
        this.text(line, width, y + 14, grouped(row.total), { class: row.last ? "tick ink" : "tick", "text-anchor": "end", "data-strong": row.last ?? false });
        this.text(line, width, y + 28, grouped(row.active), { class: "tick accent", "text-anchor": "end" });
      } else {
        this.text(line, width, y + 14, `${shortened(say, row.total)} · ${shortened(say, row.active)}`, { class: "tick", "text-anchor": "end", "data-strong": row.last ?? false });
      }
      this.rect(line, 0, y, width, pitch, { class: "hit" });
      this.mark(line, () => [say(row.key), say("tip_total", { n: grouped(row.total) }), say("tip_active", { n: grouped(row.active) }), say("tip_share", { share: percent(row.total / total), active: percent(row.active / active) })]);
      g.append(line);
      sumTotal += row.total;
      sumActive += row.active;
    });
    return top + rows.length * pitch + 8;
  }

  /** Multiplications of one token: with weights, and with the tokens it looks back at. */
  cost(g, width, y) {
    const { data, say } = this;
    const weights = data.macs[this.at];
    const looking = this.macs - weights;
    const most = maxOf(data.macs) + data.contexts.at(-1) * data.attended;
    const room = width - 2;
    const title = say("macs_title", { n: shortened(say, this.macs) });
    this.text(g, 0, y + 12, title, { class: "strong" });
    const legend = say("macs_parts", { weights: shortened(say, weights), looking: shortened(say, looking) });
    const beside = textWidth(title, 13, 650, this.plate.family) + textWidth(legend, 12, 400, this.plate.family) + 20 < width;
    this.text(g, beside ? width : 0, y + (beside ? 12 : 30), legend, { class: "small", "text-anchor": beside ? "end" : "start" });
    const at = y + (beside ? 22 : 40);
    this.rect(g, 1, at, room, 14, { class: "room", rx: 3 });
    this.rect(g, 1, at, (weights / most) * room, 14, { class: "solid", rx: 2 });
    this.rect(g, 1 + (weights / most) * room, at, (looking / most) * room, 14, { class: "hold", rx: 2 });
    return at + 18;
  }

  sentence() {
    const { data, say } = this;
    const [total, active] = this.totals;
    const k = data.ks[this.at];
    const values = { name: data.name, k, n: shortened(say, total), m: shortened(say, active), times: number(total / active, 1), units: grouped(data.units[0]), visited: grouped(data.visited[this.at] ?? 0), bytes: this.bytes(total), bits: this.bits };
    return say(data.ks.length ? "budget_say" : "budget_say_dense", values);
  }

  sheet() {
    const { data, say } = this;
    const rows = data.parts.map((part, i) => [say(`part_${part.name}`), part.total, this.active[i]]);
    return { head: [say("part"), say("total_head"), say("active_head")], rows: [...rows, [say("sum"), ...this.totals]] };
  }
}

PICTURES.budget = Budget;
