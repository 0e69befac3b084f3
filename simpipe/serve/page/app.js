// The page: what is asked, the answers of one release or of two, and everything that hangs on them.

import * as api from "./api.js";
import { onPicture, pictureOf, showPicks } from "./ask.js";
import { legendOf, sideOf } from "./cards.js";
import { differences } from "./compare.js";
import { curvesOf } from "./curves.js";
import { byId, make } from "./dom.js";
import * as filters from "./filter.js";
import { mapOf } from "./map.js";
import { cutOf, firstCut } from "./model.js";
import { facts, neighborTable, releaseTables } from "./numbers.js";
import { change, inRange, keep, kept, onBack, state } from "./state.js";

const CUTS = ["cut", "cut2"];
const known = new Map(); // what `/v1/release` said, by the name that was asked for and by id
let listed = [];
let sides = []; // of the answer that is shown
let curves = [];
let map = null;
let asking = new AbortController();
let picking = new AbortController();

const PASSING = new Set([0, 429, 503, 504]); // what another try may mend; 0: no answer at all

// ---- errors ----
function trouble(error) {
  if (error.name === "AbortError") return;
  if (!(error instanceof api.Refused || error instanceof filters.Unreadable)) console.error(error);
  const cure = error.cure ?? (error instanceof filters.Unreadable ? "write column=value, or see how to write a filter" : "");
  const about = [error.status ? `status ${error.status}` : "", error.id ? `request ${error.id}` : ""].filter(Boolean).join(", ");
  byId("trouble").replaceChildren(
    make("div", { class: "alert" }, make("p", {}, make("strong", {}, sentence(error.message)), cure ? ` To mend it: ${cure}.` : "", about ? make("span", { class: "id" }, about) : null), make("p", { class: "line" }, PASSING.has(error.status ?? -1) ? make("button", { type: "button", class: "button small", onclick: () => start() }, "Ask again") : null, make("button", { type: "button", class: "button small", onclick: calm }, "Close"))),
  );
  if (scrolledPast(byId("trouble"))) byId("trouble").scrollIntoView({ block: "nearest" });
}
const calm = () => byId("trouble").replaceChildren();
const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
const scrolledPast = (element) => element.getBoundingClientRect().top < 0;

// ---- releases ----
async function aboutOf(name) {
  if (!known.has(name)) {
    const about = await api.about(name || undefined);
    about.live = listed.find((each) => each.release === about.release)?.live ?? name === "";
    known.set(about.release, about);
    if (name !== "") known.set(name, about); // the live release may be another one next time
    return about;
  }
  return known.get(name);
}

function fillReleases() {
  const title = (each) => [each.release, each.live ? "live" : each.previous ? "previous" : "", ...(each.tags ?? [])].filter(Boolean).join(" · ");
  const options = (first, chosen) => [first, ...listed.map((each) => [each.release, title(each)]), ...(chosen && !listed.some((each) => each.release === chosen) ? [[chosen, chosen]] : [])].map(([value, text]) => make("option", { value }, text));
  byId("release").replaceChildren(...options(["", "the live one"], state.release));
  byId("with").replaceChildren(...options(["", "no other"], state.with));
  [byId("release").value, byId("with").value] = [state.release, state.with];
  byId("with").disabled = listed.length < 2 && !state.with;
}

let shownRelease = "";
async function showRelease(about) {
  if (shownRelease === about.release) return;
  shownRelease = about.release;
  byId("about").textContent = `release ${about.release}`;
  document.title = `simpipe: ${about.release}`;
  byId("facts").replaceChildren(...facts(about));
  byId("facts").hidden = false;
  byId("drop").hidden = !about.pictures && !about.encoder?.folder;
  byId("columns").textContent = ["label", ...about.metadata].join(", ");
  picks(about);
  watchMap(about);
}

function picks(about) {
  picking.abort();
  picking = new AbortController();
  showPicks(about, { label: byId("label").value.trim(), release: state.release, signal: picking.signal, ask: (id) => askId(id, true) }).catch(trouble);
}

