// VG-36, 37, 40, 41, 42: the board. Experts are columns of places, and the choices of the text
// arrive one by one. Who gets a place was decided in Python by the layers' own code, for every
// policy and every capacity factor; here arrivals are only put into their order and drawn.

const SEAT = { height: 24, pitch: 27 };
const MOST_ROWS = 16;

/** Sentences one after the other; Chinese ones without a space between. */
const joined = (...parts) => parts.filter(Boolean).reduce((text, part) => text + (/[。？！]$/.test(text) ? "" : " ") + part);

/** One policy's choices at one factor, as a list of arrivals: who asks which expert, and gets in or not. */
class Arrivals {
  constructor(policy, ranked, experts, count) {
    Object.assign(this, { policy, ranked, experts, count });
    this.bytes = bytesOf(policy.choice);
    this.seen = new Map();
  }

  /** Of choice k of sub-token s at a factor: { expert, away } or null. */
  choice(stop, s, k) {
    const byte = this.bytes[(stop * this.count + s) * this.policy.k + k];
    return byte === NO_CHOICE ? null : { expert: byte % DROPPED, away: byte >= DROPPED };
  }

  at(stop) {
    if (!this.seen.has(stop)) this.seen.set(stop, this.policy.key === "reroute" ? this.asking(stop) : this.once(stop));
    return this.seen.get(stop);
  }

  get order() {
    return this.policy.order ?? range(this.count);
  }

  /** All first choices in order, then all second ones. */
  once(stop) {
    const places = new Array(this.experts).fill(0);
    return range(this.policy.k).flatMap((k) => this.order.map((s) => {
      const { expert, away } = this.choice(stop, s, k);
      return { s, k, expert, place: away ? null : places[expert]++, from: null, last: true };
    }));
  }

  /** In round r all that still look ask their r-th best; rounds in which nobody is let in are left out. */
  asking(stop) {
    const places = new Array(this.experts).fill(0);
    const found = [];
    let looking = this.order;
    for (let r = 0; r < this.experts && looking.length; r++) {
      const still = [];
      for (const s of looking) {
        const expert = this.ranked[s * this.experts + r];
        const granted = this.choice(stop, s, 0);
        const here = granted && granted.expert === expert;
        found.push({ s, k: 0, expert, place: here ? places[expert]++ : null, from: r ? this.ranked[s * this.experts] : null, last: !granted });
        if (!here) still.push(s);
      }
      looking = still;
      if (!still.some((s) => this.choice(stop, s, 0))) break;
    }
    return found;
  }
}

class Board extends Picture {
  init() {
    const { data } = this;
    this.index = 0;
    this.cases = data.cases.map((one) => {
      const ranked = bytesOf(one.ranked);
      return { ...one, ranked, probs: arrayOf(one.probs), lists: one.policies.map((p) => new Arrivals(p, ranked, one.experts, one.count)) };
    });
    this.which = Math.max(0, this.one.policies.findIndex((p) => p.key === data.policy));
    this.stop = this.one.start;
    this.shown = null; // arrivals that are drawn; null is all of them
    this.pinned = data.token;
    this.answer = null;
  }

  keep() {
    const { index, which, stop, answer } = this;
    return { index, which, stop, answer, same: this.identity() };
  }

  restore({ index, which, stop, answer, same }) {
    if (index >= this.cases.length) return;
    Object.assign(this, { index, which, stop });
    if (same === this.identity()) this.answer = answer;
    this.sync();
  }

  identity() {
    return JSON.stringify([this.one.ask, this.one.names]);
  }

  get one() { return this.cases[this.index]; }
  get policy() { return this.one.policies[this.which]; }
  get list() { return this.one.lists[this.which].at(this.stop); }
  get places() { return this.policy.capacity[this.stop]; }
  get now() { return this.shown ?? this.list.length; }
  get live() { return this.policy.bits[this.stop] !== null; }

  factor(i) {
    return this.data.factors[i] === null ? "∞" : number(this.data.factors[i]);
  }

  // ---------------------------------------------------------------------------- controls

