// The same as tables: the neighbors, the cutpoints, what was measured of the release.

import { count, likely, make, percent, plain, short, table } from "./dom.js";
import { labelOf } from "./cards.js";
import { distanceName } from "./model.js";

/** Tables of a side; `cut` is its cutpoint or null. */
export function neighborTable({ about, answer }, cut) {
  const result = answer.results[0];
  const stated = result.neighbors.some((each) => Number.isFinite(each.probability));
  const columns = [["rank", true], ["id"], ["label"], [distanceName(about), true], ...(stated ? [["probability", true]] : []), ...(cut ? [["within"]] : []), ...about.metadata.map((name) => [name])];
  const rows = result.neighbors.map((each) => [
    String(each.rank),
    each.id,
    labelOf(each.label),
    short(each.distance),
    ...(stated ? [likely(each.probability)] : []),
    ...(cut ? [each.distance <= cut.distance ? "yes" : "no"] : []),
    ...about.metadata.map((name) => plain(each[name])),
  ]);
  return table(`Neighbors of ${result.query} in ${about.release}`, columns, rows);
}

export function releaseTables(about) {
  const parts = [];
  if (about.cutpoints.length) {
    const rows = about.cutpoints.map((point) => [point.name, short(point.distance), percent(point.precision), percent(point.recall), percent(point.f1)]);
    parts.push(make("h3", {}, "Cutpoints"), table("Cutpoints", [["cutpoint"], [distanceName(about), true], ["precision", true], ["recall", true], ["F1", true]], rows, (i) => about.cutpoints[i].name === "optimal"));
  }
  const metrics = Object.entries(about.metrics?.metrics ?? about.metrics ?? {}).filter(([, value]) => typeof value === "number");
  if (metrics.length) parts.push(make("h3", {}, "Metrics"), table("Metrics", [["metric"], ["value", true]], metrics.map(([name, value]) => [name.replaceAll("_", " "), short(value)])));
  return parts;
}

/** The strip at the top: name and value. */
export function facts(about) {
  const optimal = about.cutpoints.find((point) => point.name === "optimal");
  const lines = [
    ["items", count(about.items)],
    ["dimensions", count(about.dim)],
    ["distance", String(about.distance ?? "–").replaceAll("_", " ")],
    ["cutpoint “optimal”", optimal ? short(optimal.distance) : "not calibrated"],
  ];
  return lines.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)));
}
