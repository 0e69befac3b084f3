"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const map = $("map"), plot = $("plot"), tip = $("tip"), pen = map.getContext("2d");
const { n, x, y, codes, classes, thumbs } = data;
const MAX_ZOOM = 500, MANY = 20, PAD = 14;
let side = 0, ratio = 1, scale = 1, left = 0, top_ = 0;  // screen = (left, top_) + scale * place on the map before zooming
let drag = data.drag, kept = false, active = -1, lit = -1, queued = false;
const visible = new Array(classes.length).fill(true);

// Points are drawn in a fixed random order, so that no class lies on top of the others.
const order = Array.from({ length: n }, (_, i) => i);
for (let i = n - 1, seed = 12345; i > 0; i--) {
  seed = (seed * 1103515245 + 12345) % 2147483648;
  const j = seed % (i + 1);
  [order[i], order[j]] = [order[j], order[i]];
}

const inner = () => side - 2 * PAD;
const screenX = (i) => left + scale * (PAD + x[i] * inner());
const screenY = (i) => top_ + scale * (PAD + (1 - y[i]) * inner());

// ---- marks: one picture a class, drawn once ----
function outline(context, shape, r) {
  const corners = (count, turn, size) => {
    for (let i = 0; i < count; i++) {
      const angle = turn + (2 * Math.PI * i) / count;
      context.lineTo(size * Math.cos(angle), size * Math.sin(angle));
    }
  };
  context.beginPath();
  if (shape === 0) context.arc(0, 0, r, 0, 2 * Math.PI);
  else if (shape === 1) corners(3, -Math.PI / 2, 1.45 * r);
  else if (shape === 2) corners(4, Math.PI / 4, 1.25 * r);
  else if (shape === 3) corners(4, 0, 1.35 * r);
  else if (shape === 4) corners(3, Math.PI / 2, 1.45 * r);
  else {
    const w = 0.42 * r, l = 1.3 * r;
    for (const [a, b] of [[-w, -l], [w, -l], [w, -w], [l, -w], [l, w], [w, w], [w, l], [-w, l], [-w, w], [-l, w], [-l, -w], [-w, -w]]) context.lineTo(a, b);
  }
  context.closePath();
}
function mark(kind, r, dots) {
  const canvas = document.createElement("canvas"), half = Math.ceil(1.5 * r + 1);
  canvas.width = canvas.height = 2 * half * dots;
  const context = canvas.getContext("2d");
  context.scale(dots, dots);
  context.translate(half, half);
  outline(context, kind.shape, r);
  context.fillStyle = kind.color;
  context.fill();
  return { canvas, half };
}
let marks = [];

// ---- drawing ----
function draw() {
  queued = false;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, side, side);
  for (const faint of lit < 0 ? [false] : [true, false]) {
    pen.globalAlpha = faint ? 0.12 : 0.8;
    for (const i of order) {
      const code = codes[i];
      if (!visible[code] || (lit >= 0 && (code !== lit) !== faint)) continue;
      const px = screenX(i), py = screenY(i), { canvas, half } = marks[code];
      if (px < -half || py < -half || px > side + half || py > side + half) continue;
      pen.drawImage(canvas, px - half, py - half, 2 * half, 2 * half);
    }
  }
  pen.globalAlpha = 1;
  if (active >= 0) {
    const px = screenX(active), py = screenY(active), { canvas, half } = marks[codes[active]];
    pen.drawImage(canvas, px - half, py - half, 2 * half, 2 * half);
    pen.beginPath();
    pen.arc(px, py, data.radius + 4, 0, 2 * Math.PI);
    pen.lineWidth = 2;
    pen.strokeStyle = "#1f2933";
    pen.stroke();
    tip.hidden = px < 0 || py < 0 || px > side || py > side;
    if (!tip.hidden) place(px, py);
  }
}
function redraw() {
  if (!queued) { queued = true; requestAnimationFrame(draw); }
}
function resize() {
  const narrow = matchMedia("(max-width: 640px)").matches;
  const room = document.documentElement.clientWidth - 28 - (narrow || $("legend").hidden ? 0 : 186);
  const before = side;
  side = Math.max(160, Math.min(data.size, room) - 2);
  ratio = window.devicePixelRatio || 1;
  plot.style.width = plot.style.height = side + 2 + "px";
  $("classes").style.maxHeight = Math.max(160, side - (classes.length > MANY ? 130 : 95)) + "px";
  map.width = map.height = Math.round(side * ratio);
  if (before) { left *= side / before; top_ *= side / before; }
  marks = classes.map((kind) => mark(kind, data.radius, ratio));
  redraw();
}

