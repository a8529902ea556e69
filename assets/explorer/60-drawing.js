// Part 8: the drawing of a journey, in plain SVG. Every part carries the step that reveals it.

const LEVELS = 6; // vector cells are quantised to -6..6: one path per level instead of one rect per cell

class Drawing {
  constructor(journey, geometry, kit) {
    Object.assign(this, { j: journey, g: geometry, ...kit }); // kit: say, tooltip, family, zoom
    this.marks = []; // what the keyboard can visit, in the order of the journey
    this.parts = [];
    this.under = svg("g");
    this.over = svg("g");
    const { width, height } = geometry;
    const { say, zoom } = kit;
    this.root = svg("svg", { class: "canvas", role: "group", focusable: "false", viewBox: `0 0 ${width} ${height}`,
      width: px(width * zoom), height: px(height * zoom), "aria-label": `${say("stage_label")}. ${say("stage_keys")}` },
    this.under, this.over);
    this.view = el("div", { class: "view", "data-shown": false }, this.root);
    this.compose();
  }

  compose() {
    this.token();
    if (this.j.multi) this.split();
    this.scores();
    this.gates();
    this.experts();
    this.merge();
    this.residual();
    this.headings(); // last: no line may cross a name
  }

  /** Reveals what belongs to this step and the earlier ones; CSS does the moving. */
  showStep(step, animate) {
    this.root.classList.toggle("still", !animate);
    for (const part of this.parts) {
      const from = Number(part.dataset.from);
      part.classList.toggle("on", from <= step);
      part.classList.toggle("new", from === step);
      put(part, "aria-hidden", from > step);
    }
    for (const heading of this.root.querySelectorAll("[data-steps]")) {
      put(heading, "data-now", heading.dataset.steps.split(" ").includes(this.j.steps[step]));
    }
  }

  // ── small tools ─────────────────────────────────────────────────────────────────────────

  /** A group that appears at a step. `layer` decides what covers what. */
  part(step, layer = this.over, kind = "") {
    const group = svg("g", { class: `part ${kind}`, "data-from": this.j.steps.indexOf(step) });
    this.parts.push(group);
    layer.append(group);
    return group;
  }

  /** Something with an exact value: hover and keyboard focus tell it. */
  mark(node, label, lines) {
    this.tooltip.describe(node, lines);
    furnish(node, { role: "img", tabindex: -1, "aria-label": label, class: `mark ${node.getAttribute("class") ?? ""}` }, []);
    this.marks.push(node);
    return node;
  }

  text(x, y, content, attributes = {}) {
    return svg("text", { x: px(x), y: px(y), ...attributes }, content);
  }

  column(name) {
    return this.g.column[name];
  }

  end(name) {
    return this.column(name).at + this.column(name).size;
  }

  // ── headings ────────────────────────────────────────────────────────────────────────────

  headings() {
    const { say, j } = this;
    const words = {
      token: ["token", say("col_token")], mix: ["split", say("col_mix")],
      subtokens: ["split", say("col_subtokens", { heads: j.heads })], scores: ["scores keep", say("col_scores", this.scoreEnds())],
      gates: ["keep gates", say("col_gates", { k: j.k })], experts: ["experts", say("col_experts")],
      sums: ["merge", say("col_sums")], merge: ["merge", say("col_merge")],
      output: ["merge", say(j.multi ? "col_output" : "col_output_one")],
    };
    for (const column of this.g.columns) {
      if (!this.g.wide && (column.name === "mix" || column.name === "merge")) continue; // their boxes have room for the name
      const [steps, label] = words[column.name];
      const node = this.g.wide ? this.wideHeading(column, label) : this.tallHeading(column, label);
      node.setAttribute("data-steps", steps);
      this.over.append(node);
    }
  }

