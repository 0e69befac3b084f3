// Pictures, a few at a time: a browser opens six connections to a host, and questions must not wait behind pictures.

import { make } from "./dom.js";

const AT_ONCE = 3;
const waiting = []; // {element, source}
let loading = 0;

/** A picture that is loaded in its turn, `soon` before those that wait; small ones keep their pixels; a word where there is none. */
export function image(source, alt, soon = false) {
  const element = make("img", { alt, decoding: "async", width: 104, height: 104 });
  element.addEventListener("load", () => element.classList.toggle("pixels", element.naturalWidth < 64));
  element.addEventListener("error", () => element.closest(".what")?.replaceChildren(make("span", { class: "nothing" }, "no picture")));
  for (const name of ["load", "error"]) {
    element.addEventListener(name, () => {
      loading--;
      next();
    });
  }
  const last = waiting.findIndex((each) => !each.soon);
  waiting.splice(soon && last >= 0 ? last : waiting.length, 0, { element, source, soon });
  setTimeout(next); // once it stands in the page
  return element;
}

function next() {
  while (loading < AT_ONCE && waiting.length) {
    const { element, source } = waiting.shift();
    if (!element.isConnected) continue; // another answer took its place
    loading++;
    element.src = source;
  }
}
