// Requests to the server that this page came from; nothing else is ever asked.

import { firstCut, matcherOf } from "./model.js";

/** What the server refused: a message, and what to do about it. */
export class Refused extends Error {
  constructor({ message, cure, code = "", id = "", status = 0 }) {
    super(message);
    Object.assign(this, { cure, code, id, status });
  }
}

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { accept: "application/json", ...options.headers }, credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused({ message: "the server cannot be reached", cure: "see whether it runs, then ask again", code: "network" });
  }
  let body = null;
  try {
    body = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  if (response.ok && body !== null) return body;
  const said = body?.error ?? {};
  throw new Refused({
    message: said.message ?? `the server answered with status ${response.status}`,
    cure: said.cure ?? (response.status >= 500 ? "try again in a moment" : "check what was asked"),
    code: said.code,
    id: body?.request_id ?? response.headers.get("x-request-id") ?? "",
    status: response.status,
  });
}

function query(params) {
  const given = Object.entries(params).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

export const releases = async () => (await request("v1/releases")).releases;

/** A release, with its cutpoints as a list and defaults for what it may lack. */
export async function about(release) {
  const body = await request(`v1/release${query({ release })}`);
  const points = body.cutpoints ?? {};
  const cutpoints = (Array.isArray(points) ? points : Object.entries(points).map(([name, point]) => ({ name, ...point }))).filter((point) =>
    Number.isFinite(point.distance),
  );
  const thresholds = body.thresholds?.distance?.length ? body.thresholds : null;
  return { ...body, cutpoints, thresholds, metadata: body.metadata ?? [], pictures: Boolean(body.pictures) };
}

export async function items({ limit, label, release, signal }) {
  return (await request(`v1/items${query({ limit, label, release })}`, { signal })).items;
}

export const map = (release, signal) => request(`v1/map${query({ release })}`, { signal });

export const picture = (id, release) => `v1/items/${encodeURIComponent(id)}/picture${query({ release })}`;

const post = (path, body, signal) => request(path, { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" }, signal });

/**
 * The k nearest items of one query, without itself, each with the probability of its label where the release is calibrated.
 * `voters` are those that the calibrated matcher looks at; `match` is the server's where several vote.
 */
export async function neighbors(about, query, k, signal) {
  const { votes, depth } = matcherOf(about);
  const body = { ...query, k: Math.max(k, depth) + (query.ids ? 1 : 0) }; // a look-up gives the item itself too
  if (about.cutpoints.length) body.cutpoint = firstCut(about);
  if (about.metadata.length) body.metadata = true;
  const [answer, matched] = await Promise.all([post("v1/lookup", body, signal), votes ? post("v1/match", { ...query, k: 1, cutpoint: body.cutpoint }, signal) : null]);
  for (const result of answer.results) {
    const others = result.neighbors.filter((each) => !query.ids || each.id !== result.query).map((each, i) => ({ ...each, rank: i + 1 }));
    result.neighbors = others.slice(0, k);
    result.voters = others.slice(0, depth);
  }
  if (matched?.release === answer.release) answer.results[0].match = matched.results[0].match;
  return answer;
}