  /** Centred over the column, on two lines where the neighbours leave too little room. */
  wideHeading(column, label) {
    const centre = column.at + column.size / 2;
    const others = this.g.columns.filter((c) => c !== column).map((c) => Math.abs(c.at + c.size / 2 - centre));
    const room = Math.min(...others, 200) - 6;
    const lines = breakLabel(label, room, (text) => textWidth(text, 12.5, 650, this.family));
    const node = svg("text", { class: "heading", "text-anchor": "middle" });
    lines.forEach((line, i) => node.append(svg("tspan", { x: px(centre), y: 20 + (i + 2 - lines.length) * 15 }, line)));
    return node;
  }

  tallHeading(column, label) {
    const y = column.at - (column.name === "token" ? 10 : 12);
    return this.text(1, y, label, { class: "heading halo" });
  }

  // ── vectors ─────────────────────────────────────────────────────────────────────────────

  /** Cells in a diverging scale; cell i of n sits at start + i/n * length on the cross axis. */
  vector(parent, vector, name, column, start, length) {
    const { g, say } = this;
    const paths = Array.from({ length: 2 * LEVELS + 1 }, () => "");
    const cell = length / vector.length;
    for (let i = 0; i < vector.length; i++) {
      const box = boxAt(g, column.at, column.size, start + i * cell, cell);
      paths[Math.round(vector.level(i) * LEVELS) + LEVELS] += `M${box.x} ${box.y}h${box.width}v${box.height}h${-box.width}z`;
    }
    const cells = paths.map((d, i) => d && svg("path", { d, class: `cell v${i - LEVELS}`.replace("v-", "n") })).filter(Boolean);
    const frame = svg("rect", { class: "frame", rx: 3, ...boxAt(g, column.at - 0.5, column.size + 1, start - 0.5, length + 1) });
    const group = svg("g", { class: "vector" }, ...cells, frame);
    const values = range(vector.length).map(vector.value);
    const summary = say("tip_vector", { what: name, n: vector.length,
      low: signed(Math.min(...values)), high: signed(Math.max(...values)) });
    this.mark(group, summary, (event) => {
      if (!event) return [summary];
      const seen = frame.getBoundingClientRect();
      const along = g.wide ? (event.clientY - seen.top) / seen.height : (event.clientX - seen.left) / seen.width;
      const i = clamp(Math.floor(along * vector.length), 0, vector.length - 1);
      return [name, say("tip_cell", { i: i + 1, n: vector.length, value: number(vector.value(i), 3) })];
    });
    parent.append(group);
  }

  wholeVector(step, vector, name, columnName) {
    const { g } = this;
    const start = g.middle - g.vectorLength / 2;
    this.vector(this.part(step), vector, name, this.column(columnName), start, g.vectorLength);
  }

  token() {
    this.wholeVector("token", this.j.x, this.say("col_token"), "token");
  }

  /** Where the slice of each head stands: long enough to see, short enough for its label. */
  sliceSpan(head) {
    const { g, j } = this;
    const length = Math.min(g.vectorLength / j.heads, g.headPitch - (g.wide ? 28 : 12));
    return [g.head(head) - length / 2, length];
  }

  // ── multi-head layer and split ──────────────────────────────────────────────────────────

  boxSpan() {
    const { g } = this;
    return [g.middle - g.vectorLength / 2 - 8, g.vectorLength + 16];
  }

  /** A square matrix W with its name as an index; on a wide stage the box is narrow, and the name runs upwards. */
  layerBox(step, columnName, index, label, detail) {
    const { g } = this;
    const column = this.column(columnName);
    const [start, length] = this.boxSpan();
    const box = boxAt(g, column.at, column.size, Math.max(start, g.crossStart), Math.min(length, g.crossSize));
    const [x, y] = [px(box.x + box.width / 2), px(box.y + box.height / 2)];
    const name = svg("text", { x, y: y + 5, "text-anchor": "middle", transform: g.wide ? `rotate(-90 ${x} ${y})` : null },
      g.wide ? "W" : `${label} W`, svg("tspan", { class: "index", dy: 3 }, index));
    const node = svg("g", { class: "layer" }, svg("rect", { ...box, rx: 7 }), name);
    this.part(step).append(this.mark(node, `${label}. ${detail}`, () => [label, detail]));
  }

