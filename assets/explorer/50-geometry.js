// Part 6: where things stand on the stage. Pure arithmetic, no DOM.
//
// The journey runs along one axis, "main": left to right on a wide screen, top to bottom on a
// narrow one. The other axis, "cross", holds the heads and the experts side by side. Everything
// is placed in (main, cross) and only `point` knows which of the two is x.

const WIDE_FROM = 740; // below this width the stage turns vertical
const GATE_WIDTH = 18; // ribbon width of a gate of 1
const FEW_EXPERTS = 8; // more than these: draw only the experts touched

/** The columns (or rows) of the journey: name, size along main, weight of the gap before it. */
function columnsOf(journey, wide, room) {
  const compact = wide && room < 920;
  const chart = wide ? clamp(journey.experts * 17, 104, journey.multi ? (compact ? 104 : 136) : 220) : 66;
  const pill = wide ? (compact ? 58 : 66) : 38;
  const card = wide ? (compact ? 112 : 132) : 50;
  const vector = wide ? 22 : 18;
  const box = wide ? 30 : 26;
  const all = [
    ["token", vector, 0], journey.layerW && ["mix", box, 0.75],
    journey.multi && ["subtokens", vector, 1.05], ["scores", chart, 0.5],
    ["gates", pill, 0.5], ["experts", card, 1.6],
    journey.multi && ["sums", vector, 1.6], journey.mergeW && ["merge", box, 1.05],
    ["output", vector, journey.multi ? 0.75 : 1.6],
  ];
  return all.filter(Boolean).map(([name, size, gap]) => ({ name, size, gap }));
}

/** Main positions on a wide stage: the free width is shared out by the gap weights. */
function spreadColumns(columns, width, margin) {
  const fixed = sum(columns.map((c) => c.size));
  const weights = sum(columns.map((c) => c.gap));
  const unit = Math.min(92, (width - 2 * margin - fixed) / weights);
  let at = (width - fixed - unit * weights) / 2; // a short journey (SMoE) stands centred
  for (const column of columns) {
    at += unit * column.gap;
    column.at = at;
    at += column.size;
  }
  return at;
}

/** Main positions on a tall stage: fixed gaps, with room for each row's heading. */
const TALL_GAPS = { token: 26, mix: 18, subtokens: 50, scores: 58, gates: 40, experts: 96, sums: 96, merge: 40, output: 42 };

function stackRows(columns, multi) {
  let at = 0;
  for (const column of columns) {
    // Without a merge the experts' ribbons run straight into the output, and need their room.
    at += column.name === "output" && !multi ? TALL_GAPS.sums : TALL_GAPS[column.name];
    column.at = at;
    at += column.size;
  }
  return at;
}

/** Which experts get a card: all when few, otherwise those this token touches. */
function castOf(journey) {
  if (journey.experts <= FEW_EXPERTS) return { cards: range(journey.experts), others: 0 };
  const touched = [...new Set(journey.choices.map((c) => c.expert))].sort((a, b) => a - b);
  return { cards: touched, others: journey.experts - touched.length };
}

function geometryOf(journey, width) {
  const wide = width >= WIDE_FROM;
  const columns = columnsOf(journey, wide, width);
  const { cards, others } = castOf(journey);
  const seats = cards.length + (others ? 1 : 0);
  const g = { wide, columns, cards, others, seats };
  if (wide) {
    const pitch = Math.max(journey.heads > 4 ? 84 : 98, journey.k * 25 + 16);
    const cross = Math.max(journey.heads * pitch, seats * (seats > 12 ? 38 : 46), 340);
    g.width = width;
    g.top = 58; // headings stand above
    g.crossStart = g.top;
    g.crossSize = cross;
    g.mainEnd = spreadColumns(columns, width, 30);
    g.rail = g.top + cross + 34;
    g.height = g.rail + 22;
  } else {
    const lane = 26; // the residual runs down the right edge
    const cross = Math.max(width - lane - 2, journey.heads * 56, seats * 28);
    g.width = cross + lane + 2;
    g.crossStart = 1;
    g.crossSize = cross;
    g.mainEnd = stackRows(columns, journey.multi);
    g.rail = cross + 14;
    g.height = g.mainEnd + 26;
  }
  g.column = Object.fromEntries(columns.map((c) => [c.name, c]));
  g.point = wide ? (main, cross) => [px(main), px(cross)] : (main, cross) => [px(cross), px(main)];
  g.head = (h) => g.crossStart + (g.crossSize * (h + 0.5)) / journey.heads;
  g.headPitch = g.crossSize / journey.heads;
  g.seat = (i) => g.crossStart + (g.crossSize * (i + 0.5)) / seats;
  g.seatPitch = g.crossSize / seats;
  g.vectorLength = wide ? Math.min(256, g.crossSize - 40) : Math.min(256, g.crossSize);
  g.middle = g.crossStart + g.crossSize / 2;
  return g;
}

/** A rectangle given in (main, cross). */
function boxAt(g, main, mainSize, cross, crossSize) {
  const [x, y] = g.point(main, cross);
  const [width, height] = g.wide ? [mainSize, crossSize] : [crossSize, mainSize];
  return { x, y, width: px(width), height: px(height) };
}

/** A curve from (m0, c0) to (m1, c1), leaving and arriving along main. */
function curve(g, m0, c0, m1, c1) {
  const bend = (m1 - m0) * 0.5;
  return `M${g.point(m0, c0)}C${g.point(m0 + bend, c0)} ${g.point(m1 - bend, c1)} ${g.point(m1, c1)}`;
}

/** A filled band between two intervals of the cross axis. */
function band(g, m0, [a0, a1], m1, [b0, b1]) {
  const bend = (m1 - m0) * 0.5;
  return `M${g.point(m0, a0)}C${g.point(m0 + bend, a0)} ${g.point(m1 - bend, b0)} ${g.point(m1, b0)}`
    + `L${g.point(m1, b1)}C${g.point(m1 - bend, b1)} ${g.point(m0 + bend, a1)} ${g.point(m0, a1)}Z`;
}

/** Stacks ribbons side by side at one end: returns each ribbon's centre around `centre`. */
function stackRibbons(widths, centre) {
  let at = centre - sum(widths) / 2;
  return widths.map((width) => {
    at += width;
    return at - width / 2;
  });
}
