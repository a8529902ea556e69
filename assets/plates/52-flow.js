// VG-23: gather -> expert -> scatter as permutation lines; for MH-MoE split before and merge after.

const QUEUE_HEAD = 18;
const QUEUE_GAP = 7;

class Flow extends Picture {
  init() {
    this.step = this.steps.length - 1;
    this.lit = null;
  }

  get steps() {
    return this.data.multi ? ["tokens", "split", "gather", "experts", "scatter", "merge"] : ["tokens", "gather", "experts", "scatter"];
  }

  controls() {
    const { say, steps } = this;
    this.thumb = this.scrubber({ label: say("flow_step"), count: steps.length, value: this.step, ends: [say(`flow_${steps[0]}`), say(`flow_${steps.at(-1)}`)],
      show: (i) => `${i + 1} / ${steps.length} ${say(`flow_${steps[i]}`)}`, onMove: (i) => { this.step = i; this.reveal(); } });
    return [this.thumb.node];
  }

  geometry(width) {
    const { data } = this;
    const wide = width >= 700;
    const n = data.names.length * data.heads;
    const drawn = sum(data.queues.map((line) => line.length));
    const least = data.queues.length * (QUEUE_HEAD + QUEUE_GAP) + 3 * drawn;
    const row = Math.max(clamp(480 / n, data.heads > 1 ? 11 : 24, 34), least / n);
    const label = wide ? 110 : 58;
    const multi = data.multi ? (wide ? 62 : 22) : 0;
    const middle = wide ? 120 : 62;
    return { wide, n, row, label, multi, top: 34, left: label + multi + 8, right: width - label - multi - 8, mid: width / 2 - middle / 2, middle, height: n * row, width };
  }

  draw(g, width) {
    const a = this.geometry(width);
    const { data, say } = this;
    this.parts = {};
    const part = (name) => { const group = svg("g", { "data-step": name }); this.parts[name] = group; return group; };
    const [gather, scatter, experts, split, merge] = ["gather", "scatter", "experts", "split", "merge"].map(part);
    this.headings(g, a);
    this.queues(experts, gather, scatter, a);
    this.side(g, split, a, false);
    this.side(part("after"), merge, a, true);
    g.append(gather, scatter, experts, split, this.parts.after, merge);
    this.ribbons = [...gather.children, ...scatter.children];
    this.reveal();
    const foot = a.top + a.height + 22;
    this.text(g, 0, foot, data.names.length < data.total ? say("flow_window", { from: data.first + 1, to: data.first + data.names.length, total: data.total }) : say("flow_all", { total: data.total }), { class: "small" });
    return foot + 6;
  }

  headings(g, a) {
    const { say } = this;
    this.text(g, a.label, 14, say("flow_in"), { class: "strong", "text-anchor": "end" });
    this.text(g, a.width / 2, 14, say("flow_queues"), { class: "strong", "text-anchor": "middle" });
    this.text(g, a.width - a.label, 14, say("flow_out"), { class: "strong" });
  }

  /** Token labels and the sub-token dots of one side; a fan joins them where there are heads. */
  side(g, fan, a, mirrored) {
    const { data, say } = this;
    const x = (v) => (mirrored ? a.width - v : v);
    data.names.forEach((name, t) => {
      const y = a.top + t * data.heads * a.row;
      const middle = y + (data.heads * a.row) / 2;
      const group = svg("g", { class: "who-token", "data-token": t });
      this.text(group, x(a.label - 8), middle + 4, clip(name, a.label - 12, this.plate.family), { "text-anchor": mirrored ? "start" : "end", class: "tick ink", "data-strong": t === data.token });
      this.rect(group, Math.min(x(0), x(a.label)), y, a.label, data.heads * a.row, { class: "hit" });
      this.mark(group, () => [name, ...range(data.heads).map((h) => el("div", { class: "tip-row" }, data.heads > 1 ? el("span", { class: "quiet" }, say("subtoken_n", { head: h + 1 })) : null,
        ...this.visits(t * data.heads + h).map(({ e }) => chipOf(e))))]);
      group.addEventListener("pointerenter", () => this.light(t));
      group.addEventListener("pointerleave", () => this.light(null));
      group.addEventListener("focus", () => this.light(t));
      group.addEventListener("blur", () => this.light(null));
      g.append(group);
      range(data.heads).forEach((h) => {
        const at = y + (h + 0.5) * a.row;
        if (data.multi) fan.append(svg("path", { class: "fan", d: `M${px(x(a.label))} ${px(middle)}C${px(x(a.label + a.multi / 2))} ${px(middle)} ${px(x(a.label + a.multi / 2))} ${px(at)} ${px(x(a.label + a.multi))} ${px(at)}` }));
        (data.multi ? fan : g).append(svg("circle", { class: "node", cx: px(x(a.left - 4)), cy: px(at), r: Math.min(4, a.row / 3) }));
      });
    });
  }