  flow(step, name, paths) {
    const group = this.part(step, this.under, "wipe");
    paths.forEach((d) => group.append(svg("path", { class: `flow ${name}`, d })));
  }

  split() {
    const { g, j, say } = this;
    const whole = [g.middle - g.vectorLength / 2, g.middle + g.vectorLength / 2];
    const sub = this.column("subtokens");
    const from = j.layerW ? "mix" : "token";
    if (j.layerW) {
      this.flow("split", "in", [band(g, this.end("token"), whole, this.column("mix").at, whole)]);
      this.layerBox("split", "mix", "head", say("col_mix"), say("tip_mix", { width: j.x.length }));
    }
    const part = g.vectorLength / j.heads;
    this.flow("split", "apart", range(j.heads).map((head) => {
      const [start, length] = this.sliceSpan(head);
      return band(g, this.end(from), [whole[0] + head * part + 1, whole[0] + (head + 1) * part - 1],
        sub.at, [start, start + length]);
    }));
    range(j.heads).forEach((head) => {
      const group = this.part("split", this.over, "late");
      const [start, length] = this.sliceSpan(head);
      const size = Math.floor(j.mixed.length / j.heads);
      this.vector(group, slice(j.mixed, head * size, size), say("subtoken", { head: head + 1 }), sub, start, length);
      if (g.wide) {
        group.append(this.text(sub.at + sub.size / 2, start + length + 16, say("subtoken", { head: head + 1 }),
          { class: "small halo", "text-anchor": "middle" }));
      } else {
        const name = say("subtoken_short", { head: head + 1 });
        const fits = textWidth(name, 12, 400, this.family) <= g.headPitch - 6;
        group.append(this.text(g.head(head), sub.at + sub.size + 15, fits ? name : String(head + 1),
          { class: "small halo", "text-anchor": "middle" }));
      }
    });
  }

  // ── router scores ───────────────────────────────────────────────────────────────────────

  /** One chart per head; bars grow from zero up or down on one scale shared by all heads. */
  scores() {
    const { g, j } = this;
    const column = this.column("scores");
    const scale = scoreScale(j);
    range(j.heads).forEach((head) => {
      const area = this.chartArea(column, head);
      this.feed(column, head, area);
      this.chart(head, area, scale);
    });
  }

  chartArea(column, head) {
    const { g } = this;
    if (g.wide) {
      const height = Math.min(this.j.multi ? 74 : 170, g.headPitch - 30);
      return { x: column.at, width: column.size, height, y: g.head(head) - (height + 16) / 2 };
    }
    const width = Math.min(g.headPitch - 10, 300);
    return { x: g.head(head) - width / 2, width, height: column.size - 16, y: column.at };
  }

  /** The grey band that carries a sub-token (or the token) to its scores. */
  feed(column, head, area) {
    const { g, j } = this;
    const [from, span] = j.multi ? ["subtokens", this.sliceSpan(head)]
      : ["token", [g.middle - g.vectorLength / 2, g.vectorLength]];
    const centre = g.head(head);
    const half = g.wide ? Math.min(j.multi ? span[1] * 0.36 : 60, area.height / 2) : area.width / 2 - 4;
    const target = [centre - half, centre + half];
    const gap = g.wide ? 6 : 4;
    this.flow("scores", "in", [band(g, this.end(from), [span[0], span[0] + span[1]], column.at - gap, target)]);
  }