  controls() {
    const { data, say } = this;
    this.thumb = this.scrubber({ label: say("factor"), count: data.factors.length, value: this.stop, ends: [this.factor(0), this.factor(data.factors.length - 1)],
      show: (i) => this.factorSaid(i), onMove: (i) => this.go({ stop: i, shown: null }) });
    this.cards = this.policyCards();
    this.player = this.playerRow();
    const rows = [];
    if (this.cases.length > 1) {
      this.picker = this.radios({ label: say("example"), options: this.cases.map((one, i) => [i, say(`case_${one.key}`)]), value: this.index,
        onPick: (i) => { this.leave(); this.index = Number(i); this.which = 0; this.go({ stop: this.one.start, shown: null }); } });
      rows.push(this.picker.node);
    }
    rows.push(this.thumb.node, this.player, this.cards);
    this.sync();
    return rows;
  }

  /** The question stands under the picture that answers it. */
  below() {
    if (!this.one.ask) return [];
    const row = this.askRow();
    this.sync();
    return [row];
  }

  factorSaid(i) {
    const places = this.policy.capacity[i];
    return places === null ? this.say("factor_free") : this.say("factor_value", { factor: this.factor(i), places });
  }

  policyCards() {
    const { say } = this;
    this.buttons = this.one.policies.map((p, i) => el("button", { type: "button", role: "radio", class: "convention policy", "data-value": p.key, onclick: () => this.choose(i) },
      el("span", { class: "name" }, el("strong", {}, say(`policy_${p.key}`)), el("span", { class: "quiet" }, say(`policy_${p.key}_who`))),
      el("span", { class: "outcome" }, el("span", { class: "lost" }), el("span", { class: "spare quiet" }), el("span", { class: "cost quiet" }))));
    return el("div", { class: "conventions policies", role: "radiogroup", "aria-label": say("policy"),
      onkeydown: (event) => rove(this.buttons, LINE_KEYS, event, (i) => this.choose(i)) }, ...this.buttons);
  }

  choose(i) {
    this.go({ which: i, shown: null });
  }

  playerRow() {
    const { say } = this;
    this.playButton = el("button", { type: "button", class: "option play", onclick: () => this.toggle() }, say("play"));
    const step = (by, key, sign) => el("button", { type: "button", class: "option step", "aria-label": say(key), onclick: () => { this.leave(); this.reach(this.now + by); } }, sign);
    this.arrival = el("input", { type: "range", class: "slider", min: 0, max: 1, step: 1, "aria-label": say("arrivals"),
      oninput: () => this.plate.later("arrive", () => { this.leave(); this.reach(Number(this.arrival.value)); }) });
    this.count = el("output", { class: "value" });
    return el("div", { class: "field player" }, this.playButton, step(-1, "step_back", "‹"), step(1, "step_on", "›"),
      el("div", { class: "thumb" }, this.arrival), this.count);
  }

  /** Predict, then reveal: one sub-token, turned away by position; would priority keep it? */
  askRow() {
    const { say, one } = this;
    this.question = el("p", { class: "question" });
    const answers = [true, false].map((kept) => el("button", { type: "button", class: "option", "data-answer": kept, onclick: () => this.reveal(kept) }, say(kept ? "ask_yes" : "ask_no")));
    this.answers = el("div", { class: "options" }, ...answers);
    this.again = el("button", { type: "button", class: "quiet-button", onclick: () => this.reveal(null) }, say("ask_again"));
    return el("div", { class: "ask" }, this.question, this.answers, this.again);
  }

  asked() {
    const { ask, heads } = this.one;
    return { name: ask.name, who: heads > 1 ? this.say("who_sub", { name: ask.name, head: ask.head }) : this.say("who", { name: ask.name }), expert: ask.expert + 1,
      rank: ask.rank, rivals: ask.rivals, places: ask.places, prob: number(ask.prob), factor: this.factor(ask.stop) };
  }

  reveal(answer) {
    const { ask, heads, policies } = this.one;
    this.answer = answer;
    this.leave();
    if (answer !== null) {
      this.pinned = Math.floor(ask.sub / heads);
      this.open = this.open || ask.places > MOST_ROWS; // its place may be far down
      this.go({ stop: ask.stop, which: policies.findIndex((p) => p.key === "priority"), shown: null });
    } else this.go({ which: policies.findIndex((p) => p.key === "two"), stop: ask.stop, shown: null });
  }