// ---- view ----
function clamp() {
  // Half of the map always stays in sight.
  const reach = side * scale;
  left = Math.min(side / 2, Math.max(side / 2 - reach, left));
  top_ = Math.min(side / 2, Math.max(side / 2 - reach, top_));
}
function zoom(factor, px = side / 2, py = side / 2) {
  const next = Math.min(MAX_ZOOM, Math.max(0.5, scale * factor));
  left = px - ((px - left) * next) / scale;
  top_ = py - ((py - top_) * next) / scale;
  scale = next;
  clamp();
  redraw();
}
function move(dx, dy) { left += dx; top_ += dy; clamp(); redraw(); }
function reset() { scale = 1; left = top_ = 0; redraw(); }
function zoomTo(x0, y0, x1, y1) {
  const factor = Math.min(side / Math.max(x1 - x0, 1), side / Math.max(y1 - y0, 1));
  const next = Math.min(MAX_ZOOM, scale * factor), cx = (x0 + x1) / 2, cy = (y0 + y1) / 2;
  left = side / 2 - ((cx - left) * next) / scale;
  top_ = side / 2 - ((cy - top_) * next) / scale;
  scale = next;
  clamp();
  redraw();
}

// ---- tooltip ----
const sheets = [];
function picture(i) {
  const canvas = $("thumb");
  canvas.hidden = !thumbs || thumbs.missing.includes(i);
  if (canvas.hidden) return;
  const number = Math.floor(i / thumbs.perSheet), cell = i % thumbs.perSheet;
  canvas.width = thumbs.width;
  canvas.height = thumbs.height;
  canvas.style.width = thumbs.shownWidth + "px";
  canvas.style.imageRendering = thumbs.shownWidth > thumbs.width ? "pixelated" : "auto";
  canvas.style.aspectRatio = thumbs.width + " / " + thumbs.height;
  if (!sheets[number]) {
    sheets[number] = new Image();
    sheets[number].addEventListener("load", () => { if (active >= 0) picture(active); });
    sheets[number].src = thumbs.sheets[number];
  }
  if (!sheets[number].complete) return;
  const sx = (cell % thumbs.columns) * thumbs.cellWidth, sy = Math.floor(cell / thumbs.columns) * thumbs.cellHeight;
  canvas.getContext("2d").drawImage(sheets[number], sx, sy, thumbs.width, thumbs.height, 0, 0, thumbs.width, thumbs.height);
}
function facts(i) {
  const rows = data.labelled ? [["class", classes[codes[i]].name]] : [];
  for (const { name, values } of data.info) rows.push([name, values[i]]);
  rows.push(["row", String(i)]);
  return rows;
}
function show(i, keep) {
  kept = keep && i >= 0;
  tip.classList.toggle("kept", kept);
  if (i !== active) {
    active = i;
    tip.hidden = true;  // drawing shows it where its point is in sight
    if (i >= 0) {
      const rows = facts(i), list = $("facts");
      list.replaceChildren();
      for (const [name, value] of rows) {
        list.append(Object.assign(document.createElement("dt"), { textContent: name }), Object.assign(document.createElement("dd"), { textContent: value }));
      }
      picture(i);
      $("status").textContent = rows.map(([name, value]) => name + " " + value).join(", ");
    }
  }
  redraw();
}
function place(px, py) {
  // Below and to the right of the point, on the other side where it would be cut off.
  const gap = data.radius + 10, w = tip.offsetWidth, h = tip.offsetHeight;
  const tx = px + gap + w > side ? px - gap - w : px + gap;
  const ty = py + gap + h > side ? py - gap - h : py + gap;
  tip.style.left = Math.max(0, Math.min(side - w, tx)) + "px";
  tip.style.top = Math.max(0, Math.min(side - h, ty)) + "px";
}
function nearest(px, py, reach) {
  let best = -1, least = reach * reach;
  for (let i = 0; i < n; i++) {
    if (!visible[codes[i]]) continue;
    const dx = screenX(i) - px, dy = screenY(i) - py, d = dx * dx + dy * dy;
    if (d < least) { least = d; best = i; }
  }
  return best;
}
function inSight(i) {
  const px = screenX(i), py = screenY(i);
  return visible[codes[i]] && px >= 0 && py >= 0 && px <= side && py <= side;
}
function step(direction) {
  for (let count = 0, i = active < 0 && direction < 0 ? n : active; count < n; count++) {
    i = (i + direction + n) % n;
    if (inSight(i)) { show(i, true); return; }
  }
}