// ---- the map: made when it comes into sight ----
let sight = null;
function watchMap(about) {
  sight?.disconnect();
  map = null;
  byId("map").replaceChildren(make("p", { class: "missing" }, "The map is made when it is looked at; that takes some seconds the first time."));
  sight = new IntersectionObserver((seen) => {
    if (!seen.some((each) => each.isIntersecting)) return;
    sight.disconnect();
    loadMap(about);
  }, { rootMargin: "150px" });
  sight.observe(byId("map"));
}
async function loadMap(about) {
  byId("map").replaceChildren(make("p", { class: "missing", role: "status" }, "The map is being made…"));
  try {
    const data = await patiently(() => api.map(state.release));
    if (shownRelease !== about.release) return;
    map = mapOf(about, data, (id) => askId(id, true));
    byId("map").replaceChildren(map.element);
    map.resize();
    ringMap();
  } catch (error) {
    byId("map").replaceChildren(make("p", { class: "missing" }, `No map: ${error.message}. `, make("button", { type: "button", class: "button small", onclick: () => loadMap(about) }, "Try again")));
  }
}
/** Asks again where the answer is not ready yet: the server goes on making it. */
async function patiently(ask, left = 6) {
  try {
    return await ask();
  } catch (error) {
    if (!PASSING.has(error.status) || !left) throw error;
    await new Promise((done) => setTimeout(done, 2000));
    return patiently(ask, left - 1);
  }
}
function ringMap() {
  const result = sides[0]?.answer.results[0];
  if (result) map?.found(result.query, result.neighbors.map((neighbor) => neighbor.id));
}

// ---- asking ----
function askId(id, toResults = false) {
  change({ id, picture: 0 });
  refresh({ toResults });
}
async function askPicture(file) {
  try {
    change({ id: "", picture: keep(await pictureOf(file)) });
    await refresh({ toResults: true });
  } catch (error) {
    trouble(error);
  }
}

function queryOf() {
  if (state.id) return { body: { ids: [state.id] }, asked: { name: state.id } };
  if (!state.picture) return null;
  const picture = kept(state.picture);
  if (!picture) throw new api.Refused({ message: "this address asked with a picture, and pictures are not kept", cure: "give the picture again" });
  return { body: { images: [picture.base64], names: [picture.name] }, asked: { name: picture.name, url: picture.url } };
}

/** The answer of a release; asked again where another release answered than the one that is shown. */
async function answerOf(name, query, filter, signal) {
  for (let left = 2; ; left--) {
    const about = await aboutOf(name);
    const body = { ...query.body };
    if (filter) body.filter = filter;
    if (name) body.release = name;
    const answer = await api.neighbors(about, body, state.k, signal);
    if (answer.release !== about.release && left) {
      known.clear();
      listed = await api.releases();
      fillReleases();
      continue;
    }
    return { about, answer };
  }
}

async function refresh({ toResults = false } = {}) {
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  fillForms();
  calm();
  byId("results").setAttribute("aria-busy", "true");
  try {
    const filter = filters.parse(state.filter);
    readFilter(filter);
    const query = queryOf();
    if (!query) {
      const about = await aboutOf(state.release);
      if (!signal.aborted) nothingAsked(about);
      return;
    }
    const names = state.with && state.with !== state.release ? [state.release, state.with] : [state.release];
    const [first, second] = await Promise.allSettled(names.map((name) => answerOf(name, query, filter, signal)));
    if (signal.aborted) return;
    if (first.status === "rejected") throw first.reason;
    if (second?.status === "rejected") trouble(new api.Refused({ ...second.reason, message: `the release to compare with: ${second.reason.message}` }));
    show([first.value, ...(second?.status === "fulfilled" ? [second.value] : [])], query.asked);
    if (toResults) toSight(byId("results"));
  } catch (error) {
    trouble(error);
    // What was answered before belongs to another question.
    if (error.name !== "AbortError") await aboutOf(state.release).then((about) => signal.aborted || nothingAsked(about, "No answer: see above.")).catch(() => {});
  } finally {
    if (!signal.aborted) byId("results").removeAttribute("aria-busy");
  }
}