  // ---------------------------------------------------------------------------- state

  go(changes) {
    if (!("shown" in changes) || changes.shown === null) this.leave();
    Object.assign(this, changes);
    this.sync();
    this.plate.draw();
  }

  /** Controls say what the picture shows. */
  sync() {
    if (!this.cards) return;
    const { say } = this;
    this.thumb.set(this.stop);
    this.picker?.set(this.index);
    this.one.policies.forEach((p, i) => {
      const button = this.buttons[i];
      const [lost, spare, cost] = button.lastChild.children;
      write(lost, say("card_dropped", { share: percent(p.dropped[this.stop], 0) }));
      put(lost, "data-some", p.dropped[this.stop] > 0);
      write(spare, p.empty[this.stop] === null ? say("card_free") : say("card_empty", { share: percent(p.empty[this.stop], 0) }));
      write(cost, p.bits[this.stop] === null ? "" : say("card_bits", { bits: number(p.bits[this.stop]) }));
      cost.hidden = p.bits[this.stop] === null;
      put(button, "aria-checked", i === this.which);
    });
    makeTabStop(this.buttons, this.which);
    if (this.question && this.one.ask) {
      const open = this.answer === null;
      const { kept } = this.one.ask;
      const outcome = `${this.answer === kept ? "right" : "wrong"}_${kept ? "kept" : "away"}`;
      write(this.question, say(open ? "ask" : `ask_${outcome}`, this.asked()));
      put(this.question, "data-open", open);
      this.answers.hidden = !open;
      this.again.hidden = open;
    }
    this.tick();
  }

  tick() {
    const total = this.list.length;
    put(this.arrival, "max", total);
    if (Number(this.arrival.value) !== this.now) this.arrival.value = this.now;
    this.arrival.style.setProperty("--done", total ? this.now / total : 1);
    write(this.count, this.say("arrived", { n: this.now, of: total }));
    put(this.arrival, "aria-valuetext", this.count.textContent);
  }

  toggle() {
    if (this.playing) return this.leave();
    if (this.now >= this.list.length) this.reach(0);
    if (stillness.matches) return this.reach(this.list.length);
    write(this.playButton, this.say("pause"));
    const pause = clamp(9000 / this.list.length, 45, 420);
    let last = 0;
    const frame = (time) => {
      if (time - last >= pause) {
        last = time;
        this.reach(this.now + 1);
      }
      if (this.now >= this.list.length) return this.leave();
      this.playing = requestAnimationFrame(frame);
    };
    this.playing = requestAnimationFrame(frame);
  }

  leave() {
    cancelAnimationFrame(this.playing);
    this.playing = null;
    if (this.playButton) write(this.playButton, this.say("play"));
  }

  /** So many have arrived: only what this changes is touched. */
  reach(n) {
    this.shown = clamp(n, 0, this.list.length);
    if (this.shown === this.list.length && !this.playing) this.shown = null;
    this.tick();
    this.light();
    this.plate.tell();
  }

  // ---------------------------------------------------------------------------- drawing

  geometry(width) {
    const { one } = this;
    const wide = width >= 900;
    const side = wide ? clamp(width * 0.27, 250, 310) : width;
    const room = wide ? width - side - 40 : width;
    const perBand = room / one.experts >= 62 ? one.experts : Math.ceil(one.experts / 2);
    const bands = Math.ceil(one.experts / perBand);
    const column = room / perBand;
    const need = maxOf(one.policies.map((p) => maxOf(p.demand)));
    const most = bands > 1 ? 9 : MOST_ROWS;
    const rows = this.open ? need + 2 : clamp(need, 4, most);
    const spare = need < most ? 1 : 3; // rows below a full column, for those it turns away
    const head = 46;
    const band = head + (rows + spare) * SEAT.pitch + 22;
    return { wide, side, room, perBand, bands, column, rows, spare, head, band, top: 34, seat: Math.min(column - 10, 118) };
  }