  chart(head, area, scale) {
    const { g, j, say } = this;
    const group = this.part("scores", this.over, "chart");
    const high = scale.high - scale.low || 1;
    const yOf = (score) => area.y + ((scale.high - score) / high) * area.height;
    const pitch = area.width / j.experts;
    const chosen = new Set(j.choices.filter((c) => c.head === head).map((c) => c.expert));
    const numbered = pitch >= String(j.experts).length * 6.8 + 0.4;
    group.append(svg("line", { class: "zero", x1: px(area.x - 2), x2: px(area.x + area.width + 2), y1: px(yOf(0)), y2: px(yOf(0)) }));
    let lastLabel = -Infinity;
    j.logits[head].forEach((score, expert) => {
      const x = area.x + pitch * expert;
      const inset = Math.min(2, pitch * 0.12);
      // One scale for all heads, so that heights compare; even the smallest score stays a visible bar.
      const tall = j.isOff(expert) ? 0 : Math.max(1.5, Math.abs(yOf(score) - yOf(0)));
      const top = score < 0 ? yOf(0) : yOf(0) - tall;
      const bar = svg("rect", { class: `bar ${score < 0 ? "down" : "up"}`, x: px(x + inset), width: px(pitch - 2 * inset),
        y: px(top), height: px(tall), rx: Math.min(2, pitch / 6), "--i": expert % 16 });
      const hit = svg("rect", { class: "hit", x: px(x), y: px(area.y - 4), width: px(pitch), height: px(area.height + 22) });
      const column = svg("g", { class: "score", "data-expert": expert, "data-kept": chosen.has(expert), "data-off": j.isOff(expert) }, hit, bar);
      const centre = x + pitch / 2;
      if (numbered || (chosen.has(expert) && centre - lastLabel > 16)) {
        column.append(this.text(centre, area.y + area.height + 14, String(expert + 1), { class: "tick", "text-anchor": "middle" }));
        lastLabel = centre;
      }
      const lines = scoreLines(j, say, head, expert);
      group.append(this.mark(column, lines.filter(Boolean).join(", "), () => lines));
    });
    this.threshold(area, yOf, j.logits[head], chosen);
    this.evenMark(group, head, area.x + area.width + (g.wide ? 6 : 2), yOf(evenScore(j.logits[head])));
  }

  /** Where the score axis begins and ends, for the heading. */
  scoreEnds() {
    const { low, high } = scoreScale(this.j);
    const short = (value) => number(value, Number.isInteger(value) ? 0 : 1);
    return { low: short(low), high: short(high) };
  }

  /** A small arrow at the level where all experts would be equally likely; its legend stands below the last chart. */
  evenMark(group, head, x, y) {
    const { j, g, say } = this;
    const values = { even: number(j.even, 3), share: `1/${Math.round(1 / j.even)}` };
    const arrow = (ax, ay) => `M${px(ax)} ${px(ay)}l6 -3.5v7z`;
    const node = svg("g", { class: "even" }, svg("path", { d: arrow(x, y) }), svg("rect", { class: "hit", x: px(x - 2), y: px(y - 8), width: 12, height: 16 }));
    group.append(this.mark(node, say("tip_even", values), () => [say("tip_even", values)]));
    if (!g.wide || head < j.heads - 1) return;
    const area = this.chartArea(this.column("scores"), head);
    const at = area.y + area.height + 34;
    group.append(svg("path", { class: "even", d: arrow(area.x, at - 4) }), this.text(area.x + 11, at, say("even", values), { class: "small halo" }));
  }

  /** The line at the k-th largest score: what lies below it is masked. */
  threshold(area, yOf, scores, chosen) {
    if (!chosen.size) return;
    const least = Math.min(...[...chosen].map((expert) => scores[expert]));
    const y = px(yOf(least));
    const over = this.g.wide ? 5 : 1;
    this.part("keep").append(svg("line", { class: "threshold", x1: px(area.x - over), x2: px(area.x + area.width + over), y1: y, y2: y }));
  }

  // ── gates ───────────────────────────────────────────────────────────────────────────────

