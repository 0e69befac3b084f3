// One side of the answer: the query, its verdict, the slider, and the cards of its neighbors.

import * as api from "./api.js";
import { likely, make, plain, plural, short } from "./dom.js";
import { cutOf, distanceName, ranks, verdict } from "./model.js";
import { image } from "./pictures.js";
import { cutpointSlider } from "./slider.js";

const COLUMNS = 3; // of metadata on a card

export const labelOf = (label) => (label === null || label === undefined ? "no label" : label);

/**
 * A side of the answer.
 *
 * @param side {about, answer, other, asked, name}: `other` is the result of the release it is compared with, or null.
 * @param on {ask(id), cut(text)}.
 * @returns {element, show(text)}: `show` applies a cutpoint and gives the words that say what it does.
 */
export function sideOf(side, on) {
  const { about, answer } = side;
  const result = answer.results[0];
  const said = make("p", { class: "verdict" });
  const cards = result.neighbors.map((neighbor) => cardOf(neighbor, side, on));
  const slider = about.cutpoints.length ? cutpointSlider(about, side.name, on.cut) : null;
  const element = make(
    "article",
    { class: "side", "aria-label": `Release ${about.release}` },
    side.titled ? heading(about) : null,
    make("div", { class: "asked" }, queryPicture(side), make("div", {}, make("strong", {}, labelOf(result.label)), make("span", { class: "id" }, `query ${result.query}`), said)),
    side.differs ? make("p", { class: "note differs" }, side.differs) : null,
    filterNote(answer.filter),
    slider?.element,
    result.neighbors.length ? make("ol", { class: "row", "aria-label": "Neighbors, nearest first" }, cards.map((card) => card.element)) : make("p", { class: "missing" }, answer.filter ? "No item fits the filter." : "The index returned no neighbor."),
  );
  const show = (text) => {
    const cut = cutOf(about, text);
    if (!cut) {
      said.textContent = "This release was not calibrated: it has no cutpoint, so nothing says from where on a neighbor is no match.";
      return nearestWords(result);
    }
    const within = cards.map((card) => card.show(cut)).filter(Boolean).length;
    const found = verdict(about, result, cut);
    said.replaceChildren(...verdictParts(found, result, cut, about));
    const words = `${within} of ${plural(cards.length, "neighbor")} within the cutpoint. ${said.textContent}`;
    slider.show(cut, words);
    return words;
  };
  return { element, show };
}

/** How to read the cards of some sides. */
export function legendOf(sides) {
  const results = sides.map((side) => side.answer.results[0]);
  const parts = [];
  if (results.some((result) => result.label !== null && result.label !== undefined)) parts.push("✗ and a red border: another label than the query's.");
  if (sides.some((side) => side.about.cutpoints.length)) parts.push("Grey and dashed: beyond the cutpoint.");
  if (results.some((result) => result.neighbors.some((each) => Number.isFinite(each.probability)))) parts.push("Probability: how often a label at this distance was right among the calibration's queries.");
  return make("p", { class: "note sub legend-of" }, parts.join(" "));
}

const nearestWords = (result) => `${plural(result.neighbors.length, "neighbor")} of ${result.query}${result.neighbors.length ? `, nearest ${labelOf(result.neighbors[0].label)}` : ""}.`;

function heading(about) {
  return make("h3", {}, about.release, " ", about.live ? make("span", { class: "badge live" }, "live") : null);
}

function queryPicture({ about, asked, answer }) {
  if (asked.url) return make("div", { class: "what" }, image(asked.url, `query ${asked.name}`, true));
  const id = answer.results[0].query;
  return about.pictures ? make("div", { class: "what" }, image(api.picture(id, about.release), `query ${id}`, true)) : null;
}

function filterNote(filter) {
  if (!filter) return null;
  const { how, matching, ...rest } = filter;
  const more = Object.entries(rest).filter(([, value]) => value !== null && typeof value !== "object");
  return make("p", { class: "note filtered" }, `Filter: ${plural(matching, "item")} fit; ${how}`, more.map(([name, value]) => `; ${name.replaceAll("_", " ")} ${plain(value)}`), ".");
}

function verdictParts(found, result, cut, about) {
  if (!found) return ["No neighbor, so no match."];
  const right = result.label === null || result.label === undefined ? null : found.label === result.label;
  const mark = !found.matches || right === null ? null : make("span", { class: right ? "mark good" : "mark bad" }, right ? " ✓ right" : " ✗ wrong");
  const what = found.votes ? `mean of ${found.votes} neighbors` : "nearest";
  if (found.matches) return ["Match: ", make("strong", {}, labelOf(found.label)), mark, make("span", { class: "id" }, `${what} at ${short(found.distance)}${rightWith(found.probability)}`)];
  return [make("strong", {}, "No match"), make("span", { class: "id" }, `${what} at ${short(found.distance)}, beyond ${short(cut.distance)} ${distanceName(about)}`)];
}

const rightWith = (probability) => (Number.isFinite(probability) ? `, right with probability ${likely(probability)}` : "");

function cardOf(neighbor, { about, answer, other }, on) {
  const query = answer.results[0];
  const known = query.label !== null && query.label !== undefined;
  const wrong = known && neighbor.label !== query.label;
  const beyond = make("span", { class: "id far", hidden: true }, "beyond cutpoint");
  const what = about.pictures ? make("span", { class: "what" }, image(api.picture(neighbor.id, about.release), "", true)) : make("span", { class: "word", "aria-hidden": "true" }, labelOf(neighbor.label));
  const element = make(
    "li",
    { class: `card${wrong ? " wrong" : ""}`, "data-id": neighbor.id, "data-distance": neighbor.distance },
    make("button", { type: "button", class: "again", "aria-label": `Ask with ${neighbor.id}, label ${labelOf(neighbor.label)}`, title: "Ask with this item", onclick: () => on.ask(neighbor.id) }, what),
    make("span", { class: "named-as" }, make("strong", {}, labelOf(neighbor.label)), known ? make("span", { class: wrong ? "mark" : "mark good" }, wrong ? " ✗ other" : " ✓") : null),
    make("span", { class: "line-of" }, `rank ${neighbor.rank} · ${short(neighbor.distance)}`),
    Number.isFinite(neighbor.probability) ? make("span", { class: "line-of" }, `probability ${likely(neighbor.probability)}`) : null,
    make("span", { class: "id" }, neighbor.id),
    about.metadata.slice(0, COLUMNS).map((column) => (column in neighbor ? make("span", { class: "id" }, `${column}: ${plain(neighbor[column])}`) : null)),
    beyond,
    other ? difference(neighbor, other) : null,
  );
  const show = (cut) => {
    const inside = neighbor.distance <= cut.distance;
    element.classList.toggle("beyond", !inside);
    beyond.hidden = inside;
    return inside;
  };
  return { element, show };
}

function difference(neighbor, other) {
  const rank = ranks(other.neighbors).get(neighbor.id);
  if (rank === undefined) return make("span", { class: "badge only" }, "only here");
  return rank === neighbor.rank ? null : make("span", { class: "badge moved" }, `rank ${rank} there`);
}