  draw(g, width) {
    const a = this.geometry(width);
    this.drawn = g;
    const { say, one, data } = this;
    const title = data.layer ? say("board_title", { layer: data.layer }) : say("board_title_guide");
    this.text(g, 0, 15, title, { class: "strong" });
    const drawn = this.places === null ? say("board_free", { s: one.count, experts: one.experts }) : say("board_sizes", { s: one.count, experts: one.experts, places: this.places, k: this.policy.k });
    const after = textWidth(title, 13, 650, this.plate.family) + 14;
    const inline = after + textWidth(drawn, 12, 400, this.plate.family) < a.room;
    this.text(g, inline ? after : 0, inline ? 15 : 33, drawn, { class: "small" });
    if (!inline) a.top += 18;
    this.hidden = 0;
    this.beyond = [];
    range(one.experts).forEach((e) => this.column(g, e, a));
    const bottom = a.top + a.bands * a.band;
    const foot = this.rail(g, bottom, a);
    const low = this.more(g, foot, a);
    this.light();
    const side = new BoardSide(this).draw(g, a.wide ? a.room + 40 : 0, a.wide ? 0 : low + 30, a.side);
    return Math.max(low, side) + 4;
  }

  /** One expert: its name and demand, its places, below them those it turned away. */
  column(g, e, a) {
    const { say, policy } = this;
    const x = (e % a.perBand) * a.column + (a.column - a.seat) / 2;
    const y = a.top + Math.floor(e / a.perBand) * a.band;
    const mine = this.list.map((event, i) => ({ ...event, i })).filter((event) => event.expert === e);
    const seated = mine.filter((event) => event.place !== null);
    const places = this.places ?? seated.length;
    const crowded = places > a.rows;
    const rows = crowded ? a.rows - 1 : places;
    const column = svg("g", { "data-expert": e, class: "expert-column" });
    const name = a.seat > 66 ? this.expert(e) : `${e + 1}`;
    this.rect(column, x, y, a.seat, 22, { class: "bar", rx: 11 });
    this.text(column, x + a.seat / 2, y + 15.5, name, { class: "on", "text-anchor": "middle" });
    this.text(column, x + a.seat / 2, y + 38, say("asked", { n: policy.demand[e] }), { class: "small", "text-anchor": "middle" });
    const top = y + a.head;
    const height = (rows + (crowded ? 1 : 0)) * SEAT.pitch;
    this.rect(column, x - 3, top - 3, a.seat + 6, height + 3, { class: "room", rx: 8 });
    const empties = svg("path", { class: "empty-seat", d: range(rows).map((r) => roundedBox(x, top + r * SEAT.pitch, a.seat, SEAT.height, 5)).join("") });
    column.append(empties);
    g.append(column);
    seated.filter(({ place }) => place < rows).forEach((event) => this.seat(g, event, x, top + event.place * SEAT.pitch, a.seat, false));
    if (crowded) {
      const node = this.text(g, x + a.seat / 2, top + rows * SEAT.pitch + 16, "", { class: "small", "text-anchor": "middle" });
      this.beyond.push({ node, room: a.seat + 4, n: places - rows, arrivals: seated.slice(rows).map(({ i }) => i) });
      this.hidden += places - rows;
    }
    this.turned(g, e, mine, x, top + height + 10, a, a.rows + a.spare - rows - (crowded ? 1 : 0));
  }

  /** Who was turned away here and found nothing (under re-routing: who stands here for now). */
  turned(g, e, mine, x, y, a, rows) {
    const lost = mine.filter(({ place, last, from }) => place === null && last && from === null);
    const passing = mine.filter(({ place, last, from }) => place === null && !last && from === null);
    const all = [...lost, ...passing];
    if (!all.length || rows < 1) return;
    const fit = all.length > rows ? rows - 1 : rows;
    all.slice(0, fit).forEach((event, r) => {
      const until = event.last ? Infinity : this.list.findIndex((other) => other.s === event.s && other.place !== null);
      this.seat(g, { ...event, until, row: r }, x, y + r * SEAT.pitch, a.seat, true);
    });
    if (lost.length > fit) {
      const label = this.say("more_away", { n: lost.length - fit });
      const short = textWidth(label, 12.5, 600, this.plate.family) > a.column - 4 ? `+${lost.length - fit}` : label;
      const more = this.text(g, x + a.seat / 2, y + fit * SEAT.pitch + 15, short, { class: "warn", "text-anchor": "middle" });
      put(more, "data-from", lost[fit].i);
      this.hidden += lost.length - fit;
    }
  }