  gates() {
    const digits = gateDigits(this.j);
    for (const choice of this.j.choices) {
      const box = this.pillBox(choice);
      const { say, g } = this;
      const lines = [this.j.multi ? say("subtoken", { head: choice.head + 1 }) : null, ...scoreLines(this.j, say, choice.head, choice.expert).slice(1)];
      const round = Math.min(box.height, box.width) / 2;
      const node = svg("g", { class: "pill", "data-head": choice.head, "data-choice": choice.choice, "data-expert": choice.expert,
        "data-gate": number(choice.gate, 4), "data-dropped": !choice.kept },
      svg("rect", { ...box, rx: g.wide ? round : 9 }));
      if (g.wide) {
        node.append(svg("circle", { cx: px(box.x + round), cy: px(box.y + round), r: round - 3 }),
          this.text(box.x + round, box.y + round + 4.2, String(choice.expert + 1), { class: "badge-number", "text-anchor": "middle" }),
          this.text((box.x + 2 * round + box.x + box.width - 6) / 2, box.y + round + 4.2, number(choice.gate, digits), { class: "gate", "text-anchor": "middle" }));
      } else {
        const centre = box.x + box.width / 2;
        const [long, brief] = [digits, 2].map((n) => number(choice.gate, n).replace(/^0/, ""));
        const fits = textWidth(long, 12.5, 650, this.family) <= box.width - 2;
        node.append(svg("circle", { cx: px(centre), cy: px(box.y + 11), r: 8.5 }),
          this.text(centre, box.y + 15.2, String(choice.expert + 1), { class: "badge-number", "text-anchor": "middle" }),
          this.text(centre, box.y + box.height - 5, fits ? long : brief, { class: "gate", "text-anchor": "middle" }));
      }
      this.part("gates").append(this.mark(node, lines.filter(Boolean).join(", "), () => lines));
    }
  }

  /** Pills of one head are stacked along the cross axis, so that their ribbons never cross them. */
  pillBox({ head, choice }) {
    const { g, j } = this;
    const column = this.column("gates");
    const pitch = g.wide ? 26 : Math.min(40, (g.headPitch - 4) / j.k);
    const size = g.wide ? 22 : pitch - 3;
    const centre = g.head(head) + (choice - (j.k - 1) / 2) * pitch;
    return boxAt(g, column.at, column.size, centre - size / 2, size);
  }

  pillEnd(choice) {
    const { g } = this;
    const box = this.pillBox(choice);
    return g.wide ? [box.x + box.width, box.y + box.height / 2] : [box.y + box.height, box.x + box.width / 2];
  }

  // ── experts ─────────────────────────────────────────────────────────────────────────────

  experts() {
    const { g, j } = this;
    this.routes();
    this.turnedAway();
    const most = j.capacity ?? Math.max(1, ...j.load);
    const group = this.part("experts");
    g.cards.forEach((expert, seat) => this.card(group, expert, seat, most));
    if (g.others) this.othersCard(group);
  }

  cardBox(seat) {
    const { g } = this;
    const column = this.column("experts");
    const size = Math.min(g.wide ? 38 : 96, g.seatPitch - (g.wide ? 7 : 4));
    return boxAt(g, column.at, column.size, g.seat(seat) - size / 2, size);
  }

  card(group, expert, seat, most) {
    const { g, j, say, family } = this;
    const box = this.cardBox(seat);
    const full = j.isFull(expert);
    const used = j.choices.some((c) => c.expert === expert);
    const share = clamp(j.load[expert] / most, 0, 1);
    const off = j.isOff(expert);
    const load = off ? say("off") : j.capacity === null ? String(j.load[expert]) : `${j.load[expert]}/${j.capacity}`;
    const inner = box.width - 18;
    const barY = box.y + box.height - 10;
    const node = svg("g", { class: "card", "data-expert": expert, "data-full": full, "data-used": used, "data-off": off }, svg("rect", { ...box, rx: 8, class: "plate" }));
    if (g.wide) {
      const spoken = full ? say("full", { load }) : load;
      const room = inner - textWidth(say("expert", { expert: expert + 1 }), 12.5, 700, family) - 6;
      const fits = textWidth(spoken, 12, full ? 650 : 400, family) <= room;
      node.append(this.text(box.x + 9, box.y + 17, say("expert", { expert: expert + 1 }), { class: "name" }),
        this.text(box.x + box.width - 9, box.y + 17, fits ? spoken : load, { class: "load", "text-anchor": "end" }));
    } else {
      const centre = box.x + box.width / 2;
      const fits = textWidth(load, 12, 600, family) <= box.width - 2;
      node.append(this.text(centre, box.y + 16, String(expert + 1), { class: "name", "text-anchor": "middle" }),
        this.text(centre, box.y + 32, fits || off ? load : String(j.load[expert]), { class: "load", "text-anchor": "middle" }));
    }
    const [barX, barW] = g.wide ? [box.x + 9, inner] : [box.x + 5, box.width - 10];
    node.append(svg("rect", { class: "track", x: px(barX), y: px(barY), width: px(barW), height: 4, rx: 2 }),
      svg("rect", { class: "loadbar", x: px(barX), y: px(barY), width: px(barW * share), height: 4, rx: 2 }));
    const lines = cardLines(j, say, expert);
    group.append(this.mark(node, lines.filter(Boolean).join(", "), () => lines));
  }

