// The board's right side (VG-42): dropped choices and empty places at every capacity factor, and
// what the whole model makes of the text under the same policy.

const roundedBox = (x, y, w, h, r) => `M${px(x + r)} ${px(y)}h${px(w - 2 * r)}a${r} ${r} 0 0 1 ${r} ${r}v${px(h - 2 * r)}a${r} ${r} 0 0 1 ${-r} ${r}h${px(2 * r - w)}a${r} ${r} 0 0 1 ${-r} ${-r}v${px(2 * r - h)}a${r} ${r} 0 0 1 ${r} ${-r}z`;

/** Positions of capacity factors on an axis: in proportion, with ∞ apart at the end. */
function factorAxis(factors, x, width) {
  const known = factors.filter((f) => f !== null);
  const [low, high] = [known[0], maxOf(known)];
  const room = known.length < factors.length ? width - 34 : width;
  return (i) => x + (factors[i] === null ? width : ((factors[i] - low) / (high - low || 1)) * room);
}

/** A path through the points that have a value. */
const curve = (values, sx, sy) => values.map((v, i) => (v === null ? "" : `${i && values[i - 1] !== null ? "L" : "M"}${px(sx(i))} ${px(sy(v))}`)).join("");

class BoardSide {
  constructor(board) {
    Object.assign(this, { board, say: board.say, policy: board.policy, stop: board.stop, factors: board.data.factors });
  }

  draw(g, x, y, w) {
    const { board, say } = this;
    let at = board.lines(g, x, y + 15, say("side_title"), w * 0.88, { class: "strong", "data-size": 13 });
    at = this.readings(g, x, at + 8, w);
    at = this.trade(g, x, at + 8, w);
    if (this.policy.error[this.stop] !== null) {
      const values = { share: percent(this.policy.error[this.stop], 0), gates: percent(this.policy.lost[this.stop], 0) };
      at = board.lines(g, x, at + 18, say("side_error", values), w, { class: "small" });
    }
    return this.policy.bits[this.stop] === null || board.one.trained === null ? at : this.loss(g, x, at + 22, w);
  }

  readings(g, x, y, w) {
    const { board, say, policy, stop } = this;
    const half = w / 2;
    board.text(g, x, y + 22, percent(policy.dropped[stop], 0), { class: "big lost" });
    board.text(g, x, y + 39, say("side_dropped"), { class: "small" });
    board.text(g, x + half, y + 22, policy.empty[stop] === null ? "–" : percent(policy.empty[stop], 0), { class: "big spare" });
    board.text(g, x + half, y + 39, say("side_empty"), { class: "small" });
    return y + 46;
  }

  trade(g, x, y, w) {
    const { board, say, policy, stop, factors } = this;
    const h = 128;
    const sx = factorAxis(factors, x + 6, w - 12);
    const sy = (v) => y + 6 + (1 - v) * h;
    for (const v of [0, 0.5, 1]) board.line(g, x, sy(v), x + w, sy(v), { class: "gridline" });
    board.text(g, x + w, sy(1) + 14, "100 %", { class: "tick", "text-anchor": "end" });
    g.append(svg("path", { class: "curve chance", d: curve(policy.chance, sx, sy) }));
    g.append(svg("path", { class: "curve spare", d: curve(policy.empty, sx, sy) }), svg("path", { class: "curve lost", d: curve(policy.dropped, sx, sy) }));
    this.points(g, sx, sy, y, h);
    board.line(g, sx(stop), y, sx(stop), y + 6 + h, { class: "threshold" });
    this.ends(g, sx, sy, [["lost", policy.dropped[stop]], ["spare", policy.empty[stop]]]);
    this.axis(g, sx, y + h + 22);
    board.text(g, x + w, y + h + 38, say("side_axis"), { class: "small", "text-anchor": "end" });
    board.line(g, x, y + h + 34, x + 20, y + h + 34, { class: "curve chance" });
    board.text(g, x + 26, y + h + 38, say("side_chance"), { class: "small" });
    return y + h + 42;
  }

  ends(g, sx, sy, entries) {
    for (const [kind, value] of entries) if (value !== null) g.append(svg("circle", { class: `end ${kind}`, cx: px(sx(this.stop)), cy: px(sy(value)), r: 5 }));
  }

  axis(g, sx, y) {
    this.factors.forEach((f, i) => {
      if (f === null || Number.isInteger(f) || f === 0.5) this.board.text(g, sx(i), y, f === null ? "∞" : f, { class: "tick", "text-anchor": "middle", "data-strong": i === this.stop });
    });
  }

  /** Each factor is a stripe: point at it to read it, press or drag to go there. */
  points(g, sx, sy, y, h) {
    const { board, say, policy, factors } = this;
    factors.forEach((_, i) => {
      const left = i ? (sx(i - 1) + sx(i)) / 2 : sx(i) - 6;
      const right = i < factors.length - 1 ? (sx(i) + sx(i + 1)) / 2 : sx(i) + 6;
      const stripe = board.rect(g, left, y, right - left, h + 30, { class: "hit stripe" });
      board.mark(stripe, () => [board.factorSaid(i), say("tip_dropped", { share: percent(policy.dropped[i]), chance: percent(policy.chance[i]) }),
        policy.empty[i] === null ? say("card_free") : say("tip_empty", { share: percent(policy.empty[i]) }), policy.bits[i] === null ? null : say("card_bits", { bits: number(policy.bits[i], 3) })]);
      furnish(stripe, { role: "button", class: "hit stripe mark pickable", onclick: () => board.go({ stop: i, shown: null }) }, []);
      stripe.addEventListener("pointermove", (event) => { if (event.buttons && i !== board.stop) board.plate.later("scrub", () => board.go({ stop: i, shown: null })); });
    });
  }

  /** Bits per byte of the text, the whole model run again under this policy at every factor. */
  loss(g, x, y, w) {
    const { board, say, policy, stop, factors } = this;
    const { trained } = board.one;
    let at = board.lines(g, x, y, say("loss_title"), w, { class: "small" });
    board.text(g, x, at + 16, say("loss_change", { from: number(trained), to: number(policy.bits[stop]) }), { class: "big" });
    at = board.lines(g, x, at + 34, say("loss_note", { k: policy.k }), w, { class: "small" });
    const h = 54;
    const all = [trained, ...board.one.policies.flatMap((p) => p.bits)].filter((v) => v !== null);
    const [low, high] = [Math.min(...all), maxOf(all)];
    const sx = factorAxis(factors, x + 6, w - 12);
    const sy = (v) => at + 4 + (1 - (v - low) / (high - low || 1)) * h;
    board.line(g, x, sy(trained), x + w, sy(trained), { class: "threshold" });
    board.one.policies.forEach((p) => { if (p !== policy) g.append(svg("path", { class: "curve faint", d: curve(p.bits, sx, sy) })); });
    g.append(svg("path", { class: "curve", d: curve(policy.bits, sx, sy) }));
    g.append(svg("circle", { class: "running-end", cx: px(sx(stop)), cy: px(sy(policy.bits[stop])), r: 4.5 }));
    this.axis(g, sx, at + h + 22);
    return board.lines(g, x, at + h + 40, say("loss_legend"), w, { class: "small" }) - 6;
  }
}