function nothingAsked(about, why = "Pick an item or a picture: its nearest neighbors appear here.") {
  showRelease(about);
  sides = [];
  showCurves([about]);
  byId("columns-of").replaceChildren(make("p", { class: "missing" }, why));
  byId("columns-of").classList.remove("two");
  byId("tables").replaceChildren(make("div", {}, releaseTables(about)));
  showCut(0);
}

// ---- showing ----
function show(found, asked) {
  const results = found.map(({ answer }) => answer.results[0]);
  const two = found.length > 1;
  sides = found.map((each, i) => ({ ...each, asked, name: String(i + 1), titled: two, other: two ? results[1 - i] : null }));
  sides.forEach((side, i) => {
    side.view = sideOf(side, { ask: (id) => askId(id, true), cut: (text) => cutTo(i, text) });
  });
  const said = two ? [make("p", { class: "note differs", id: "differs" })] : [];
  byId("columns-of").replaceChildren(...said, ...sides.map((side) => side.view.element), legendOf(sides));
  byId("columns-of").classList.toggle("two", two);
  showRelease(sides[0].about);
  showCurves(sides.map((side) => side.about));
  const words = sides.map((_, i) => showCut(i));
  byId("said").textContent = words.join(" ");
  ringMap();
}

function showCurves(abouts) {
  curves = abouts.map((about) => curvesOf(about, abouts.length > 1));
  const shown = curves.filter(Boolean);
  byId("curves").classList.toggle("two", shown.length > 1);
  byId("curves").replaceChildren(...(shown.length ? shown.map((each) => each.element) : [make("p", { class: "missing" }, "This release has no cutpoints: it was not calibrated.")]));
  if (!sides.length) curves.forEach((each, i) => each?.show(state[CUTS[i]]));
}

function showCut(i) {
  const words = sides[i]?.view.show(state[CUTS[i]]) ?? "";
  curves[i]?.show(state[CUTS[i]]);
  if (sides.length > 1) byId("differs").textContent = differences(sides[0], sides[1], CUTS.map((name) => state[name]));
  if (sides.length) {
    const tables = sides.map((side, at) => [make("h3", {}, sides.length > 1 ? `Neighbors in ${side.about.release}` : "Neighbors"), neighborTable(side, cutOf(side.about, state[CUTS[at]]))]);
    byId("tables").replaceChildren(make("div", {}, tables), make("div", {}, releaseTables(sides[0].about)));
  }
  return words;
}

function cutTo(i, text) {
  change({ [CUTS[i]]: text === firstCut(sides[i].about) ? "" : text }, { quiet: true });
  showCut(i);
}

function fillForms() {
  byId("id").value = state.id;
  byId("k").value = state.k;
  byId("filter").value = state.filter;
  fillReleases();
}

function readFilter(filter) {
  byId("filter-read").hidden = !filter;
  byId("filter-read").replaceChildren(...(filter ? ["Read as ", make("code", {}, JSON.stringify(filter))] : []));
}

function toSight(element) {
  const { top } = element.getBoundingClientRect();
  if (top < 0 || top > innerHeight * 0.6) element.scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

// ---- what is listened to ----
const onSubmit = (form, act) => byId(form).addEventListener("submit", (event) => {
  event.preventDefault();
  act();
});
onSubmit("by-id", () => askId(byId("id").value.trim()));
onSubmit("options", () => {
  change({ k: inRange(byId("k").value), filter: byId("filter").value.trim() });
  refresh();
});
onSubmit("pick-by", () => aboutOf(state.release).then(picks).catch(trouble));
for (const name of ["release", "with"]) {
  byId(name).addEventListener("change", (event) => {
    change({ [name]: event.target.value, [name === "release" ? "cut" : "cut2"]: "" });
    refresh();
  });
}
onPicture(askPicture);
onBack(refresh);
let resized;
addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => {
    curves.forEach((each) => each?.resize());
    map?.resize();
  }, 80);
});

async function start() {
  try {
    listed = (await api.releases()) ?? [];
  } catch (error) {
    trouble(error);
  }
  await refresh();
}
await start();