  othersCard(group) {
    const { g, say } = this;
    const box = this.cardBox(g.seats - 1);
    const label = say("others", { n: g.others });
    group.append(svg("g", { class: "card others" }, svg("rect", { ...box, rx: 8, class: "plate" }),
      this.text(box.x + box.width / 2, box.y + box.height / 2 + 4, g.wide ? label : `+${g.others}`, { class: "small", "text-anchor": "middle" })));
  }

  /** Ribbons as wide as their gate; at a card, and at a sum, they lie side by side. */
  routes() {
    const { g, j } = this;
    const cards = this.column("experts");
    const kept = j.choices.filter((c) => c.kept).map((c) => ({ ...c, width: Math.max(1.5, c.gate * GATE_WIDTH) }));
    for (const expert of new Set(kept.map((c) => c.expert))) {
      const guests = kept.filter((c) => c.expert === expert);
      const squeeze = Math.min(1, (Math.min(38, g.seatPitch) - 12) / sum(guests.map((c) => c.width)));
      guests.forEach((c) => { c.width *= squeeze; });
      stackRibbons(guests.map((c) => c.width), g.seat(g.cards.indexOf(expert))).forEach((at, i) => { guests[i].door = at; });
    }
    const goal = j.multi ? "sums" : "output";
    for (const head of range(j.heads)) {
      const parts = kept.filter((c) => c.head === head).sort((a, b) => a.door - b.door); // untangled at the sum
      const centre = j.multi ? g.head(head) : g.middle;
      stackRibbons(parts.map((c) => c.width), centre).forEach((at, i) => { parts[i].sumAt = at; });
    }
    const arriving = this.part("experts", this.under);
    const leaving = this.part("merge", this.under);
    kept.forEach((c, i) => {
      arriving.append(this.ribbon(c, i, curve(g, ...this.pillEnd(c), cards.at, c.door)));
      leaving.append(this.ribbon(c, i, curve(g, this.end("experts"), c.door, this.column(goal).at - 1, c.sumAt)));
    });
  }

  ribbon(choice, i, d) {
    const node = svg("path", { class: "ribbon", d, pathLength: 1, "data-expert": choice.expert, "stroke-width": px(choice.width), "--i": i });
    const lines = [this.say("ribbon", { head: choice.head + 1, expert: choice.expert + 1 }), gateLine(this.j, this.say, choice)];
    return this.tooltip.describe(node, () => lines);
  }

  /** A dropped choice runs up to its full expert, meets a cross, and turns away to the residual. */
  turnedAway() {
    const { g, j, say } = this;
    if (!j.dropped.length) return;
    const cards = this.column("experts");
    const gap = cards.at - this.end("gates");
    const group = this.part("experts", this.over, "drops");
    j.dropped.forEach((choice, i) => {
      const door = g.seat(g.cards.indexOf(choice.expert));
      const stop = cards.at - 13;
      const lane = this.end("gates") + gap * 0.42 + (i % 6) * 7;
      const [m0, c0] = this.pillEnd(choice);
      const turn = Math.min(door + 44, g.rail - 14);
      const d = `${curve(g, m0, c0, stop, door)}`
        + `C${g.point(stop - 3, door + 16)} ${g.point(lane, turn - 26)} ${g.point(lane, turn)}`
        + `L${g.point(lane, g.rail - 12)}Q${g.point(lane, g.rail)} ${g.point(lane + 12, g.rail)}`;
      const [x, y] = g.point(stop, door);
      const node = svg("g", { class: "drop", "data-expert": choice.expert, "--i": i }, svg("path", { d }),
        svg("path", { class: "reach", d }),
        svg("path", { class: "cross", d: `M${x - 4.5} ${y - 4.5}l9 9m0-9l-9 9` }));
      group.append(this.tooltip.describe(node, () => [gateLine(j, say, choice)]));
    });
    if (g.wide) {
      const lastLane = this.end("gates") + gap * 0.42 + Math.min(j.dropped.length - 1, 5) * 7;
      group.append(this.text(lastLane + 18, g.rail - 9, this.dropNote(), { class: "warn halo" }));
    }
  }

