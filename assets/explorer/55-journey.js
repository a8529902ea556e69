// Part 7: what happened to one token in one layer, and the sentences that tell it.

/** The stage of one outcome, decoded: vectors, every choice with its numbers, and the steps. */
function journeyOf(stage, outcome) {
  const now = stage.outcomes[outcome] ?? stage.outcomes[stage.outcomes.length - 1];
  const { heads, experts, k } = stage;
  const layerW = now.head !== null && now.head !== undefined;
  const multi = heads > 1 || layerW;
  const choices = range(heads).flatMap((head) => range(k).map((choice) => {
    const expert = now.expert[head][choice];
    if (expert < 0 || expert === NO_CHOICE) return null;
    return { head, choice, expert, gate: now.gate[head][choice], kept: now.kept[head][choice],
      slot: now.slot[head][choice], score: now.logits[head][expert], prob: now.probs[head][expert] };
  })).filter(Boolean);
  return {
    heads, experts, k, multi, layerW, mergeW: layerW, choices,
    x: vectorOf(now.x), mixed: vectorOf(now.head ?? now.x), sums: vectorOf(now.combined), out: vectorOf(now.out),
    logits: now.logits, probs: now.probs, capacity: now.capacity, demand: now.demand, load: now.load,
    dropped: choices.filter((c) => !c.kept),
    isOff: (e) => now.logits[0][e] === null, // switched off: it has no score
    even: 1 / now.logits[0].filter((score) => score !== null).length, // every open expert alike
    isFull: (e) => now.capacity !== null && now.load[e] >= now.capacity,
    steps: ["token", multi && "split", "scores", "keep", "gates", "experts", "merge"].filter(Boolean),
  };
}

const signed = (value) => number(value, 2);

/** One sentence a step, with the numbers the drawing shows. Several wordings: MH-MoE, SMoE, drops. */
const STORIES = {
  token: (j, say, stage, layer) => say(stage.image ? "step_token_image" : "step_token", { name: stage.name, layer, width: stage.width }),
  split: (j, say, stage) => say(j.layerW ? "step_split" : "step_split_plain",
    { width: stage.width, heads: j.heads, part: Math.floor(stage.width / j.heads) }),
  scores: (j, say) => {
    const best = bestScore(j);
    return say(j.multi ? "step_scores" : "step_scores_one",
      { experts: j.experts, head: best.head + 1, expert: best.expert + 1, score: signed(best.score) });
  },
  keep: (j, say) => say(j.k === 1 ? "step_keep_one" : "step_keep", { k: j.k, experts: j.experts, rest: j.experts - j.k }),
  gates: (j, say, stage) => {
    const own = j.choices.filter((c) => c.head === 0);
    const digits = gateDigits(j);
    const values = { experts: j.experts, k: j.k, head: 1, even: number(j.even, 3),
      gates: own.map((c) => number(c.gate, digits)).join(" + "), total: number(sum(own.map((c) => c.gate)), digits) };
    // The wording follows the model's gate convention where Python names one (trace.GATES).
    const key = j.multi ? "step_gates" : "step_gates_one";
    return say(say.has(`${key}_${stage.gates}`) ? `${key}_${stage.gates}` : key, values);
  },
  experts: (j, say) => {
    const kept = j.choices.length - j.dropped.length;
    const reached = new Set(j.choices.filter((c) => c.kept).map((c) => c.expert)).size;
    if (j.dropped.length) {
      return say("step_experts_full", { dropped: j.dropped.length, total: j.choices.length,
        full: fullExperts(j, say), capacity: j.capacity });
    }
    if (kept === 1) return say("step_experts_single");
    return say(j.capacity === null ? "step_experts_open" : "step_experts", { kept, reached, capacity: j.capacity });
  },
  merge: (j, say) => {
    if (j.choices.length && j.dropped.length === j.choices.length) return say("step_merge_none");
    return say(j.mergeW ? "step_merge" : j.multi ? "step_merge_plain" : "step_merge_one", { heads: j.heads });
  },
};

/** Two digits, or three where two would print the gates of one sub-token alike. */
function gateDigits(journey) {
  const shown = new Set(journey.choices.map((c) => `${c.head} ${number(c.gate)}`));
  return shown.size < journey.choices.length ? 3 : 2;
}

/** The ends of the score axis: at least −1 to 1, so that scores that hardly differ look so. */
function scoreScale(journey) {
  const all = journey.logits.flat();
  return { low: Math.min(-1, ...all), high: Math.max(1, ...all) };
}

/** The score at which an expert would have the even probability: the mean of exp(score), as a score. */
function evenScore(scores) {
  const open = scores.filter((score) => score !== null);
  return Math.log(sum(open.map(Math.exp)) / open.length);
}

function bestScore(journey) {
  const all = journey.logits.flatMap((row, head) => row.map((score, expert) => ({ head, expert, score })))
    .filter(({ expert }) => !journey.isOff(expert));
  return all.reduce((best, one) => (one.score > best.score ? one : best));
}

/** "expert 4 is full" or "experts 2, 3 are full". */
function fullExperts(journey, say) {
  const numbers = [...new Set(journey.dropped.map((c) => c.expert))].sort((a, b) => a - b);
  return say(numbers.length === 1 ? "full_one" : "full_many", { experts: numbers.map((e) => e + 1).join(say("comma")) });
}

function dropSentence(journey, say) {
  const n = journey.dropped.length;
  return n ? say(n === 1 ? "drop_note_one" : "drop_note", { full: fullExperts(journey, say), n }) : "";
}

/** "expert 4: score 1.32, probability 0.49" and, for a chosen one, "gate 0.49, place 3 of 12". */
function scoreLines(journey, say, head, expert) {
  if (journey.isOff(expert)) return [say("tip_off", { expert: expert + 1 })];
  const chosen = journey.choices.find((c) => c.head === head && c.expert === expert);
  const numbers = say("tip_score", { expert: expert + 1, score: signed(journey.logits[head][expert]),
    prob: number(journey.probs[head][expert], 3), even: number(journey.even, 3) });
  return [journey.multi ? say("subtoken", { head: head + 1 }) : null, numbers,
    chosen ? gateLine(journey, say, chosen) : say("tip_masked")];
}

function gateLine(journey, say, choice) {
  const values = { gate: number(choice.gate, 3), expert: choice.expert + 1, place: choice.slot + 1, capacity: journey.capacity };
  if (!choice.kept) return say("tip_dropped", values);
  return say(journey.capacity === null ? "tip_place_open" : "tip_place", values);
}

function cardLines(journey, say, expert) {
  if (journey.isOff(expert)) return [say("tip_off", { expert: expert + 1 })];
  const values = { expert: expert + 1, load: journey.load[expert], demand: journey.demand[expert], capacity: journey.capacity };
  return [say("expert", values), say(journey.capacity === null ? "tip_load_open" : "tip_load", values),
    journey.isFull(expert) ? say("tip_full", values) : null];
}
