// VG-17: model -> block -> MoE layer -> one expert, each panel a magnified part of the one before.

class Zoom extends Picture {
  draw(g, width) {
    const wide = width >= 720;
    const gap = wide ? 54 : 18;
    const columns = wide ? 4 : 2;
    const w = (width - gap * (columns - 1) - 2) / columns;
    const h = 196;
    const place = (i) => ({ x: 1 + (i % columns) * (w + gap), y: 30 + Math.floor(i / columns) * (h + 92), w, h });
    const magnified = [this.model(g, place(0)), this.block(g, place(1)), this.layer(g, place(2))];
    this.neurons(g, place(3));
    if (wide) magnified.forEach((box, i) => this.rays(g, box, place(i + 1)));
    this.captions(g, place, wide);
    return wide ? h + 56 : 2 * h + 92 + 56;
  }

  rays(g, from, to) {
    g.prepend(svg("path", { class: "ray", d: `M${px(from.x + from.w)} ${px(from.y)}L${px(to.x)} ${px(to.y)}V${px(to.y + to.h)}L${px(from.x + from.w)} ${px(from.y + from.h)}z` }));
  }

  captions(g, place, wide) {
    const { data, say } = this;
    const p = data.parameters;
    const count = (n) => n.toLocaleString("en");
    const foot = [
      say("zoom_weights", { n: count(p.model) }), say("zoom_weights", { n: count(p.block) }),
      say("zoom_router", { n: count(p.router), share: percent(p.router / p.layer, 2) }),
      say("zoom_firing", { n: count(data.firing), of: count(data.hidden) }),
    ];
    const head = [say("zoom_model"), say("zoom_block", { layer: data.layer + 1 }), say("zoom_layer"),
      say("zoom_expert", { expert: data.chosen[0] + 1 })];
    head.forEach((title, i) => {
      const { x, y, w, h } = place(i);
      this.text(g, x, y - 11, title, { class: "strong" });
      this.lines(g, x, y + h + 19, foot[i], wide ? w + 30 : w, { class: "small" });
    });
  }

  box(g, x, y, w, h, label, kind = "") {
    this.rect(g, x, y, w, h, { class: `plain ${kind}`, rx: 6 });
    if (label) this.text(g, x + w / 2, y + h / 2 + 4, clip(label, w - 6, this.plate.family), { "text-anchor": "middle", class: kind === "lit" ? "accent" : "" });
    return { x, y, w, h };
  }

  model(g, { x, y, w, h }) {
    const { data, say } = this;
    const n = data.blocks + 2;
    const pitch = h / n;
    let lit = null;
    range(n).forEach((i) => {
      const block = i - 1;
      const label = i === 0 ? say("zoom_embedding") : i === n - 1 ? say("zoom_output") : say("zoom_block", { layer: block + 1 });
      const at = this.box(g, x, y + i * pitch, w, pitch - 7, label, block === data.layer ? "lit" : i === 0 || i === n - 1 ? "ghost" : "");
      if (block === data.layer) lit = at;
    });
    return lit;
  }

  block(g, { x, y, w, h }) {
    const { say } = this;
    this.rect(g, x, y, w, h, { class: "panel-edge", rx: 8 });
    const names = ["zoom_norm", "zoom_attention", "zoom_plus", "zoom_norm", "zoom_moe", "zoom_plus"];
    const pitch = (h - 14) / names.length;
    let lit = null;
    names.forEach((name, i) => {
      const plus = name === "zoom_plus";
      const at = plus ? null : this.box(g, x + 24, y + 9 + i * pitch, w - 36, pitch - 7, say(name), name === "zoom_moe" ? "lit" : "");
      const middle = y + 9 + i * pitch + (pitch - 7) / 2;
      if (plus) this.plus(g, x + 12, middle, x + w / 2 + 6, middle - pitch / 2);
      else if (name === "zoom_norm") this.line(g, x + 12, middle, x + 24, middle, { class: "rail" });
      else this.line(g, x + w / 2 + 6, middle - pitch + (pitch - 7) / 2, x + w / 2 + 6, middle - (pitch - 7) / 2, { class: "rail" });
      if (name === "zoom_moe") lit = at;
    });
    this.line(g, x + 12, y + 6, x + 12, y + h - 6, { class: "rail" });
    return lit;
  }