// ---- mouse, touch, keys ----
const fingers = new Map();
let start = null, moved = false, box = null, spread = 0;
const at = (event) => { const r = map.getBoundingClientRect(); return [event.clientX - r.left, event.clientY - r.top]; };
const middle = () => { const p = [...fingers.values()]; return [(p[0][0] + p[1][0]) / 2, (p[0][1] + p[1][1]) / 2]; };
const apart = () => { const p = [...fingers.values()]; return Math.hypot(p[0][0] - p[1][0], p[0][1] - p[1][1]); };
map.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  map.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, at(event));
  start = at(event);
  moved = fingers.size > 1;
  if (fingers.size === 2) { box = null; $("box").hidden = true; spread = apart(); start = middle(); }
});
map.addEventListener("pointermove", (event) => {
  const [px, py] = at(event);
  if (!fingers.has(event.pointerId)) {
    if (!kept && event.pointerType !== "touch") show(nearest(px, py, data.radius + 7), false);
    return;
  }
  fingers.set(event.pointerId, [px, py]);
  if (fingers.size === 2) {
    const [cx, cy] = middle(), now = apart();
    move(cx - start[0], cy - start[1]);
    zoom(now / Math.max(spread, 1), cx, cy);
    spread = now;
    start = [cx, cy];
  } else if (fingers.size === 1 && start) {
    if (!moved && Math.hypot(px - start[0], py - start[1]) < 5) return;
    moved = true;
    if ((drag === "pan") !== event.shiftKey) {
      move(px - start[0], py - start[1]);
      start = [px, py];
    } else {
      box = [Math.max(0, Math.min(px, start[0])), Math.max(0, Math.min(py, start[1])), Math.min(side, Math.max(px, start[0])), Math.min(side, Math.max(py, start[1]))];
      Object.assign($("box").style, { left: box[0] + "px", top: box[1] + "px", width: box[2] - box[0] + "px", height: box[3] - box[1] + "px" });
      $("box").hidden = false;
    }
  }
});
function release(event, cancelled) {
  if (!fingers.delete(event.pointerId)) return;
  if (fingers.size) { start = null; return; }
  if (box && !cancelled && box[2] - box[0] > 4 && box[3] - box[1] > 4) zoomTo(...box);
  else if (!moved && !cancelled) {
    const found = nearest(...at(event), event.pointerType === "touch" ? 24 : data.radius + 7);
    show(found, found !== active || !kept);
  }
  box = start = null;
  $("box").hidden = true;
}
map.addEventListener("pointerup", (event) => release(event, false));
map.addEventListener("pointercancel", (event) => release(event, true));
map.addEventListener("pointerleave", () => { if (!kept && !fingers.size) show(-1, false); });
map.addEventListener("dblclick", reset);
map.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), ...at(event));
}, { passive: false });
const KEYS = {
  ArrowLeft: () => move(40, 0), ArrowRight: () => move(-40, 0), ArrowUp: () => move(0, 40), ArrowDown: () => move(0, -40),
  "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4), 0: reset,
  n: () => step(1), p: () => step(-1), Escape: () => show(-1, false),
};
map.addEventListener("keydown", (event) => {
  const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  act();
});
$("in").addEventListener("click", () => zoom(1.4));
$("out").addEventListener("click", () => zoom(1 / 1.4));
$("reset").addEventListener("click", reset);
function named() {
  $("drag").textContent = drag === "pan" ? "Drag: move" : "Drag: zoom";
  map.classList.toggle("pan", drag === "pan");
}
$("drag").addEventListener("click", () => { drag = drag === "pan" ? "box_zoom" : "pan"; named(); });

