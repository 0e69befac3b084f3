// Precision, recall and F1 against the cutpoint's distance, and the same numbers as a table.

import { draw, make, percent, plural, short, table } from "./dom.js";
import { cutOf, distanceName, range } from "./model.js";

const CURVES = [["precision", "precision", "1", ""], ["recall", "recall", "2", "7 3"], ["f1", "F1", "3", "2 3"]];
const EDGE = { left: 62, right: 12, top: 10, bottom: 44 };
const ROWS = 12; // of the table

/** @returns {element, show(text), resize()}; null where the release was not calibrated. */
export function curvesOf(about, titled) {
  const { thresholds } = about;
  if (!thresholds) return null;
  const holder = make("div", { class: "plot" });
  const element = make(
    "div",
    { class: titled ? null : "pair" },
    titled ? make("h3", {}, about.release) : null,
    make("figure", {}, key(), holder, make("figcaption", {}, "Measured with the held-out queries of the calibration. The solid line is the cutpoint in use; dotted ones are named cutpoints.")),
    make("details", { open: matchMedia("(min-width: 1001px)").matches }, make("summary", {}, `Values at ${Math.min(ROWS, thresholds.distance.length)} of ${plural(thresholds.distance.length, "threshold")}`), numbers(about)),
  );
  let now = null;
  let drawn = null;
  const resize = () => {
    const width = Math.max(260, Math.min(720, holder.clientWidth || 600));
    if (drawn?.width !== width) {
      drawn = { width, ...picture(about, width) };
      holder.replaceChildren(drawn.svg);
    }
    if (now !== null) drawn.move(cutOf(about, now));
  };
  const show = (text) => {
    now = text;
    resize();
  };
  return { element, show, resize };
}

function key() {
  const sample = (color, dash) => draw("svg", { width: 30, height: 10, "aria-hidden": "true" }, draw("line", { x1: 1, x2: 29, y1: 5, y2: 5, class: `curve curve-${color}`, "stroke-dasharray": dash || null }));
  return make("p", { class: "curve-key" }, CURVES.map(([, title, color, dash]) => make("span", {}, sample(color, dash), " ", title)));
}

function numbers(about) {
  const { thresholds } = about;
  const all = thresholds.distance.length;
  const rows = Array.from({ length: Math.min(ROWS, all) }, (_, i) => Math.round((i * (all - 1)) / Math.max(1, Math.min(ROWS, all) - 1)));
  const cells = rows.map((row) => [short(thresholds.distance[row]), ...CURVES.map(([name]) => percent(thresholds[name]?.[row]))]);
  return table(`Values by ${distanceName(about)}`, [[distanceName(about), true], ...CURVES.map(([, title]) => [title, true])], cells);
}

function picture(about, width) {
  const height = Math.round(Math.min(300, 150 + width / 4));
  const { low, high } = range(about);
  const x = (distance) => EDGE.left + ((width - EDGE.left - EDGE.right) * (Math.min(high, Math.max(low, distance)) - low)) / (high - low);
  const y = (share) => height - EDGE.bottom - (height - EDGE.top - EDGE.bottom) * share;
  const text = (left, top, content, anchor, more = {}) => draw("text", { x: left, y: top, "text-anchor": anchor, class: "axis", ...more }, content);
  const shares = [0, 0.25, 0.5, 0.75, 1].map((share) => [
    draw("line", { x1: EDGE.left, x2: width - EDGE.right, y1: y(share), y2: y(share), class: "grid" }),
    text(EDGE.left - 6, y(share) + 4, `${100 * share} %`, "end"),
  ]);
  const steps = ticks(low, high, width < 420 ? 4 : 7).map((value) => text(x(value), height - EDGE.bottom + 16, short(value), "middle"));
  const named = about.cutpoints.map((point) => draw("line", { x1: x(point.distance), x2: x(point.distance), y1: EDGE.top, y2: y(0), class: "named" }, draw("title", {}, `${point.name}: ${short(point.distance)}`)));
  const { thresholds } = about;
  const lines = CURVES.filter(([name]) => thresholds[name]).map(([name, , color, dash]) => {
    const points = thresholds.distance.map((distance, i) => [distance, thresholds[name][i]]).filter(([, value]) => Number.isFinite(value));
    return draw("polyline", { points: points.map(([distance, value]) => `${x(distance).toFixed(1)},${y(value).toFixed(1)}`).join(" "), class: `curve curve-${color}`, "stroke-dasharray": dash || null });
  });
  const cutLine = draw("line", { y1: EDGE.top, y2: y(0), class: "cut" });
  const label = `Precision, recall and F1, in percent, against the cutpoint's ${distanceName(about)} from ${short(low)} to ${short(high)}`;
  const svg = draw(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label },
    shares, steps, named, lines, cutLine,
    text((EDGE.left + width - EDGE.right) / 2, height - 6, `cutpoint, ${distanceName(about)} (no unit)`, "middle"),
    text(12, (EDGE.top + y(0)) / 2, "share (%)", "middle", { transform: `rotate(-90 12 ${(EDGE.top + y(0)) / 2})` }),
  );
  const move = (cut) => {
    cutLine.setAttribute("x1", x(cut.distance));
    cutLine.setAttribute("x2", x(cut.distance));
  };
  return { svg, move };
}

function ticks(low, high, most) {
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((each) => each >= rough);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high + 1e-9 * step; i++) found.push(Number((i * step).toPrecision(12)));
  return found;
}