  dropNote() {
    return dropSentence(this.j, this.say);
  }

  // ── weighted sum, merge, output, residual ───────────────────────────────────────────────

  merge() {
    const { g, j, say } = this;
    if (j.multi) {
      const sums = this.column("sums");
      const size = Math.floor(j.sums.length / j.heads);
      const whole = g.middle - g.vectorLength / 2;
      const part = g.vectorLength / j.heads;
      const target = j.mergeW ? "merge" : "output";
      range(j.heads).forEach((head) => {
        const [start, length] = this.sliceSpan(head);
        this.vector(this.part("merge", this.over, "late"), slice(j.sums, head * size, size),
          say("sum_of", { head: head + 1 }), sums, start, length);
      });
      this.flow("merge", "together", range(j.heads).map((head) => {
        const [start, length] = this.sliceSpan(head);
        return band(g, this.end("sums"), [start, start + length], this.column(target).at,
          [whole + head * part + 1, whole + (head + 1) * part - 1]);
      }));
      if (j.mergeW) {
        this.layerBox("merge", "merge", "merge", say("col_merge"), say("tip_merge", { heads: j.heads }));
        const span = [whole, whole + g.vectorLength];
        this.flow("merge", "out", [band(g, this.end("merge"), span, this.column("output").at, span)]);
      }
    }
    this.wholeVector("merge", j.out, say("col_output"), "output");
  }

  /** The block's residual: the token itself goes round the layer and is added to its output. */
  residual() {
    const { g, say } = this;
    const middleOf = (name) => this.column(name).at + this.column(name).size / 2;
    const [from, to, far] = [middleOf("token"), middleOf("output"), g.middle + g.vectorLength / 2];
    const group = this.part("experts", this.under);
    const corner = 10;
    group.append(svg("path", { class: "rail", d: `M${g.point(from, far + 2)}L${g.point(from, g.rail - corner)}`
      + `Q${g.point(from, g.rail)} ${g.point(from + corner, g.rail)}L${g.point(to - 9, g.rail)}` }));
    if (g.wide) group.append(this.text(from + 22, g.rail - 7, say("residual"), { class: "small halo" }));
    const last = this.part("merge");
    const [x, y] = g.point(to, g.rail);
    last.append(svg("path", { class: "rail", d: `M${g.point(to, far + 2)}L${g.point(to, g.rail - 9)}` }));
    const node = svg("g", { class: "plus" }, svg("circle", { cx: x, cy: y, r: 9 }), svg("path", { d: `M${x - 5} ${y}h10M${x} ${y - 5}v10` }));
    last.append(this.mark(node, say("tip_residual"), () => [say("tip_residual")]));
  }
}

/** Up to two lines, broken at a space, or anywhere for scripts without spaces. */
function breakLabel(label, room, measure) {
  if (measure(label) <= room) return [label];
  const units = label.includes(" ") ? label.split(" ") : [...label];
  const glue = label.includes(" ") ? " " : "";
  const cuts = range(units.length - 1).map((i) => [units.slice(0, i + 1).join(glue), units.slice(i + 1).join(glue)]);
  const widest = (lines) => Math.max(...lines.map(measure));
  return cuts.reduce((best, lines) => (widest(lines) < widest(best) ? lines : best), cuts[0] ?? [label]);
}
