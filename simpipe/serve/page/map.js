// The map: a sample of the items in two dimensions, with pointer and keys.

import * as api from "./api.js";
import { labelOf } from "./cards.js";
import { count, make, table } from "./dom.js";
import { drawMark, markOf, repeats, swatch } from "./marks.js";
import { image } from "./pictures.js";

const PAD = 16, MAX_ZOOM = 60, LISTED = 200, IN_LEGEND = 40;

/**
 * A map of a release.
 *
 * @param about the release. data: what `/v1/map` gave. ask: called with the id of a point that was picked.
 * @returns {element, resize(), found(query, ids)}: `found` rings a query and its neighbors where the sample holds them.
 */
export function mapOf(about, data, ask) {
  const { ids, labels, x, y } = data;
  const classes = [...new Set(labels)].sort((a, b) => String(a).localeCompare(String(b), "en", { numeric: true }));
  const codes = labels.map((label) => classes.indexOf(label));
  const canvas = make("canvas", { tabindex: "0", role: "application", "aria-label": `Map of ${count(ids.length)} items. Arrow keys go from point to point, Enter asks with it, plus and minus zoom.`, "aria-describedby": "map-said" });
  const tip = make("div", { class: "tip", hidden: true });
  const said = make("p", { class: "sr", id: "map-said", "aria-live": "polite" });
  const pen = canvas.getContext("2d");
  const hidden = new Set();
  let side = 0, radius = 4.5, ratio = 1, scale = 1, left = 0, top = 0, active = -1, lit = -1, rings = new Map(), queued = false;

  const at = (i) => [left + scale * (PAD + x[i] * (side - 2 * PAD)), top + scale * (PAD + (1 - y[i]) * (side - 2 * PAD))];
  const inSight = ([px, py]) => px >= -radius && py >= -radius && px <= side + radius && py <= side + radius;

  function paint() {
    queued = false;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, side, side);
    for (let i = 0; i < ids.length; i++) {
      if (hidden.has(codes[i])) continue;
      const place = at(i);
      if (!inSight(place)) continue;
      pen.globalAlpha = lit >= 0 && codes[i] !== lit ? 0.12 : 0.8;
      drawMark(pen, markOf(codes[i]), ...place, radius);
    }
    pen.globalAlpha = 1;
    const ink = getComputedStyle(canvas).color;
    for (const [i, isQuery] of rings) ring(i, isQuery ? radius + 6 : radius + 3, isQuery ? 3 : 1.5, ink);
    if (active >= 0) ring(active, radius + 4, 2, ink);
    placeTip();
  }
  function ring(i, r, width, ink) {
    if (hidden.has(codes[i])) return;
    pen.beginPath();
    pen.arc(...at(i), r, 0, 2 * Math.PI);
    pen.lineWidth = width;
    pen.strokeStyle = ink;
    pen.stroke();
  }
  function repaint() {
    if (!queued) {
      queued = true;
      requestAnimationFrame(paint);
    }
  }
  function resize() {
    const before = side;
    side = Math.max(200, Math.min(620, holder.clientWidth));
    if (!holder.clientWidth) return;
    radius = side < 440 ? 3.2 : 4.5;
    ratio = devicePixelRatio || 1;
    canvas.width = canvas.height = Math.round(side * ratio);
    canvas.style.width = canvas.style.height = `${side}px`;
    if (before) [left, top] = [left * (side / before), top * (side / before)];
    repaint();
  }

  // ---- view ----
  function moved(dx, dy) {
    const reach = side * (scale - 1);
    left = Math.min(0, Math.max(-reach, left + dx));
    top = Math.min(0, Math.max(-reach, top + dy));
    repaint();
  }
  function zoom(factor, px = side / 2, py = side / 2) {
    const next = Math.min(MAX_ZOOM, Math.max(1, scale * factor));
    left = px - ((px - left) * next) / scale;
    top = py - ((py - top) * next) / scale;
    scale = next;
    canvas.classList.toggle("movable", scale > 1);
    moved(0, 0);
  }
  const reset = () => zoom(1 / MAX_ZOOM);

  // ---- the point in hand ----
  function show(i, aloud) {
    if (i === active) return;
    active = i;
    tip.hidden = i < 0;
    if (i >= 0) {
      const what = about.pictures ? make("div", { class: "what" }, image(api.picture(ids[i], about.release), "", true)) : null;
      tip.replaceChildren(...[what, make("strong", {}, labelOf(labels[i])), make("span", { class: "id" }, ids[i])].filter(Boolean));
      if (aloud) said.textContent = `${labelOf(labels[i])}, ${ids[i]}`;
    }
    repaint();
  }
  function placeTip() {
    if (active < 0) return;
    const place = at(active);
    tip.hidden = !inSight(place) || hidden.has(codes[active]);
    const beside = (value, size) => Math.max(0, Math.min(side - size, value + 14 + size > side ? value - 14 - size : value + 14));
    tip.style.left = `${beside(place[0], tip.offsetWidth)}px`;
    tip.style.top = `${beside(place[1], tip.offsetHeight)}px`;
  }
  function nearest(px, py, reach, fits = () => true) {
    let best = -1, least = reach;
    for (let i = 0; i < ids.length; i++) {
      if (hidden.has(codes[i])) continue;
      const [qx, qy] = at(i);
      const cost = fits(qx - px, qy - py);
      const distance = cost === false ? Infinity : Math.hypot(qx - px, qy - py) * (cost === true ? 1 : cost);
      if (distance < least) [best, least] = [i, distance];
    }
    return best;
  }
  function step(dx, dy) {
    if (active < 0) return show(nearest(side / 2, side / 2, Infinity), true);
    const [px, py] = at(active);
    // The nearest point in that direction; what lies aside counts as farther.
    const next = nearest(px, py, Infinity, (qx, qy) => {
      const along = qx * dx + qy * dy, aside = Math.abs(qx * dy) + Math.abs(qy * dx);
      return along > 0.5 && aside <= 2 * along ? 1 + aside / along : false;
    });
    if (next < 0) return;
    show(next, true);
    const [nx, ny] = at(next);
    if (nx < 0 || ny < 0 || nx > side || ny > side) moved(side / 2 - nx, side / 2 - ny);
  }

  // ---- pointer and keys ----
  let start = null, dragged = false;
  const placeOf = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    [start, dragged] = [placeOf(event), false];
    if (scale > 1) canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const place = placeOf(event);
    if (!start || scale === 1) {
      if (event.pointerType !== "touch") show(nearest(...place, radius + 8), false);
      return;
    }
    if (!dragged && Math.hypot(place[0] - start[0], place[1] - start[1]) < 5) return;
    dragged = true;
    moved(place[0] - start[0], place[1] - start[1]);
    start = place;
  });
  canvas.addEventListener("pointerup", (event) => {
    const touch = event.pointerType === "touch";
    const found = start && !dragged ? nearest(...placeOf(event), touch ? 24 : radius + 8) : -1;
    start = null;
    if (found < 0) return;
    // A finger has no hover: the first tap shows a point, the second asks with it.
    if (touch && found !== active) show(found, true);
    else ask(ids[found]);
  });
  canvas.addEventListener("pointercancel", () => (start = null));
  canvas.addEventListener("pointerleave", () => { if (!start) show(-1, false); });
  canvas.addEventListener("blur", () => show(-1, false));
  const KEYS = {
    ArrowLeft: () => step(-1, 0), ArrowRight: () => step(1, 0), ArrowUp: () => step(0, -1), ArrowDown: () => step(0, 1),
    "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: reset, Escape: () => show(-1, false),
    Enter: () => active >= 0 && ask(ids[active]), " ": () => active >= 0 && ask(ids[active]),
  };
  canvas.addEventListener("keydown", (event) => {
    const act = KEYS[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

  // ---- around it ----
  const legend = classes.slice(0, IN_LEGEND).map((label, code) => {
    const button = make("button", { type: "button", class: "key", "aria-pressed": "true" }, swatch(code), labelOf(label));
    button.addEventListener("click", () => {
      const off = !hidden.has(code);
      if (off) hidden.add(code);
      else hidden.delete(code);
      button.setAttribute("aria-pressed", String(!off));
      repaint();
    });
    for (const [name, value] of [["pointerenter", code], ["pointerleave", -1], ["focus", code], ["blur", -1]]) {
      button.addEventListener(name, () => { lit = hidden.has(code) ? -1 : value; repaint(); });
    }
    return make("li", {}, button);
  });
  const tool = (text, title, act) => make("button", { type: "button", class: "button small", "aria-label": title, title, onclick: act }, text);
  const holder = make("div", { class: "frame" }, canvas, tip, said);
  const rows = ids.slice(0, LISTED).map((id, i) => [make("button", { type: "button", class: "link", onclick: () => ask(id) }, id), labelOf(labels[i]), x[i].toFixed(3), y[i].toFixed(3)]);
  const element = make(
    "div",
    { class: "chart" },
    make("figure", { class: "plot" }, holder, make("figcaption", {}, `${data.method}, first dimension to the right, second upwards; no units, the axes have no meaning of their own. ${data.explained ?? ""} Rings: the query and its neighbors, where the sample holds them.`)),
    make(
      "div",
      { class: "beside" },
      make("p", { class: "line" }, tool("+", "Zoom in", () => zoom(1.5)), tool("−", "Zoom out", () => zoom(1 / 1.5)), tool("Whole map", "Show the whole map", reset)),
      make("h3", {}, `${count(classes.length)} labels`),
      make("ul", { class: "legend", "aria-label": "Labels: press to hide or show" }, legend),
      classes.length > IN_LEGEND ? make("p", { class: "missing" }, `${count(classes.length - IN_LEGEND)} more are not listed.${repeats(classes.length) ? " Some look alike." : ""}`) : null,
      make("details", {}, make("summary", {}, `Points as a table${ids.length > LISTED ? ` (first ${LISTED} of ${count(ids.length)})` : ""}`), table("Points of the map", [["item"], ["label"], [`${data.method} 1`, true], [`${data.method} 2`, true]], rows)),
    ),
  );
  const rowOf = new Map(ids.map((id, i) => [id, i]));
  const found = (query, neighbors) => {
    rings = new Map(neighbors.filter((id) => rowOf.has(id)).map((id) => [rowOf.get(id), false]));
    if (rowOf.has(query)) rings.set(rowOf.get(query), true);
    repaint();
  };
  return { element, resize, found };
}
