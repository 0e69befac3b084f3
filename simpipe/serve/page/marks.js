// Marks of classes on the map: colors that people with color-vision deficiencies tell apart, and shapes when colors run out.

const COLORS = ["#0072b2", "#d55e00", "#009e73", "#aa4499", "#8c6d00", "#332288", "#cc6677", "#56b4e9", "#5b5b5b", "#882255"];
const ON_DARK = ["#5cb8f0", "#f0853a", "#2fc79a", "#d97fc8", "#c9a227", "#8f86e8", "#e58f9c", "#9ad4f5", "#a3a3a3", "#d0699f"];
const SHAPES = 6;
const CROSS = [[-0.42, -1.3], [0.42, -1.3], [0.42, -0.42], [1.3, -0.42], [1.3, 0.42], [0.42, 0.42], [0.42, 1.3], [-0.42, 1.3], [-0.42, 0.42], [-1.3, 0.42], [-1.3, -0.42], [-0.42, -0.42]];

const corners = (count, turn, size) =>
  Array.from({ length: count }, (_, i) => turn + (2 * Math.PI * i) / count).map((angle) => [size * Math.cos(angle), size * Math.sin(angle)]);
const OUTLINES = [null, corners(3, -Math.PI / 2, 1.45), corners(4, Math.PI / 4, 1.25), corners(4, 0, 1.35), corners(3, Math.PI / 2, 1.45), CROSS];

export const isDark = () => matchMedia("(prefers-color-scheme: dark)").matches;

export const markOf = (code) => ({ color: (isDark() ? ON_DARK : COLORS)[code % COLORS.length], shape: Math.floor(code / COLORS.length) % SHAPES });

export const repeats = (classes) => classes > COLORS.length * SHAPES;

/** Draws a mark of radius r around a place. */
export function drawMark(pen, { color, shape }, x, y, r) {
  pen.beginPath();
  if (shape === 0) pen.arc(x, y, r, 0, 2 * Math.PI);
  else for (const [dx, dy] of OUTLINES[shape]) pen.lineTo(x + r * dx, y + r * dy);
  pen.closePath();
  pen.fillStyle = color;
  pen.fill();
}

/** A mark as a picture of its own, for a legend. */
export function swatch(code) {
  const canvas = Object.assign(document.createElement("canvas"), { width: 32, height: 32, className: "swatch" });
  canvas.setAttribute("aria-hidden", "true");
  drawMark(canvas.getContext("2d"), markOf(code), 16, 16, 10);
  return canvas;
}