  /** A sub-token in a place, or outlined below the places: turned away. */
  seat(g, event, x, y, w, away) {
    const { one } = this;
    const token = Math.floor(event.s / one.heads);
    const node = svg("g", { class: away ? "seat away" : "seat", "data-expert": event.expert, "data-token": token, "data-from": event.i, "data-until": event.until ?? null, "data-row": event.row ?? null,
      "data-asked": this.answer !== null && event.k === 0 && event.s === one.ask?.sub });
    this.rect(node, x, y, w, SEAT.height, { class: "under", rx: 5 });
    const inset = away ? 0.75 : -0.25; // what is seated covers the outline of its place
    this.rect(node, x + inset, y + inset, w - 2 * inset, SEAT.height - 2 * inset, { class: away ? "turned" : "bar", rx: 5 });
    const tag = event.from !== null ? "↪" : event.k ? "②" : "";
    const tail = one.heads > 1 ? `·${(event.s % one.heads) + 1}` : "";
    const room = w - 10 - (tag ? 15 : 0) - (tail ? 14 : 0);
    const label = svg("text", { x: px(x + w / 2 + (tag ? 6 : 0)), y: px(y + 16.5), "text-anchor": "middle", class: away ? "name turned-name" : "name on" });
    label.append(svg("tspan", {}, clip(one.names[token], room, this.plate.family, 12.5, 650)));
    if (tail) label.append(svg("tspan", { class: "sub", dx: 2 }, tail));
    node.append(label);
    if (tag) this.text(node, x + 5, y + 16.5, tag, { class: away ? "tag turned-name" : "tag on" });
    this.mark(node, () => this.tip(event, token));
    node.addEventListener("pointerenter", () => this.lightToken(token));
    node.addEventListener("pointerleave", () => this.lightToken(null));
    node.addEventListener("focus", () => this.lightToken(token));
    node.addEventListener("blur", () => this.lightToken(null));
    node.addEventListener("click", () => { this.pinned = this.pinned === token ? null : token; this.lightToken(null); });
    node.classList.add("pickable");
    g.append(node);
  }

  tip(event, token) {
    const { say, one } = this;
    const prob = number(one.probs.at(event.s, event.expert));
    const lines = [one.heads > 1 ? say("tip_sub", { name: one.full[token], head: (event.s % one.heads) + 1 }) : say("who", { name: one.full[token] }),
      say("tip_choice", { rank: event.k + 1, expert: event.expert + 1, prob })];
    if (event.from !== null) lines.push(say("tip_from", { expert: event.from + 1 }));
    if (event.place === null) lines.push(say(event.last ? "tip_away" : "tip_passing"));
    else lines.push(this.places === null ? say("tip_place_free", { place: event.place + 1 }) : say("tip_place", { place: event.place + 1, of: this.places }));
    lines.push(say("tip_order", { n: event.i + 1, of: this.list.length }));
    return lines;
  }

  /** The residual: one line under all columns, which carries every token on. */
  rail(g, y, a) {
    const { say } = this;
    const at = y + 4;
    g.append(svg("path", { class: "rail residual", d: `M0 ${px(at)}H${px(a.room - 9)}` }), svg("path", { class: "arrow", d: `M${px(a.room - 10)} ${px(at - 5)}l6 5l-6 5` }));
    return this.lines(g, 0, at + 20, say("rail"), a.room, { class: "small" });
  }

  more(g, y, a) {
    const { say } = this;
    if (!this.hidden && !this.open) return y - 8;
    const label = say(this.open ? "fold" : "unfold");
    const node = svg("g", { class: "unfold", role: "button", "aria-expanded": String(Boolean(this.open)) });
    const w = textWidth(label, 13, 650, this.plate.family) + 24;
    this.rect(node, 0, y - 8, w, 28, { class: "plain", rx: 14 });
    this.text(node, w / 2, y + 10.5, label, { class: "accent", "text-anchor": "middle" });
    this.mark(node, () => [label]);
    furnish(node, { role: "button", class: "mark unfold pickable", onclick: () => { this.open = !this.open; this.plate.draw(); } }, []);
    g.append(node);
    return y + 24;
  }

