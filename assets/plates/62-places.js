// VG-40, 41: C = ceil(CF k S / E) for any sizes, drawn as places. Every C comes from the layers' own function.

class Places extends Picture {
  init() {
    const bytes = bytesOf(this.data.table);
    this.table = new Uint16Array(bytes.buffer);
    this.at = { ...this.data.start };
  }

  keep() {
    return { at: this.at, start: JSON.stringify(this.data.start) };
  }

  restore({ at, start }) {
    if (start === JSON.stringify(this.data.start)) this.at = at;
    this.sync?.();
  }

  value(name) {
    return this.data.axes[name][this.at[name]];
  }

  get places() {
    const order = ["heads", "experts", "choices", "factors", "tokens"];
    const index = order.reduce((i, name) => i * this.data.axes[name].length + this.at[name], 0);
    return this.table[index];
  }

  get sizes() {
    const [T, H, E, k, CF] = ["tokens", "heads", "experts", "choices", "factors"].map((name) => this.value(name));
    const S = T * H;
    const C = this.places;
    const seated = Math.min(S * k, E * C);
    return { T, H, E, k, CF, S, C, choices: S * k, room: E * C, spare: E * C - seated, lost: S * k - seated, exact: (CF * k * S) / E };
  }

  controls() {
    const { say, data } = this;
    const set = (name, i) => { this.at[name] = i; this.plate.draw(); };
    const slide = (name, show) => {
      const list = data.axes[name];
      return this.scrubber({ label: say(`places_${name}`), count: list.length, value: this.at[name], ends: [show(0), show(list.length - 1)], show, onMove: (i) => set(name, i) });
    };
    const pick = (name) => this.radios({ label: say(`places_${name}`), options: data.axes[name].map((v, i) => [i, String(v)]), value: this.at[name], onPick: (i) => set(name, Number(i)) });
    const parts = { tokens: slide("tokens", (i) => String(data.axes.tokens[i])), factors: slide("factors", (i) => number(data.axes.factors[i])), heads: pick("heads"), experts: pick("experts"), choices: pick("choices") };
    for (const part of [parts.tokens, parts.factors]) part.node.classList.add("short");
    this.sync = () => {
      for (const [name, part] of Object.entries(parts)) part.set(this.at[name]);
      write(badge, say(this.isGuide() ? "places_is_guide" : "places_is_own"));
      put(badge, "data-preset", this.isGuide());
    };
    const badge = el("span", { class: "tag-badge" });
    const go = (to) => () => { this.at = { ...to }; this.sync(); this.plate.draw(); };
    const buttons = el("div", { class: "field" }, el("button", { type: "button", class: "option", onclick: go(data.start) }, say("places_own")), el("button", { type: "button", class: "option", onclick: go(data.guide) }, say("places_guide")), badge);
    this.sync();
    return [parts.tokens.node, parts.factors.node, parts.heads.node, parts.experts.node, parts.choices.node, buttons];
  }

  isGuide() {
    return ["heads", "experts", "choices", "tokens"].every((name) => this.at[name] === this.data.guide[name]);
  }

  draw(g, width) {
    const { say } = this;
    const n = this.sizes;
    this.sync?.();
    const wide = width >= 640;
    const formula = say(wide ? "places_formula" : "places_formula_short", { cf: number(n.CF), k: n.k, s: n.S, e: n.E, exact: number(n.exact), c: n.C });
    this.text(g, 0, 24, formula, { class: wide ? "big" : "strong" });
    const top = 50;
    const gap = 10;
    const column = Math.min(110, (width - gap * (n.E - 1)) / n.E);
    const pitch = clamp(216 / Math.max(1, n.C), 3, 24);
    const even = range(n.E).map((e) => Math.floor(n.choices / n.E) + (e < n.choices % n.E ? 1 : 0));
    range(n.E).forEach((e) => {
      const x = e * (column + gap);
      const taken = Math.min(n.C, even[e]);
      const group = svg("g", { "data-expert": e });
      this.text(group, x + column / 2, top + 10, column > 70 ? this.expert(e) : e + 1, { class: "tick ink", "text-anchor": "middle" });
      range(n.C).forEach((r) => this.rect(group, x, top + 20 + r * pitch, column, Math.max(1.5, pitch - Math.min(3, pitch / 3)), { class: r < taken ? "bar thin" : "outline", rx: Math.min(4, pitch / 4) }));
      this.rect(group, x, top, column, 24 + n.C * pitch, { class: "hit" });
      this.mark(group, () => [this.expert(e), say("places_tip", { taken, places: n.C, even: even[e] })]);
      g.append(group);
    });
    return top + 24 + Math.max(1, n.C) * pitch + 4;
  }

  sentence() {
    const n = this.sizes;
    const values = { t: n.T, h: n.H, s: n.S, k: n.k, choices: n.choices, e: n.E, c: n.C, room: n.room, spare: n.spare, lost: n.lost };
    return joined(this.say(n.H > 1 ? "places_say_heads" : "places_say", values), this.say(n.lost ? "places_short" : n.spare ? "places_spare" : "places_exact", values));
  }

  sheet() {
    const { data, say } = this;
    const before = { ...this.at };
    const rows = data.axes.factors.map((cf, i) => {
      this.at = { ...before, factors: i };
      const n = this.sizes;
      return [cf, n.S, n.k, n.E, n.C, n.room, n.spare, n.lost];
    });
    this.at = before;
    return { head: [say("factor"), "S", "k", "E", "C", say("places_room"), say("places_empty"), say("places_lost")], rows };
  }
}

PICTURES.places = Places;