// ---- legend ----
const counts = new Array(classes.length).fill(0);
for (const code of codes) counts[code]++;
const buttons = [];
function refresh() {
  buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(visible[i])));
  let shown = 0;
  counts.forEach((count, i) => { if (visible[i]) shown += count; });
  $("shown").textContent = shown === n ? "all " + n.toLocaleString("en") + " points shown" : shown.toLocaleString("en") + " of " + n.toLocaleString("en") + " points shown";
  if (active >= 0 && !visible[codes[active]]) show(-1, false);
  redraw();
}
function only(chosen) { visible.fill(false); visible[chosen] = true; refresh(); }
classes.forEach((kind, i) => {
  const item = document.createElement("li"), button = document.createElement("button"), swatch = document.createElement("canvas");
  button.type = "button";
  swatch.width = swatch.height = 32;
  const context = swatch.getContext("2d");
  context.translate(16, 16);
  outline(context, kind.shape, 10);
  context.fillStyle = kind.color;
  context.fill();
  button.append(
    swatch,
    Object.assign(document.createElement("span"), { className: "name", textContent: kind.name }),
    Object.assign(document.createElement("span"), { className: "count", textContent: counts[i].toLocaleString("en") }),
  );
  button.addEventListener("click", (event) => {
    if (event.shiftKey) only(i);
    else { visible[i] = !visible[i]; refresh(); }
  });
  button.addEventListener("dblclick", () => only(i));
  for (const [kindOf, value] of [["pointerenter", i], ["pointerleave", -1], ["focus", i], ["blur", -1]]) {
    button.addEventListener(kindOf, () => { lit = value >= 0 && visible[value] ? value : -1; redraw(); });
  }
  item.append(button);
  buttons.push(button);
  $("classes").append(item);
});
$("all").addEventListener("click", () => { visible.fill(true); refresh(); });
$("none").addEventListener("click", () => { visible.fill(false); refresh(); });
$("find").hidden = classes.length <= MANY;
$("find").addEventListener("input", (event) => {
  const text = event.target.value.toLowerCase();
  buttons.forEach((button, i) => { button.parentElement.hidden = !classes[i].name.toLowerCase().includes(text); });
});
$("legend").hidden = !data.labelled;
const looks = new Set(classes.map((kind) => kind.color + kind.shape)).size;
if (data.labelled && looks < classes.length && looks > 1) $("repeat").textContent = "There are more classes than colours and marks: some look alike.";

// "#point=12" in the address opens the tooltip of row 12.
function follow() {
  const found = /^#point=(\d+)$/.exec(location.hash);
  if (found && Number(found[1]) < n) show(Number(found[1]), true);
}
addEventListener("hashchange", follow);
addEventListener("resize", resize);
named();
resize();
refresh();
follow();
})();