  /** Shows what has arrived, and rings the newest. */
  light() {
    if (!this.drawn) return;
    for (const node of this.drawn.querySelectorAll("[data-from]")) {
      const from = Number(node.getAttribute("data-from"));
      const until = node.hasAttribute("data-until") ? Number(node.getAttribute("data-until")) : Infinity;
      put(node, "data-shown", from < this.now && until >= this.now);
      put(node, "data-new", this.shown !== null && from === this.now - 1);
    }
    this.closeRanks();
    for (const { node, n, arrivals, room } of this.beyond) {
      const taken = arrivals.filter((i) => i < this.now).length;
      const label = this.places === null ? this.say("more_seats", { n: taken }) : this.say("more_places", { n, taken });
      write(node, textWidth(label, 12, 400, this.plate.family) > room ? `+${this.places === null ? taken : n}` : label);
    }
    this.lightToken(null);
  }

  /** Below an expert nobody leaves a gap: those turned away move up when one found a place elsewhere. */
  closeRanks() {
    const standing = new Map();
    for (const node of this.drawn.querySelectorAll(".away")) {
      if (node.dataset.shown !== "true") continue;
      const here = standing.get(node.dataset.expert) ?? 0;
      standing.set(node.dataset.expert, here + 1);
      put(node, "transform", `translate(0 ${(here - Number(node.dataset.row)) * SEAT.pitch})`);
    }
  }

  /** The seats of one token, or of the pinned one, stand out. */
  lightToken(token) {
    const lit = token ?? this.pinned ?? null;
    for (const node of this.drawn.querySelectorAll(".seat")) {
      if (lit === null) node.removeAttribute("data-dim");
      else put(node, "data-dim", node.dataset.token !== String(lit));
    }
  }

  onKey(event) {
    if (event.key !== "Escape" || this.pinned === null || this.pinned === undefined) return false;
    this.pinned = null;
    this.lightToken(null);
    return true;
  }

  // ---------------------------------------------------------------------------- words

  sentence() {
    const { say, policy, stop, one, places } = this;
    const total = one.count * policy.k;
    if (this.shown === 0) return say("say_begin", { n: this.list.length });
    if (this.shown !== null) return this.arrivalSaid(this.list[this.shown - 1]);
    if (places === null) return say("say_free", { choices: total, most: maxOf(policy.demand), expert: policy.demand.indexOf(maxOf(policy.demand)) + 1 });
    const lost = total - sum(policy.load[stop]);
    const spare = one.experts * places - sum(policy.load[stop]);
    const values = { factor: this.factor(stop), places, experts: one.experts, choices: total, lost, share: percent(policy.dropped[stop], 0), spare, of: one.experts * places, chance: percent(policy.chance[stop], 0) };
    const first = say(lost ? "say_full" : "say_fits", values);
    return joined(one.note, first, say(`say_${policy.key}`, values));
  }

  arrivalSaid(event) {
    const { say, one } = this;
    const name = one.full[Math.floor(event.s / one.heads)];
    const who = one.heads > 1 ? say("who_sub", { name, head: (event.s % one.heads) + 1 }) : say("who", { name });
    const values = { who, expert: event.expert + 1, place: (event.place ?? 0) + 1, of: this.places ?? "∞", first: (event.from ?? 0) + 1 };
    if (event.place === null) return say(event.last ? "say_away" : "say_passing", values);
    return say(event.from === null ? "say_seat" : "say_found", values);
  }

  sheet() {
    const { say, one, list } = this;
    return { head: [say("arrival"), say("token"), say("subtoken"), say("choice"), say("expert_head"), say("probability"), say("place"), say("outcome")],
      rows: list.map((event, i) => [i + 1, one.names[Math.floor(event.s / one.heads)], (event.s % one.heads) + 1, event.k + 1, event.expert + 1, one.probs.at(event.s, event.expert).toFixed(4),
        event.place === null ? "" : event.place + 1, say(event.place === null ? (event.last ? "out_away" : "out_passing") : event.from === null ? "out_seat" : "out_found")]) };
  }
}

PICTURES.board = Board;
