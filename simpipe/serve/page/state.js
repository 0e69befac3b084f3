// What is asked, in the address: it can be shared, and the back button works.

const NAMES = ["id", "release", "with", "k", "filter", "cut", "cut2"];
const EMPTY = { id: "", picture: 0, release: "", with: "", k: 5, filter: "", cut: "", cut2: "" };
const pictures = new Map(); // number -> what was dropped; pictures stay on this page, not in the address
let next = 1;

/** Neighbors that can be shown. */
export const inRange = (k) => Math.min(200, Math.max(1, Math.round(Number(k)) || EMPTY.k));

export let state = read();

function read() {
  const given = new URLSearchParams(location.search);
  const found = { ...EMPTY };
  for (const name of NAMES) if (given.has(name)) found[name] = given.get(name);
  found.k = inRange(found.k);
  const number = Number(given.get("picture"));
  if (number && !found.id) found.picture = number;
  return found;
}

function address() {
  const shown = new URLSearchParams();
  for (const name of NAMES) if (state[name] !== EMPTY[name]) shown.set(name, state[name]);
  if (state.picture) shown.set("picture", state.picture);
  const text = shown.toString();
  return text ? `?${text}` : location.pathname;
}

/** Changes the state; a new entry of the history unless `quiet`. */
export function change(what, { quiet = false } = {}) {
  state = { ...state, ...what };
  if (quiet) later();
  else {
    clearTimeout(waiting);
    history.pushState(null, "", address());
  }
}

// Browsers refuse hundreds of changes in a row, as a slider makes them.
let waiting;
function later() {
  clearTimeout(waiting);
  waiting = setTimeout(() => history.replaceState(null, "", address()), 150);
}

export function onBack(then) {
  addEventListener("popstate", () => {
    clearTimeout(waiting);
    state = read();
    then();
  });
}

/** Keeps a picture; its number goes into the address. */
export function keep(picture) {
  pictures.set(next, picture);
  return next++;
}

export const kept = (number) => pictures.get(number);