  /** Back into the residual stream: from under the box at (from, top) to the circle. */
  plus(g, x, y, from, top) {
    g.append(svg("path", { class: "rail", d: `M${px(from)} ${px(top)}V${px(y)}H${px(x)}` }));
    g.append(svg("circle", { cx: px(x), cy: px(y), r: 7, class: "plain" }));
    g.append(svg("path", { d: `M${px(x - 3.5)} ${px(y)}h7M${px(x)} ${px(y - 3.5)}v7`, class: "rail" }));
  }

  layer(g, { x, y, w, h }) {
    const { data, say } = this;
    this.rect(g, x, y, w, h, { class: "panel-edge", rx: 8 });
    const multi = data.heads > 1;
    const inner = w - 16;
    let at = y + 8;
    if (multi) at = this.box(g, x + 8, at, inner, 22, say("zoom_head", { d: data.width })).y + 28;
    this.mark(this.box(g, x + 8, at, inner, 26, say("zoom_matrix", { rows: data.slice, cols: data.experts }), "lit") && g.lastChild.previousSibling,
      () => [say("zoom_tip_router", { n: (data.slice * data.experts).toLocaleString("en") })]);
    at += 36;
    const bottom = multi ? y + h - 36 : y + h - 8;
    const cols = 4;
    const rows = Math.ceil(data.experts / cols);
    const cw = inner / cols;
    const ch = Math.min(56, (bottom - at) / rows);
    let lit = null;
    range(data.experts).forEach((e) => {
      const rank = data.chosen.indexOf(e);
      const box = { x: x + 8 + (e % cols) * cw + 2, y: at + Math.floor(e / cols) * ch + 2, w: cw - 4, h: ch - 6 };
      const group = svg("g", { "data-expert": e });
      this.rect(group, box.x, box.y, box.w, box.h, { class: rank >= 0 ? "bar" : "hollow", rx: 5 });
      this.text(group, box.x + box.w / 2, box.y + box.h / 2 + 4, e + 1, { "text-anchor": "middle", class: rank >= 0 ? "on" : "small" });
      this.mark(group, () => [this.expert(e), rank >= 0 ? say("zoom_tip_chosen", { rank: rank + 1, gate: number(data.gate[rank]) }) : say("zoom_tip_idle"),
        say("zoom_weights", { n: data.parameters.expert.toLocaleString("en") })]);
      g.append(group);
      if (rank === 0) lit = box;
    });
    if (multi) this.box(g, x + 8, y + h - 30, inner, 22, say("zoom_merge", { d: data.width }));
    return lit;
  }

  neurons(g, { x, y, w, h }) {
    const { data, say } = this;
    this.rect(g, x, y, w, h, { class: "panel-edge", rx: 8 });
    this.box(g, x + 8, y + 8, w - 16, 26, say("zoom_in", { rows: data.slice, cols: data.hidden }));
    this.box(g, x + 8, y + h - 34, w - 16, 26, say("zoom_out", { rows: data.hidden, cols: data.slice }));
    const top = maxOf(data.neurons) || 1;
    const room = h - 96;
    const cell = (w - 16) / data.neurons.length;
    const area = data.neurons.map((v, i) => `L${px(x + 8 + (i + 1) * cell)} ${px(y + h - 52 - (Math.max(0, v) / top) * room)}`).join("");
    const group = svg("g", { "data-expert": data.chosen[0] });
    group.append(svg("path", { class: "bar", d: `M${px(x + 8)} ${px(y + h - 52)}${`L${px(x + 8)} ${px(y + h - 52 - room)}`}${area}V${px(y + h - 52)}z` }));
    this.rect(group, x + 8, y + 40, w - 16, h - 90, { class: "hit" });
    this.mark(group, () => [say("zoom_firing", { n: data.firing, of: data.hidden }), say("zoom_tip_neurons", { top: number(top) })]);
    g.append(group);
    this.line(g, x + 8, y + h - 52, x + w - 8, y + h - 52, { class: "zero" });
  }

  sheet() {
    const { data, say } = this;
    const p = data.parameters;
    return { head: [say("part"), say("weights")], rows: [[say("zoom_model"), p.model], [say("zoom_block", { layer: data.layer + 1 }), p.block],
      [say("zoom_layer"), p.layer], [say("router"), p.router], [say("one_expert"), p.expert]] };
  }
}

PICTURES.zoom = Zoom;
