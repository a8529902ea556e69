// VG-16, VG-38: one row of scores -> probabilities -> the chosen, under three gate conventions.

const CONVENTIONS = ["topk-softmax", "softmax-topk", "renormalised"];

class Gates extends Picture {
  init() {
    this.convention = this.data.convention;
  }

  keep() {
    return { convention: this.convention };
  }

  restore({ convention }) {
    if (convention) this.convention = convention;
  }

  /** Each choice of convention is a row with its outcome: the switch is the comparison. */
  controls() {
    const { data, say } = this;
    const button = (name) => {
      const gates = data.chosen.map((e) => el("span", { class: "pair" }, chipOf(e), number(data.gates[name][e])));
      return el("button", { type: "button", role: "radio", class: "convention", "aria-checked": name === this.convention, "data-value": name,
        onclick: () => this.choose(name) },
      el("span", { class: "name" }, el("strong", {}, say(`conv_${name}`)), el("span", { class: "quiet" }, name === data.convention ? say("conv_ours") : say(`conv_${name}_who`))),
      el("span", { class: "outcome" }, ...gates, el("span", { class: "quiet" }, say("gate_sum", { sum: number(sum(data.gates[name])) }))));
    };
    this.buttons = CONVENTIONS.map(button);
    makeTabStop(this.buttons, CONVENTIONS.indexOf(this.convention));
    return [el("div", { class: "conventions", role: "radiogroup", "aria-label": say("conv_label"),
      onkeydown: (event) => rove(this.buttons, LINE_KEYS, event, (i) => this.choose(CONVENTIONS[i])) }, ...this.buttons)];
  }

  choose(name) {
    this.convention = name;
    this.buttons.forEach((button) => put(button, "aria-checked", button.dataset.value === name));
    makeTabStop(this.buttons, CONVENTIONS.indexOf(name));
    this.plate.draw();
  }

  draw(g, width) {
    const wide = width >= 700;
    const gap = 46;
    const w = wide ? (width - 2 * gap) / 3 : width;
    const h = 132;
    const place = (i) => (wide ? { x: i * (w + gap), y: 50 } : { x: 0, y: 50 + i * (h + 98) });
    this.panels(w).forEach((panel, i) => {
      const { x, y } = place(i);
      this.text(g, x, y - 30, panel.title, { class: "strong" });
      this.bars(g, { x, y, width: w, height: h, chosen: this.data.chosen, ...panel });
      if (panel.even) this.evenLegend(g, x + w, y - 30, panel.even);
      if (i) this.arrow(g, wide ? x - gap / 2 : w / 2, wide ? y + h / 2 : y - 50, wide, panel.step);
    });
    return wide ? 50 + h + 26 : 50 + 2 * (h + 98) + h + 26;
  }

  /** The three panels in the order of the chosen convention. */
  panels() {
    const { data, say, convention } = this;
    const kept = (e) => data.chosen.includes(e);
    const high = Math.max(0.3, maxOf(data.probs), maxOf(CONVENTIONS.map((name) => maxOf(data.gates[name]))));
    const tip = (e) => [this.expert(e), say("tip_score", { score: signedNumber(data.scores[e]) }), say("tip_prob", { prob: number(data.probs[e], 3) }),
      kept(e) ? say("tip_gate", { gate: number(data.gates[convention][e], 3) }) : say("tip_masked")];
    const [scoreDigits, digits] = [data.scores, data.probs].map((values) => this.digits(values, data.chosen));
    const scores = { title: say("scores"), values: data.scores, print: (e) => number(data.scores[e], scoreDigits), tip };
    const gates = { title: say("gates", { k: data.k }), values: data.gates[convention], low: 0, high, print: (e) => (kept(e) ? number(data.gates[convention][e], digits) : ""), tip,
      step: convention === "topk-softmax" ? say("do_softmax") : convention === "renormalised" ? say("do_keep_divide", { k: data.k }) : say("do_keep", { k: data.k }) };
    if (convention === "topk-softmax") {
      const masked = data.scores.map((v, e) => (kept(e) ? v : NaN));
      return [scores, { title: say("kept_scores", { k: data.k }), values: masked, low: Math.min(0, ...data.scores), high: Math.max(0, ...data.scores),
        print: (e) => (kept(e) ? number(data.scores[e], scoreDigits) : "−∞"), tip, step: say("do_keep", { k: data.k }) }, gates];
    }
    return [scores, { title: say("probs"), values: data.probs, low: 0, high, print: (e) => number(data.probs[e], digits), faded: (e) => !kept(e), tip, even: 1 / data.probs.length, step: say("do_softmax") }, gates];
  }

  arrow(g, x, y, wide, label) {
    g.append(svg("path", { class: "arrow", d: wide ? `M${px(x - 13)} ${px(y)}h24m-6 -5l6 5l-6 5` : `M${px(x)} ${px(y - 10)}v18m-5 -6l5 6l5 -6` }));
    if (wide) this.text(g, x, y - 12, label, { class: "small", "text-anchor": "middle" });
    else this.text(g, x + 12, y + 4, label, { class: "small" });
  }

  sentence() {
    const { data, say, convention } = this;
    const first = data.chosen[0];
    return say(`gates_${convention}`, { expert: first + 1, prob: number(data.probs[first]), gate: number(data.gates[convention][first]), sum: number(sum(data.gates[convention])) });
  }

  sheet() {
    const { data, say } = this;
    return { head: [say("expert_head"), say("score"), say("probability"), say("chosen_head"), ...CONVENTIONS.map((name) => say(`conv_${name}`))],
      rows: data.scores.map((score, e) => [e + 1, score, data.probs[e], data.chosen.indexOf(e) + 1 || "", ...CONVENTIONS.map((name) => data.gates[name][e])]) };
  }
}

function chipOf(e) {
  return el("span", { class: "chip", "data-expert": e }, String(e + 1));
}

PICTURES.gates = Gates;
