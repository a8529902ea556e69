// C-08: equal importance is not equal load. The columns are as high; first guess, then see them cut.

class EqualUnequal extends Picture {
  init() {
    this.index = 0;
    this.guess = null;
  }

  keep() { return { index: this.index, guess: this.guess }; }

  restore(kept) { Object.assign(this, kept); }

  get one() { return this.data.cases[this.index]; }

  get open() { return this.guess !== null; }

  controls() {
    const { say, data } = this;
    const ask = el("div", { class: "ask" }, el("p", { class: "question", "data-open": !this.open }, say("equal_ask")));
    const answers = ["yes", "no"].map((code) => el("button", { type: "button", class: "option", "data-value": code, "aria-pressed": this.guess === code,
      onclick: () => { this.guess = code; this.plate.build(); this.plate.draw(); this.plate.root.querySelector(`.option[data-value=${code}]`)?.focus(); } }, say(`equal_${code}`)));
    ask.append(el("div", { class: "options" }, ...answers));
    if (!this.open) return [ask];
    const cases = this.radios({ label: say("equal_case"), options: data.cases.map((one, i) => [i, say(`equal_${one.key}`)]), value: this.index,
      onPick: (i) => { this.index = Number(i); this.plate.draw(); } });
    return [ask, cases.node];
  }

  draw(g, width) {
    const { say, one, open } = this;
    const E = one.blocks.length;
    const pitch = Math.min(width / E, 170);
    const thick = Math.min(88, pitch * 0.66);
    const [top, h] = [58, 210];
    const high = maxOf(one.importance);
    const left = (width - pitch * E) / 2;
    this.text(g, 0, 16, say(open ? "equal_title_open" : "equal_title"), { class: "strong" });
    range(E).forEach((e) => {
      const group = svg("g", { "data-expert": e });
      const x = left + (e + 0.5) * pitch - thick / 2;
      let y = top + h;
      for (const gate of open ? one.blocks[e] : [one.importance[e]]) {
        const size = (gate / high) * h;
        y -= size;
        this.rect(group, x, y, thick, size, { class: "bar piece" });
        if (open && size > 17) this.text(group, x + thick / 2, y + size / 2 + 4, number(gate, thick > 40 ? 2 : 1), { class: "small on", "text-anchor": "middle" });
      }
      this.text(group, x + thick / 2, y - 8, open ? say("equal_count", { n: one.load[e] }) : "?", { class: "strong ink halo", "text-anchor": "middle" });
      this.text(group, x + thick / 2, top + h + 18, thick > 52 ? this.expert(e) : e + 1, { class: "tick", "text-anchor": "middle" });
      this.text(group, x + thick / 2, top + h + 35, `Σ ${number(one.importance[e], 1)}`, { class: "tick ink", "text-anchor": "middle" });
      this.mark(group, () => [this.expert(e), say("equal_sum", { value: number(one.importance[e]) }), open ? say("equal_load", { n: one.load[e] }) : ""]);
      g.append(group);
    });
    this.line(g, left, top + h, left + pitch * E, top + h, { class: "zero" });
    return top + h + 44;
  }

  sentence() {
    const { say, one, open, guess } = this;
    if (!open) return "";
    const values = { least: Math.min(...one.load), most: maxOf(one.load), tokens: one.tokens, cvi: number(one.cv[0]), cvl: number(one.cv[1]), value: number(one.importance[0], 1) };
    const said = say(`equal_say_${one.key}`, values);
    return one.key === "made" ? `${say(guess === "no" ? "equal_right" : "equal_wrong")} ${said}` : said;
  }

  sheet() {
    const { say, one, open } = this;
    return { head: [say("expert_head"), say("importance_word"), say("load_word")], rows: one.load.map((n, e) => [e + 1, one.importance[e], open ? n : "?"]) };
  }
}

PICTURES.equal = EqualUnequal;
