// Two releases, the same query: what differs, in a sentence.

import { plural } from "./dom.js";
import { cutOf, verdict } from "./model.js";
import { labelOf } from "./cards.js";

/** What differs between the answers of two sides at their cutpoints. */
export function differences(first, second, cuts) {
  const [ours, theirs] = [first, second].map((side) => side.answer.results[0].neighbors.map((neighbor) => neighbor.id));
  const shared = ours.filter((id) => theirs.includes(id)).length;
  const moved = ours.filter((id, i) => theirs.includes(id) && theirs[i] !== id).length;
  const most = Math.max(ours.length, theirs.length);
  const parts = [shared === most && !moved ? `The same ${plural(most, "neighbor")} in the same order.` : `${shared} of ${plural(most, "neighbor")} in both${moved ? `, ${moved} at another rank` : ""}.`];
  const said = [first, second].map((side, i) => {
    const cut = cutOf(side.about, cuts[i]);
    const found = verdict(side.about, side.answer.results[0], cut);
    return found === null ? "no verdict" : found.matches ? `match ${labelOf(found.label)}` : "no match";
  });
  parts.push(said[0] === said[1] ? `Both: ${said[0]}.` : `${first.about.release}: ${said[0]}; ${second.about.release}: ${said[1]}.`);
  if (first.about.encoder?.fingerprint !== second.about.encoder?.fingerprint) parts.push("Their encoders differ: distances of one mean nothing for the other.");
  return parts.join(" ");
}
