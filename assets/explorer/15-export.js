// Part 2, saving pictures: any drawn part of the page as one SVG that stands alone, or as a PNG of it.
//
// This file needs no other one, so every component can take it along. A picture is drawn from a
// copy of the node, laid out off screen with the attribute data-saving: the component's own CSS
// says there what to leave out, and what to show in full. The page itself is never touched.
// Known: boxes, borders, rounded corners, linear gradients, sharp rings, text, SVG, images.

/**
 * snapshot(node): an <svg> with literal colours, fonts and positions, on the node's background.
 * saveAs(node, name, "svg" | "png"): downloads it; a PNG has two pixels for each of the screen's.
 * saveButtons(nodeOf, nameOf, labels): a group of two buttons; labels = {group, png, svg}.
 */
const { snapshot, saveAs, saveButtons } = (() => {
  const NS = "http://www.w3.org/2000/svg";
  const PNG_SCALE = 2;
  const PNG_MOST = 8192; // px a side: beyond it some browsers draw nothing
  const NAME_MOST = 80;
  const SPACE = /[\t\n\r ]+/g;

  const short = (value) => Number(value.toFixed(2));
  const lengthOf = (text) => Number.parseFloat(text) || 0;

  function make(tag, attributes = {}, parent = null) {
    const node = document.createElementNS(NS, tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined && value !== "") node.setAttribute(name, typeof value === "number" ? short(value) : value);
    }
    parent?.append(node);
    return node;
  }

  /** Text that XML allows: no control characters, no halves of surrogate pairs. */
  const clean = (text) => text.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]|\p{Surrogate}/gu, "\ufffd");

  // ── colours ─────────────────────────────────────────────────────────────────────────────

  const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const known = new Map();

  /** Whatever notation the browser reports, as #rrggbb and an opacity. */
  function colourOf(text) {
    if (!known.has(text)) {
      pen.clearRect(0, 0, 1, 1);
      pen.fillStyle = "#000";
      pen.fillStyle = text;
      pen.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
      known.set(text, { hex: `#${[r, g, b].map((v) => v.toString(16).padStart(2, "0")).join("")}`, alpha: a / 255 });
    }
    return known.get(text);
  }

  /** fill="…" and fill-opacity="…", or the same for stroke and stop-color. */
  function ink(name, text, opacity = 1) {
    if (!text || text === "none") return { [name]: "none" };
    if (text.startsWith("url(")) return { [name]: text.replace(/["']/g, "") };
    const { hex, alpha } = colourOf(text);
    const share = alpha * opacity;
    if (share === 0) return { [name]: "none" };
    return { [name]: hex, [name === "stop-color" ? "stop-opacity" : `${name}-opacity`]: share < 1 ? share : null };
  }

  const isSeen = (colour) => colourOf(colour).alpha > 0;

  /** Splits at the commas that stand outside brackets. */
  function listOf(text) {
    const parts = [];
    let depth = 0;
    let part = "";
    for (const sign of text) {
      depth += sign === "(" ? 1 : sign === ")" ? -1 : 0;
      if (sign === "," && depth === 0) {
        parts.push(part.trim());
        part = "";
      } else part += sign;
    }
    return part.trim() ? [...parts, part.trim()] : parts;
  }

  /** "rgb(1, 2, 3) 0px 1px" -> the colour and the rest, whichever comes first. */
  function colourAndRest(text) {
    const found = /(?:[a-z-]+\((?:[^()]|\([^()]*\))*\)|#[0-9a-f]+|\b[a-z]+\b(?!\())/i;
    const colour = text.match(/^calc/) ? "" : text.match(found)?.[0] ?? "";
    return colour === "inset" ? ["", text] : [colour, text.replace(colour, "").trim()];
  }

  // ── one picture ─────────────────────────────────────────────────────────────────────────

  class Picture {
    constructor(copy) {
      const box = copy.getBoundingClientRect();
      Object.assign(this, { left: box.left, top: box.top, ids: 0, families: new Set() });
      const spare = copy.scrollWidth > copy.clientWidth ? lengthOf(getComputedStyle(copy).paddingRight) : 0;
      const [width, height] = [Math.ceil(Math.max(box.width, copy.scrollWidth + spare)), Math.ceil(box.height)];
      this.svg = make("svg", { xmlns: NS, width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
      this.defs = make("defs", {}, this.svg);
      make("rect", { width, height, ...ink("fill", backdropOf(copy)) }, this.svg);
      this.element(copy, this.svg);
      if (!this.defs.childNodes.length) this.defs.remove();
    }

    /** Where something stands, in the picture's own coordinates. */
    place({ left, top, width, height }) {
      return { x: left - this.left, y: top - this.top, width, height };
    }

    element(node, parent) {
      const style = getComputedStyle(node);
      if (style.display === "none" || Number(style.opacity) === 0) return;
      if (node.namespaceURI === NS) return this.drawing(node, style, parent);
      const group = Number(style.opacity) < 1 ? make("g", { opacity: Number(style.opacity) }, parent) : parent;
      const box = this.place(node.getBoundingClientRect());
      const visible = style.visibility === "visible" && !/^(INPUT|SELECT|TEXTAREA)$/.test(node.tagName);
      if (visible && style.display !== "contents") this.box(box, style, group);
      if (visible && /^(IMG|CANVAS)$/.test(node.tagName)) this.raster(node, box, group);
      const inner = style.overflow === "visible" || style.overflow === "" ? group : this.clipped(box, style, group);
      if (visible) this.pseudo(node, "::before", box, inner);
      for (const child of node.childNodes) {
        if (child.nodeType === Node.TEXT_NODE) {
          if (visible) this.text(child, style, inner);
        } else if (child.nodeType === Node.ELEMENT_NODE) this.element(child, inner);
      }
      if (visible) this.pseudo(node, "::after", box, inner);
    }

    // ── boxes ─────────────────────────────────────────────────────────────────────────────

    box(box, style, parent) {
      if (box.width <= 0 || box.height <= 0) return;
      const radius = cornersOf(style, box);
      if (isSeen(style.backgroundColor)) this.plate(box, radius, ink("fill", style.backgroundColor), parent);
      for (const layer of listOf(style.backgroundImage).reverse()) {
        const fill = layer.startsWith("linear-gradient(") ? this.gradient(layer.slice(16, -1), box) : null;
        if (fill) this.plate(box, radius, { fill }, parent);
      }
      if (style.boxShadow !== "none") this.rings(box, radius, style.boxShadow, parent);
      this.borders(box, radius, style, parent);
      const outline = lengthOf(style.outlineWidth);
      if (outline && !/none|auto/.test(style.outlineStyle) && isSeen(style.outlineColor)) {
        this.ring(box, radius, lengthOf(style.outlineOffset) + outline / 2, outline, style.outlineColor, parent);
      }
    }

    plate(box, radius, paint, parent) {
      if (radius.every((r) => r === radius[0])) return make("rect", { ...box, rx: radius[0] || null, ...paint }, parent);
      const [a, b, c, d] = radius;
      const { x, y, width: w, height: h } = box;
      const arc = (r, dx, dy) => (r ? `a${r} ${r} 0 0 1 ${dx} ${dy}` : "");
      return make("path", { ...paint, d: `M${short(x + a)} ${short(y)}H${short(x + w - b)}${arc(b, b, b)}V${short(y + h - c)}${arc(c, -c, c)}`
        + `H${short(x + d)}${arc(d, -d, -d)}V${short(y + a)}${arc(a, a, -a)}Z` }, parent);
    }

    /** A line around a box, `out` px outside its edge (negative: inside). */
    ring(box, radius, out, width, colour, parent) {
      const { x, y, width: w, height: h } = box;
      this.plate({ x: x - out, y: y - out, width: Math.max(0, w + 2 * out), height: Math.max(0, h + 2 * out) },
        radius.map((r) => (r ? Math.max(0, r + out) : 0)), { fill: "none", ...ink("stroke", colour), "stroke-width": width }, parent);
    }

    /** Sharp shadows that only draw a ring; soft ones are left out. */
    rings(box, radius, shadows, parent) {
      for (const shadow of listOf(shadows)) {
        const inset = /\binset\b/.test(shadow);
        const [colour, rest] = colourAndRest(shadow.replace(/\binset\b/, "").trim());
        const [dx, dy, blur, spread] = rest.split(/\s+/).map(lengthOf);
        if (dx || dy || blur || !spread || !isSeen(colour)) continue;
        this.ring(box, radius, (inset ? -1 : 1) * spread / 2, spread, colour, parent);
      }
    }

    borders(box, radius, style, parent) {
      const sides = ["Top", "Right", "Bottom", "Left"].map((side) => {
        const [width, kind, colour] = ["Width", "Style", "Color"].map((what) => style[`border${side}${what}`]);
        return { width: /none|hidden/.test(kind) ? 0 : lengthOf(width), kind, colour };
      });
      const alike = (a, b) => a.width === b.width && a.kind === b.kind && a.colour === b.colour;
      const dashes = ({ width, kind }) => ({ dashed: `${3 * width} ${2 * width}`, dotted: `${width} ${width}` })[kind] ?? null;
      const paint = (side) => ({ fill: "none", ...ink("stroke", side.colour), "stroke-width": side.width, "stroke-dasharray": dashes(side) });
      const drawn = (side) => side.width > 0 && isSeen(side.colour);
      if (sides.every((side) => alike(side, sides[0]))) {
        const { width } = sides[0];
        if (!drawn(sides[0])) return;
        const inner = { x: box.x + width / 2, y: box.y + width / 2, width: box.width - width, height: box.height - width };
        this.plate(inner, radius.map((r) => Math.max(0, r - width / 2)), paint(sides[0]), parent);
        return;
      }
      // Each side is a line; where it meets a side of its kind it goes half way round the corner.
      const [top, right, bottom, left] = sides.map((side) => side.width / 2);
      const [x0, x1, y0, y1] = [box.x + left, box.x + box.width - right, box.y + top, box.y + box.height - bottom];
      const corners = [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];
      const along = [[1, 0], [0, 1], [-1, 0], [0, -1]];
      sides.forEach((side, i) => {
        if (!drawn(side)) return;
        const [from, to] = [corners[i], corners[(i + 1) % 4]];
        const [dx, dy] = along[i];
        const before = alike(side, sides[(i + 3) % 4]) ? radius[i] : 0;
        const after = alike(side, sides[(i + 1) % 4]) ? radius[(i + 1) % 4] : 0;
        const [nx, ny] = along[(i + 1) % 4];
        const points = [[from[0] + dx * before, from[1] + dy * before], [to[0] - dx * after, to[1] - dy * after],
          [to[0] + nx * after, to[1] + ny * after]].map((point) => point.map(short).join(" "));
        make("path", { d: `M${points[0]}L${points[1]}${after ? `Q${to.map(short).join(" ")} ${points[2]}` : ""}`,
          ...paint(side), "stroke-linecap": after || before ? null : "square" }, parent);
      });
    }

    /** A CSS linear gradient as an SVG one; the gradient line is as long as CSS makes it. */
    gradient(text, box) {
      const parts = listOf(text);
      const turn = /^to |(deg|rad|turn)$/.test(parts[0]) ? parts.shift() : "to bottom";
      const { width: w, height: h } = box;
      const angle = angleOf(turn, w, h);
      const reach = Math.abs(w * Math.sin(angle)) + Math.abs(h * Math.cos(angle));
      const [cx, cy] = [box.x + w / 2, box.y + h / 2];
      const [dx, dy] = [Math.sin(angle) * reach / 2, -Math.cos(angle) * reach / 2];
      const stops = parts.flatMap((part) => {
        const [colour, rest] = colourAndRest(part);
        const places = rest.match(/calc\([^)]*\)|-?[\d.]+(%|px)/g) ?? [null];
        return places.map((at) => ({ colour, at: at === null ? null : shareOf(at, reach) }));
      });
      if (stops.length < 2) return null;
      spreadStops(stops);
      const id = `paint-${++this.ids}`;
      const node = make("linearGradient", { id, gradientUnits: "userSpaceOnUse", x1: cx - dx, y1: cy - dy, x2: cx + dx, y2: cy + dy }, this.defs);
      stops.forEach(({ colour, at }) => {
        const { hex, alpha } = colourOf(colour);
        make("stop", { offset: String(Number(at.toFixed(4))), "stop-color": hex, "stop-opacity": alpha < 1 ? alpha : null }, node);
      });
      return `url(#${id})`;
    }

    clipped(box, style, parent) {
      const id = `clip-${++this.ids}`;
      this.plate(box, cornersOf(style, box), {}, make("clipPath", { id }, this.defs));
      return make("g", { "clip-path": `url(#${id})` }, parent);
    }

    /** ::before and ::after without text, placed absolutely: their used values say where. */
    pseudo(node, which, owner, parent) {
      const style = getComputedStyle(node, which);
      if (style.content === "none" || style.content === "normal" || style.position !== "absolute" || style.display === "none") return;
      const host = getComputedStyle(node);
      const grow = style.boxSizing === "border-box" ? [0, 0] : [
        lengthOf(style.borderLeftWidth) + lengthOf(style.borderRightWidth) + lengthOf(style.paddingLeft) + lengthOf(style.paddingRight),
        lengthOf(style.borderTopWidth) + lengthOf(style.borderBottomWidth) + lengthOf(style.paddingTop) + lengthOf(style.paddingBottom)];
      const box = { x: owner.x + lengthOf(host.borderLeftWidth) + lengthOf(style.left), y: owner.y + lengthOf(host.borderTopWidth) + lengthOf(style.top),
        width: lengthOf(style.width) + grow[0], height: lengthOf(style.height) + grow[1] };
      this.box(box, style, parent);
    }

    raster(node, box, parent) {
      const canvas = document.createElement("canvas");
      const source = node.tagName === "CANVAS" ? node : null;
      canvas.width = source ? source.width : node.naturalWidth;
      canvas.height = source ? source.height : node.naturalHeight;
      if (!canvas.width || !canvas.height) return;
      canvas.getContext("2d").drawImage(node, 0, 0);
      make("image", { ...box, preserveAspectRatio: "none", href: canvas.toDataURL("image/png") }, parent);
    }

    // ── text ──────────────────────────────────────────────────────────────────────────────

    /** Every line of a text node where the browser put it, stretched to the width it has there. */
    text(node, style, parent) {
      if (!node.data.trim()) return;
      const keeps = /pre|break-spaces/.test(style.whiteSpace);
      for (const line of linesOf(node)) {
        const box = this.place(line.rect);
        const rightToLeft = style.direction === "rtl";
        const content = clean(keeps ? line.text : line.text.replace(SPACE, " "));
        make("text", { x: rightToLeft ? box.x + box.width : box.x, y: box.y + ascentOf(style, box.height), ...this.font(style),
          direction: rightToLeft ? "rtl" : null, textLength: box.width, lengthAdjust: "spacingAndGlyphs",
          ...ink("fill", style.color), ...haloOf(style) }, parent).textContent = content;
      }
    }

    font(style) {
      this.families.add(style.fontFamily);
      return { "font-family": style.fontFamily.replace(/"/g, "'"), "font-size": lengthOf(style.fontSize), "font-weight": style.fontWeight,
        "font-style": style.fontStyle === "normal" ? null : style.fontStyle,
        "text-decoration": style.textDecorationLine === "none" ? null : style.textDecorationLine,
        "letter-spacing": style.letterSpacing === "normal" ? null : lengthOf(style.letterSpacing),
        style: style.fontVariantNumeric === "normal" ? null : `font-variant-numeric:${style.fontVariantNumeric}` };
    }

    // ── SVG inside the page ───────────────────────────────────────────────────────────────

    /** An inline <svg> is a box with a drawing of its own coordinates in it. */
    drawing(node, style, parent) {
      const box = this.place(node.getBoundingClientRect());
      this.box(box, style, parent);
      const clip = style.overflow === "visible" ? parent : this.clipped(box, style, parent);
      const own = make("svg", { ...box, viewBox: node.getAttribute("viewBox"), preserveAspectRatio: node.getAttribute("preserveAspectRatio"),
        overflow: "visible", opacity: Number(style.opacity) < 1 ? Number(style.opacity) : null }, clip);
      for (const child of node.children) this.shape(child, own);
    }

    /** A shape with the attributes it has and the style that CSS gave it; what hides is left out. */
    shape(node, parent) {
      const style = getComputedStyle(node);
      const opacity = Number(style.opacity);
      if (style.display === "none" || opacity === 0 || /^(title|desc|style|script|foreignObject)$/.test(node.tagName)) return;
      const leaf = !node.children.length;
      if (leaf && style.visibility !== "visible") return;
      const copy = make(node.tagName, {}, parent);
      for (const { name, value } of node.attributes) {
        if (!/^(class|style|role|tabindex|focusable|fill|stroke|font|opacity)|^(data|aria|on|stroke|fill|font)-?/.test(name)) copy.setAttribute(name, value);
      }
      if (opacity < 1) copy.setAttribute("opacity", short(opacity));
      if (style.transform !== "none" && !node.hasAttribute("transform")) copy.setAttribute("transform", transformOf(node, style));
      const paint = /^(g|defs|symbol|use|clipPath|mask|marker|pattern|image)$/.test(node.tagName) ? {}
        : node.tagName === "stop" ? ink("stop-color", style.stopColor, Number(style.stopOpacity))
          : /Gradient$/.test(node.tagName) ? {} : this.paint(style, node.tagName);
      if (leaf && paint.fill === "none" && (paint.stroke ?? "none") === "none") return copy.remove();
      for (const [name, value] of Object.entries(paint)) {
        if (value !== null && value !== undefined) copy.setAttribute(name, typeof value === "number" ? short(value) : value);
      }
      if (/^(text|tspan|textPath)$/.test(node.tagName)) return this.letters(node, copy);
      for (const child of node.children) this.shape(child, copy);
      if (!leaf && !copy.childNodes.length) copy.remove(); // a group of hidden things
    }

    letters(node, copy) {
      for (const child of node.childNodes) {
        if (child.nodeType === Node.TEXT_NODE) copy.append(clean(child.data));
        else if (child.nodeType === Node.ELEMENT_NODE) this.shape(child, copy);
      }
    }

    paint(style, tag) {
      const stroked = style.stroke !== "none" && lengthOf(style.strokeWidth) > 0;
      const unless = (value, usual) => (value === usual ? null : value);
      const dashes = style.strokeDasharray === "none" || /^1(px)?, 1(px)?$/.test(style.strokeDasharray) ? null : style.strokeDasharray.replace(/px/g, "");
      return { ...ink("fill", style.fill, Number(style.fillOpacity)), "fill-rule": unless(style.fillRule, "nonzero"),
        ...(stroked ? { ...ink("stroke", style.stroke, Number(style.strokeOpacity)), "stroke-width": lengthOf(style.strokeWidth),
          "stroke-dasharray": dashes, "stroke-linecap": unless(style.strokeLinecap, "butt"),
          "stroke-linejoin": unless(style.strokeLinejoin, "miter"), "paint-order": unless(style.paintOrder, "normal") } : {}),
        "vector-effect": unless(style.vectorEffect, "none"), "shape-rendering": unless(style.shapeRendering, "auto"),
        ...(tag === "rect" ? { rx: style.rx === "auto" ? null : lengthOf(style.rx) || null } : {}),
        ...(/^(text|tspan|textPath)$/.test(tag) ? { ...this.font(style), "text-anchor": unless(style.textAnchor, "start"),
          "dominant-baseline": unless(style.dominantBaseline, "auto") } : {}) };
    }
  }

  // ── measuring ───────────────────────────────────────────────────────────────────────────

  /** The first background behind a node that hides what lies under it. */
  function backdropOf(node) {
    for (let at = node; at; at = at.parentNode ?? at.host) {
      if (at instanceof ShadowRoot) at = at.host;
      if (!(at instanceof Element)) continue;
      const colour = getComputedStyle(at).backgroundColor;
      if (colourOf(colour).alpha === 1) return colour;
    }
    return "#ffffff";
  }

  function cornersOf(style, { width, height }) {
    return ["TopLeft", "TopRight", "BottomRight", "BottomLeft"].map((corner) => {
      const text = style[`border${corner}Radius`];
      const value = text.includes("%") ? (lengthOf(text) / 100) * Math.min(width, height) : lengthOf(text);
      return short(Math.min(value, width / 2, height / 2));
    });
  }

  function angleOf(turn, width, height) {
    if (!turn.startsWith("to ")) return lengthOf(turn) * (turn.endsWith("rad") ? 1 : turn.endsWith("turn") ? 2 * Math.PI : Math.PI / 180);
    const [up, right, down, left] = ["top", "right", "bottom", "left"].map((side) => turn.includes(side));
    if (!(left || right)) return down ? Math.PI : 0;
    if (!(up || down)) return right ? Math.PI / 2 : -Math.PI / 2;
    const slope = Math.atan2(height, width); // towards a corner: the middle line joins the other two
    return (right ? 1 : -1) * (up ? slope : Math.PI - slope);
  }

  /** "calc(50% - 0.8px)" as a share of the gradient line. */
  function shareOf(text, reach) {
    const terms = [...text.replace(/\s/g, "").matchAll(/([+-]?[\d.]+)(%|px)/g)];
    return terms.reduce((share, [, value, unit]) => share + Number(value) / (unit === "%" ? 100 : reach || 1), 0);
  }

  /** Stops without a place share the room between their neighbours; none stands before an earlier one. */
  function spreadStops(stops) {
    stops[0].at ??= 0;
    stops.at(-1).at ??= 1;
    stops.forEach((stop, i) => {
      if (stop.at === null) {
        const next = stops.findIndex((other, j) => j > i && other.at !== null);
        stop.at = stops[i - 1].at + (stops[next].at - stops[i - 1].at) / (next - i + 1);
      }
      if (i) stop.at = Math.max(stop.at, stops[i - 1].at);
    });
  }

  /** The lines of a text node: their text without the spaces at both ends, and their boxes. */
  function linesOf(node) {
    const reach = document.createRange();
    const measure = (from, to) => {
      reach.setStart(node, from);
      reach.setEnd(node, to);
      return reach;
    };
    const boxes = [...measure(0, node.length).getClientRects()].filter((box) => box.width > 0);
    const lines = [];
    if (new Set(boxes.map((box) => Math.round(box.top))).size <= 1) lines.push([0, node.length]);
    else {
      let [start, top] = [0, null];
      let at = 0;
      for (const sign of node.data) { // by whole characters, never half a surrogate pair
        const box = [...measure(at, at + sign.length).getClientRects()].find((one) => one.width > 0);
        if (box && top !== null && box.top > top + box.height / 2) {
          lines.push([start, at]);
          start = at;
        }
        if (box) top = box.top;
        at += sign.length;
      }
      lines.push([start, node.length]);
    }
    return lines.map(([from, to]) => {
      const raw = node.data.slice(from, to);
      const first = from + raw.length - raw.trimStart().length;
      const last = Math.max(first, from + raw.trimEnd().length);
      return { text: node.data.slice(first, last), rect: measure(first, last).getBoundingClientRect() };
    }).filter(({ text, rect }) => text && rect.width > 0);
  }

  /** From the top of a line's box to its baseline. */
  function ascentOf(style, height) {
    pen.font = `${style.fontStyle} ${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
    const { fontBoundingBoxAscent: up, fontBoundingBoxDescent: down } = pen.measureText("x");
    return up + (height - up - down) / 2;
  }

  /** A blurred text shadow becomes an outline in its colour: it is there to keep the text legible. */
  function haloOf(style) {
    if (style.textShadow === "none") return {};
    const [colour, rest] = colourAndRest(listOf(style.textShadow)[0]);
    const blur = rest.split(/\s+/).map(lengthOf)[2];
    return blur ? { ...ink("stroke", colour), "stroke-width": blur * 1.5, "stroke-linejoin": "round", "paint-order": "stroke" } : {};
  }

  /** A CSS transform turns about its origin; an attribute turns about 0, 0. */
  function transformOf(node, style) {
    const [x, y] = style.transformOrigin.split(" ").map(lengthOf);
    const from = style.transformBox === "fill-box" ? node.getBBox() : { x: 0, y: 0 };
    const [ox, oy] = [short(x + from.x), short(y + from.y)];
    return `translate(${ox} ${oy}) ${style.transform} translate(${-ox} ${-oy})`;
  }

  // ── from a node to a file ───────────────────────────────────────────────────────────────

  /** Draws a copy of the node, at rest and off screen. */
  function picture(node) {
    const copy = node.cloneNode(true);
    const originals = node.querySelectorAll("canvas");
    copy.querySelectorAll("canvas").forEach((canvas, i) => canvas.getContext("2d").drawImage(originals[i], 0, 0));
    for (const [name, value] of [["data-saving", ""], ["aria-hidden", "true"], ["inert", ""]]) copy.setAttribute(name, value);
    const place = { position: "fixed", left: "-99999px", top: "0", width: `${node.getBoundingClientRect().width}px`, margin: "0", "box-sizing": "border-box" };
    for (const [name, value] of Object.entries(place)) copy.style.setProperty(name, value);
    node.parentNode.append(copy);
    try {
      copy.getAnimations?.({ subtree: true }).forEach((move) => Number.isFinite(move.effect?.getComputedTiming().endTime) && move.finish());
      return new Picture(copy);
    } finally {
      copy.remove();
    }
  }

  const snapshot = (node) => picture(node).svg;

  const addressOf = (blob) => new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });

  /** The page's own web fonts that the texts use, as data: a picture cannot load any. */
  async function fontsOf(families) {
    const bare = (name) => name.trim().replace(/^["']|["']$/g, "");
    const wanted = new Set([...families].map((list) => bare(listOf(list)[0] ?? "")));
    const rules = [...document.styleSheets].flatMap((sheet) => {
      try {
        return [...sheet.cssRules].map((rule) => [rule, sheet.href ?? document.baseURI]);
      } catch {
        return []; // a sheet of another origin keeps its rules to itself
      }
    }).filter(([rule]) => rule instanceof CSSFontFaceRule && rule.style.getPropertyValue("font-style") !== "italic"
      && wanted.has(bare(rule.style.getPropertyValue("font-family"))));
    const faces = await Promise.all(rules.map(async ([rule, base]) => {
      const source = rule.style.getPropertyValue("src").match(/url\(["']?([^"')]+)["']?\)/)?.[1];
      const address = source && new URL(source, base);
      if (!address || (address.origin !== window.location.origin && address.protocol !== "data:")) return "";
      try {
        const data = await addressOf(await (await fetch(address)).blob());
        const weight = rule.style.getPropertyValue("font-weight") || "normal";
        return `@font-face{font-family:"${bare(rule.style.getPropertyValue("font-family"))}";font-weight:${weight};src:url(${data})}`;
      } catch {
        return ""; // without the font the next one of the list is used
      }
    }));
    return faces.join("");
  }

  /** A name every system takes: letters and digits of any script, joined by hyphens. */
  function fileName(name) {
    const plain = clean(name).normalize("NFC").toLowerCase().replace(/[^\p{L}\p{M}\p{N}]+/gu, "-");
    const cut = [...plain].slice(0, NAME_MOST).join("").replace(/^-+|-+$/g, "");
    return /^(con|prn|aux|nul|com\d|lpt\d|)$/.test(cut) ? `picture${cut && `-${cut}`}` : cut;
  }

  function download(blob, name) {
    const address = URL.createObjectURL(blob);
    const link = document.createElement("a");
    Object.assign(link, { href: address, download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  }

  async function pngOf(source, width, height) {
    const image = new Image();
    image.src = await addressOf(source);
    await image.decode();
    const scale = Math.min(PNG_SCALE, PNG_MOST / Math.max(width, height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }

  async function saveAs(node, name, format) {
    const { svg, families } = picture(node);
    const title = make("title");
    title.textContent = clean(name);
    svg.prepend(title);
    const faces = await fontsOf(families);
    if (faces) {
      const style = make("style");
      style.textContent = faces;
      title.after(style);
    }
    const text = `<?xml version="1.0" encoding="UTF-8"?>\n${new XMLSerializer().serializeToString(svg)}\n`;
    const file = new Blob([text], { type: "image/svg+xml" });
    const size = ["width", "height"].map((side) => Number(svg.getAttribute(side)));
    const blob = format === "png" ? await pngOf(file, ...size) : file;
    download(blob, `${fileName(name)}.${format}`);
  }

  function saveButtons(nodeOf, nameOf, labels) {
    const group = document.createElement("div");
    group.className = "save";
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", labels.group);
    for (const format of ["png", "svg"]) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = format.toUpperCase();
      button.setAttribute("aria-label", labels[format]);
      button.addEventListener("click", () => saveAs(nodeOf(), nameOf(), format));
      group.append(button);
    }
    return group;
  }

  return { snapshot, saveAs, saveButtons };
})();
