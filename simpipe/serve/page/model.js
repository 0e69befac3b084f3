// What an answer means at a cutpoint. Distances are compared as the server does: at or below counts as within.

/** The named cutpoint that is in use at first: optimal, else the first one. */
export const firstCut = (about) => (about.cutpoints.find((point) => point.name === "optimal") ?? about.cutpoints[0])?.name ?? "";

/** The cutpoint of a text from the address: {name, distance}, null where the release has none of that name. */
export function cutOf(about, text) {
  if (!about.cutpoints.length) return null;
  const named = about.cutpoints.find((point) => point.name === (text || firstCut(about)));
  if (named) return { name: named.name, distance: named.distance };
  const number = Number(text);
  return Number.isFinite(number) ? { name: "", distance: number } : cutOf(about, "");
}

/** From where to where a slider goes. */
export function range(about) {
  const all = about.cutpoints.map((point) => point.distance).concat(about.thresholds ? ends(about.thresholds.distance) : []);
  const low = Math.min(0, ...all);
  const high = Math.max(...all);
  return { low, high: high + 0.08 * (high - low || 1) };
}
const ends = (values) => [values[0], values[values.length - 1]];

/** precision, recall, f1 at a cutpoint: exact at a named one, else of the nearest calibrated threshold at or below it. */
export function measures(about, cut) {
  const named = cut.name && about.cutpoints.find((point) => point.name === cut.name);
  if (named && Number.isFinite(named.precision)) return named;
  const { thresholds } = about;
  if (!thresholds) return {};
  let row = -1;
  for (let low = 0, high = thresholds.distance.length - 1; low <= high; ) {
    const middle = (low + high) >> 1;
    if (thresholds.distance[middle] <= cut.distance) {
      row = middle;
      low = middle + 1;
    } else high = middle - 1;
  }
  if (row < 0) return { recall: 0, f1: 0 };
  return Object.fromEntries(["precision", "recall", "f1"].map((name) => [name, thresholds[name]?.[row]]));
}

/** The label that the calibrated matcher gives: {label, distance, probability, matches}; null without any neighbor. */
export function verdict(about, result, cut) {
  const { voters, match } = result;
  if (!voters.length || !cut) return null;
  const { votes } = matcherOf(about);
  const label = votes ? majority(voters) : voters[0].label;
  const distance = match?.distance ?? (votes ? voters.reduce((sum, each) => sum + each.distance, 0) / voters.length : voters[0].distance);
  const probability = match?.probability ?? (votes ? null : voters[0].probability);
  return { label, distance, probability, matches: distance <= cut.distance && label !== null, votes: votes ? voters.length : 0 };
}

/** How the calibrated matcher reads neighbors: whether several vote, and how many. */
export function matcherOf(about) {
  const [name, depth] = (about.calibration?.matcher ?? "match_nearest@1").split("@");
  return name === "match_majority_vote" ? { votes: true, depth: Number(depth) } : { votes: false, depth: 1 };
}

function majority(voters) {
  const counted = new Map();
  for (const { label } of voters) counted.set(label, (counted.get(label) ?? 0) + 1);
  return [...counted].reduce((best, each) => (each[1] > best[1] ? each : best))[0]; // ties go to the nearer: the first one met
}

/** Where each neighbor stands in another answer: id -> rank. */
export const ranks = (neighbors) => new Map(neighbors.map((neighbor) => [neighbor.id, neighbor.rank]));

/** "cosine distance"; the scores of an inner product are distances as well here. */
export const distanceName = (about) => `${String(about.distance ?? "").replaceAll("_", " ")} distance`.trim();
