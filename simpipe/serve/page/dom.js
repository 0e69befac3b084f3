// Elements, and how numbers are written.

export const byId = (id) => document.getElementById(id);

/** An element; `props` are attributes, `on...` listeners, `class`; children are elements, text or null. Markup is never parsed. */
export function make(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same, for drawings. */
export function draw(tag, props = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Four significant digits: distances. */
export function short(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return value.toLocaleString("en", { maximumSignificantDigits: 4, useGrouping: false });
}

export function percent(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const digits = value > 0.9995 && value < 1 ? 3 : 1;
  return `${(100 * value).toFixed(value === 1 || value === 0 ? 0 : digits)} %`;
}

/** Without decimals between 1 and 99 %, where a card has little room. */
export function likely(value) {
  return value > 0.01 && value < 0.99 ? `${Math.round(100 * value)}\u00a0%` : percent(value).replace(" ", "\u00a0");
}

export function count(value) {
  return value === null || value === undefined ? "–" : value.toLocaleString("en");
}

export const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;

/** A value of metadata in words. */
export function plain(value) {
  if (value === null || value === undefined) return "–";
  return typeof value === "number" && !Number.isInteger(value) ? short(value) : typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** A table; `columns` are [title, whether numbers], cells are text or elements. `main` says of a row whether it stands out. */
export function table(caption, columns, rows, main = () => false) {
  const cell = (value, [, number], first) => make(first ? "th" : "td", { class: number ? "n" : null, scope: first ? "row" : null }, value ?? "–");
  return make(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    make(
      "table",
      { class: "labels" },
      make("caption", { class: "sr" }, caption),
      make("thead", {}, make("tr", {}, columns.map(([title, number]) => make("th", { class: number ? "n" : null, scope: "col" }, title)))),
      make("tbody", {}, rows.map((row, i) => make("tr", { class: main(i) ? "main" : null }, row.map((value, j) => cell(value, columns[j], j === 0))))),
    ),
  );
}
