// Stored runs that differ in their balancing alone: how uneven they were, and what it cost.

class KeptRuns extends Picture {
  init() { this.index = 0; }

  keep() { return { index: this.index }; }

  restore({ index }) { this.index = Math.min(index, this.data.runs.length - 1); }

  get run() { return this.data.runs[this.index]; }

  label(run) {
    return this.say(`kept_${run.what}`, { alpha: run.alpha, k: run.k });
  }

  controls() {
    const { say, data } = this;
    return [this.radios({ label: say("kept_run"), options: data.runs.map((run, i) => [i, this.label(run)]), value: this.index, onPick: (i) => { this.index = Number(i); this.plate.draw(); } }).node];
  }

  draw(g, width) {
    const { say, data, run } = this;
    const wide = width >= 760;
    const w = wide ? width * 0.54 : width;
    const [top, h] = [40, 190];
    const high = maxOf(data.runs.flatMap((one) => one.uneven)) * 1.05;
    const until = maxOf(data.runs.map((one) => one.step.at(-1)));
    const path = (one) => one.uneven.map((v, i) => `${i ? "L" : "M"}${px((one.step[i] / until) * w)} ${px(top + (1 - v / high) * h)}`).join("");
    this.text(g, 0, 16, say("kept_title"), { class: "strong" });
    this.line(g, 0, top + h, w, top + h, { class: "zero" });
    this.text(g, w, top - 6, number(high, 1), { class: "tick", "text-anchor": "end" });
    data.runs.filter((one) => one !== run).forEach((one) => g.append(svg("path", { class: "curve ghost", d: path(one) })));
    g.append(svg("path", { class: "curve", d: path(run) }));
    this.text(g, w, top + h + 18, say("kept_steps", { n: until }), { class: "tick", "text-anchor": "end" });
    const y = this.shares(g, top + h + 52, w);
    return Math.max(y, this.table(g, wide ? w + 48 : 0, wide ? 16 : y + 28, wide ? width - w - 48 : width));
  }

  /** Per layer the experts' shares at the end of the chosen run. */
  shares(g, y, w) {
    const { say, run, data } = this;
    this.text(g, 0, y, say("kept_shares"), { class: "strong" });
    run.final.forEach((shares, l) => {
      const at = y + 16 + l * 28;
      this.text(g, 0, at + 15, say("layer_n", { layer: l + 1 }), { class: "tick ink" });
      let x = 62;
      shares.forEach((share, e) => {
        const group = svg("g", { "data-expert": e });
        const size = share * (w - 62);
        this.tooltip.describe(this.rect(group, x, at, size, 22, { class: "bar piece" }), () => [say("kept_tip", { expert: e + 1, layer: l + 1, share: percent(share), fair: percent(1 / data.experts) })]);
        if (size > 16) this.text(group, x + size / 2, at + 15.5, e + 1, { class: "small on", "text-anchor": "middle" });
        x += size;
        g.append(group);
      });
    });
    return y + 16 + run.final.length * 28;
  }

  table(g, x, y, width) {
    const { say, data } = this;
    const columns = [0, 0.52, 0.78, 1].map((part) => x + part * width);
    [["kept_run"], ["kept_validation"], ["kept_gap"]].forEach(([key], i) => this.text(g, i ? columns[i + 1] : x, y, say(key), { class: "small", "text-anchor": i ? "end" : "start" }));
    data.runs.forEach((run, i) => {
      const at = y + 30 + i * 30;
      const on = i === this.index;
      this.rect(g, x - 8, at - 19, width + 16, 28, { class: on ? "lane lit" : "lane", rx: 6 });
      this.text(g, x, at, this.label(run), { class: "small ink", "data-strong": on });
      this.text(g, columns[2], at, number(run.validation, 3), { class: "small ink", "text-anchor": "end", "data-strong": on });
      this.text(g, columns[3], at, signedNumber(run.gap, 3), { class: "small ink", "text-anchor": "end", "data-strong": on });
    });
    return y + 30 + data.runs.length * 30;
  }

  sentence() {
    const { say, run } = this;
    return say("kept_say", { run: this.label(run), uneven: number(run.uneven.at(-1)), validation: number(run.validation, 3), gap: signedNumber(run.gap, 3) });
  }

  sheet() {
    const { say, data } = this;
    return { head: [say("kept_run"), "alpha", "k", "MaxVio", say("kept_train"), say("kept_validation"), say("kept_gap")], rows: data.runs.map((run) => [run.name, run.alpha, run.k, run.uneven.at(-1), run.train, run.validation, run.gap]) };
  }
}

PICTURES.kept = KeptRuns;
