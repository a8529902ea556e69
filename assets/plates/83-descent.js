// VG-34, X-05: one number per expert, added to its scores, pulled by a loss or stepped by a bias.

class Descent extends Played {
  init() {
    this.cases = this.data.cases.map((one) => ({ ...one, ...Object.fromEntries(["importance", "load", "pull", "added"].map((name) => [name, arrayOf(one[name])])) }));
    this.index = 0;
    this.w = 1;
    this.at = 0;
    this.last = this.cases[0].cv[0].length - 1;
  }

  keep() { return { index: this.index, w: this.w }; }

  restore(kept) { Object.assign(this, kept); }

  get one() { return this.cases[this.index]; }

  controls() {
    const { say } = this;
    const kinds = this.radios({ label: say("descent_by"), options: this.cases.map((one, i) => [i, say(`descent_${one.key}`)]), value: this.index,
      onPick: (i) => { this.leave(); this.index = Number(i); this.at = 0; this.rewire(); this.show(); } });
    this.place = el("div", { class: "field" });
    const play = this.player(say("descent_step"), (i) => say("descent_value", { step: i, of: this.last }), ["0", String(this.last)]);
    this.rewire();
    return [kinds.node, this.place, play];
  }

  rewire() {
    const { one, say } = this;
    const label = say(one.key === "bias" ? "descent_u" : "descent_w");
    const strengths = this.radios({ label, options: one.strengths.map((v, i) => [i, String(v)]), value: this.w, onPick: (i) => { this.w = Number(i); this.plate.draw(); } });
    this.place.replaceChildren(strengths.node);
  }

  row(array) {
    return range(array.shape[2]).map((e) => array.at(this.w, this.at, e));
  }

  draw(g, width) {
    const { say, one, data } = this;
    const wide = width >= 760;
    const w = wide ? width * 0.58 : width;
    const importance = this.row(one.importance);
    const load = this.row(one.load);
    const E = load.length;
    const peak = (array) => maxOf(Array.from(array.values));
    const tip = (e) => [this.expert(e), say("descent_tip", { importance: number(importance[e]), load: load[e], added: signedNumber(this.row(one.added)[e], 3) })];
    this.text(g, 0, 16, say("importance_title"), { class: "strong" });
    const first = this.bars(g, { x: 0, y: 58, width: w, height: 104, values: importance, low: 0, high: peak(one.importance), print: (e) => number(importance[e], 1), tip, even: sum(importance) / E });
    this.pulls(g, 190, w, first.pitch);
    const y = 266;
    this.text(g, 0, y, say("descent_load"), { class: "strong" });
    this.bars(g, { x: 0, y: y + 34, width: w, height: 84, values: load, low: 0, high: peak(one.load), print: (e) => load[e], tip, even: data.total / E });
    const bottom = y + 34 + 84 + 26;
    const cv = wide ? { x: w + 48, y: 16, width: width - w - 48 } : { x: 0, y: bottom + 28, width };
    const high = Math.max(1, maxOf(this.cases.flatMap((c) => [...c.cv.flat(), ...c.cvload.flat()])));
    const end = this.curves(g, { ...cv, height: wide ? 150 : 100, high, title: say("descent_cv"), ends: ["0", say("descent_steps", { n: this.last })],
      lines: [["curve", one.cv[this.w], say("descent_cvi")], ["curve second", one.cvload[this.w], say("descent_cvl")]] });
    const facts = [["descent_cvi", number(one.cv[this.w][this.at])], ["descent_cvl", number(one.cvload[this.w][this.at])], ["maxvio", number(one.maxvio[this.w][this.at])]];
    facts.forEach(([key, value], i) => {
      const x = cv.x + (i * cv.width) / 3;
      this.text(g, x, end + 30, say(key), { class: "small" });
      this.text(g, x, end + 56, value, { class: "big" });
    });
    return Math.max(bottom, end + 66);
  }

  /** Arrows of the pull on each expert's scores: up where they are raised, down where lowered. */
  pulls(g, y, w, pitch) {
    const { one } = this;
    const pull = this.row(one.pull);
    const top = maxOf(range(pull.length).map((e) => Math.abs(one.pull.at(this.w, 0, e)))) || 1;
    pull.forEach((value, e) => {
      const x = (e + 0.5) * pitch;
      const size = Math.sign(value) * Math.max(3, Math.min(1, Math.abs(value) / top) * 21);
      const group = svg("g", { class: `tug ${value > 0 ? "up" : "down"}` });
      if (Math.abs(value) > 1e-7) {
        const [tail, tip] = [y + 12 + size / 2, y + 12 - size / 2];
        this.line(group, x, tail, x, tip);
        group.append(svg("path", { d: `M${px(x - 5)} ${px(tip + Math.sign(value) * 6)}L${px(x)} ${px(tip)}L${px(x + 5)} ${px(tip + Math.sign(value) * 6)}` }));
      } else this.line(group, x - 5, y + 12, x + 5, y + 12);
      this.mark(group, () => [this.expert(e), this.say(one.key === "bias" ? "descent_bias_tip" : "descent_pull_tip", { value: signedNumber(value, 4) })]);
      g.append(group);
    });
    this.text(g, 0, y + 40, this.say(one.key === "bias" ? "descent_arrows_bias" : "descent_arrows"), { class: "small" });
  }

  sentence() {
    const { say, one, w, at } = this;
    const cv = one.cv[w];
    const load = one.cvload[w];
    const values = { step: at, cv: number(cv[at]), load: number(load[at]), cv0: number(cv[0]), load0: number(load[0]), strength: one.strengths[w] };
    if (!at) return say(`descent_start_${one.key}`, values);
    return say(cv[at] > cv[0] || load[at] > load[0] ? "descent_too_far" : "descent_say", values);
  }

  sheet() {
    const { say, one, w } = this;
    const E = one.load.shape[2];
    const column = (name) => range(E).map((e) => `${say(name)} ${e + 1}`);
    return { head: [say("descent_step"), say("descent_cvi"), say("descent_cvl"), say("maxvio"), ...column("importance_word"), ...column("load_word")],
      rows: one.cv[w].map((v, i) => [i, v, one.cvload[w][i], one.maxvio[w][i], ...range(E).map((e) => one.importance.at(w, i, e).toFixed(3)), ...range(E).map((e) => one.load.at(w, i, e))]) };
  }
}

PICTURES.descent = Descent;