  visits(s) {
    return this.data.queues.flatMap((line, e) => line.filter(([row]) => row === s).map(([, k, gate]) => ({ e, k, gate }))).sort((p, q) => p.k - q.k);
  }

  queues(box, gather, scatter, a) {
    const { data, say } = this;
    const total = sum(data.queues.map((line) => line.length));
    const [gap, head] = [QUEUE_GAP, QUEUE_HEAD];
    const unit = (a.height - data.queues.length * (gap + head)) / Math.max(1, total);
    let y = a.top;
    data.queues.forEach((line, e) => {
      const height = head + Math.max(0, unit) * line.length;
      const card = svg("g", { "data-expert": e, class: "queue" });
      this.rect(card, a.mid, y, a.middle, height, { class: "plate", rx: 5 });
      this.rect(card, a.mid, y, a.middle, head, { class: "bar", rx: 5 });
      this.text(card, a.mid + a.middle / 2, y + 13, a.wide ? this.expert(e) : e + 1, { class: "on", "text-anchor": "middle" });
      this.mark(card, () => [this.expert(e), say("flow_load", { here: line.length, load: data.load[e] })]);
      card.addEventListener("pointerenter", () => this.light(null, e));
      card.addEventListener("pointerleave", () => this.light(null));
      box.append(card);
      line.forEach(([s, k, gate], i) => {
        const at = y + head + (i + 0.5) * unit;
        const row = a.top + (s + 0.5) * a.row;
        const curve = (x1, y1, x2, y2) => `M${px(x1)} ${px(y1)}C${px((x1 + x2) / 2)} ${px(y1)} ${px((x1 + x2) / 2)} ${px(y2)} ${px(x2)} ${px(y2)}`;
        const token = Math.floor(s / data.heads);
        const attributes = { class: "ribbon-line", "data-expert": e, "data-token": token, "data-mine": token === data.token, "--w": px(1 + 3 * gate) };
        gather.append(svg("path", { ...attributes, d: curve(a.left, row, a.mid, at) }));
        scatter.append(svg("path", { ...attributes, d: curve(a.mid + a.middle, at, a.right, row) }));
      });
      y += height + gap;
    });
  }

  light(token, expert = null) {
    const off = token === null && expert === null;
    this.ribbons.forEach((line) => off ? line.removeAttribute("data-dim") : put(line, "data-dim", !(token !== null ? line.dataset.token === String(token) : line.dataset.expert === String(expert))));
  }

  /** Steps before the current one stay, later ones wait. */
  reveal() {
    const shown = new Set(this.steps.slice(0, this.step + 1));
    const visible = { gather: shown.has("gather"), experts: shown.has("experts"), scatter: shown.has("scatter"), split: shown.has("split"), merge: shown.has("merge"), after: shown.has("scatter") };
    for (const [name, group] of Object.entries(this.parts)) put(group, "data-shown", visible[name]);
    this.plate.tell();
  }

  sentence() {
    const { data, say, steps, step } = this;
    return say(`flow_say_${steps[step]}`, { heads: data.heads, k: data.k, tokens: data.total, choices: sum(data.load), experts: data.load.filter((n) => n > 0).length });
  }

  sheet() {
    const { data, say } = this;
    return { head: [say("expert_head"), say("place"), say("token"), say("subtoken"), say("choice"), say("gate")],
      rows: data.queues.flatMap((line, e) => line.map(([s, k, gate], i) => [e + 1, i + 1, data.names[Math.floor(s / data.heads)], (s % data.heads) + 1, k + 1, gate])) };
  }
}

PICTURES.flow = Flow;
