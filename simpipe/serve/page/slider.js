// The slider over a release's calibrated distances: named cutpoints as ticks and as buttons, and the values there.

import { make, percent, short } from "./dom.js";
import { distanceName, measures, range } from "./model.js";

const STEPS = 400;

/**
 * @param about the release. name: of this slider among those of the page.
 * @param moved called with the text of the cutpoint for the address: a name or a distance.
 * @returns {element, show(cut, words)}: `words` say what the cutpoint does to the answer.
 */
export function cutpointSlider(about, name, moved) {
  const { low, high } = range(about);
  const step = Number(((high - low) / STEPS).toPrecision(2));
  const input = make("input", { type: "range", id: `cut-${name}`, min: low, max: high, step, "aria-describedby": `values-${name}` });
  const output = make("output", { for: input.id });
  const marks = make("div", { class: "marks", "aria-hidden": "true" });
  const buttons = about.cutpoints.map((point) => {
    const tick = make("i");
    tick.style.left = `${(100 * (point.distance - low)) / (high - low)}%`;
    marks.append(tick);
    return make("button", { type: "button", class: "button small", "aria-pressed": "false", onclick: () => moved(point.name) }, point.name, make("span", { class: "n" }, ` ${short(point.distance)}`));
  });
  const values = ["precision", "recall", "f1"].map((key) => {
    const value = make("dd", { class: `value-${key}` });
    return { key, value, element: make("div", {}, make("dt", {}, key === "f1" ? "F1" : key), value) };
  });
  input.addEventListener("input", () => moved(String(Number(Number(input.value).toPrecision(6)))));
  const element = make(
    "div",
    { class: "slider" },
    make("label", { for: input.id }, "Cutpoint ", output),
    input,
    marks,
    make("div", { class: "names", role: "group", "aria-label": "Calibrated cutpoints" }, buttons),
    make("dl", { class: "values", id: `values-${name}`, title: "Of the held-out queries that the release was calibrated with" }, values.map((each) => each.element)),
  );
  const show = (cut, words) => {
    const at = measures(about, cut);
    if (document.activeElement !== input || Math.abs(Number(input.value) - cut.distance) > step) input.value = cut.distance;
    output.replaceChildren(make("strong", {}, short(cut.distance)), ` ${distanceName(about)}${cut.name ? `, “${cut.name}”` : ""}`);
    for (const { key, value } of values) value.textContent = percent(at[key]);
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(about.cutpoints[i].name === cut.name)));
    input.setAttribute("aria-valuetext", `${short(cut.distance)}, precision ${percent(at.precision)}, recall ${percent(at.recall)}. ${words}`);
  };
  return { element, show };
}
