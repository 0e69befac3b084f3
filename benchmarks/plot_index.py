"""Draws recall against CPU time per query from what `index_search` printed, one panel a data set.

    python -m benchmarks.plot_index search-medium.jsonl search-omniglot.jsonl --out docs/index-search.svg

Lines of several data sets may be in one file or in many; the last figures of an engine on a data set count.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt

# Shown as: label, colour, line, marker.
_PEERS = {
    "hnswlib": ("hnswlib", "#8c564b", "s"),
    "faiss": ("FAISS HNSW", "#7f7f7f", "^"),
    "nmslib": ("NMSLIB", "#bcbd22", "v"),
    "scann_sqrt": ("ScaNN, √n leaves", "#17becf", "D"),
    "scann_fine": ("ScaNN, n/100 leaves", "#1f77b4", "d"),
    "faiss_ivf": ("FAISS IVF", "#c7c7c7", "x"),
}
_VARIANTS = {"auto": "planner's choice", "auto-16": "16 partitions", "auto-64": "64 partitions"}
_OURS = ("#d62728", "#ff7f0e", "#9467bd", "#2ca02c", "#e377c2")
_LEAST, _MOST = 0.85, 0.9985


def read(paths: list[str]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Points by data set and engine, those of a file's largest blocks."""
    points: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(dict)
    for path in paths:
        here: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
        lines = [json.loads(text) for text in Path(path).read_text().splitlines() if text.startswith("{")]
        lines = [line for line in lines if line["what"] == "point"]
        largest = {line["data"]: 0 for line in lines}
        for line in lines:
            largest[line["data"]] = max(largest[line["data"]], line["block"])
        for line in lines:
            if line["block"] == largest[line["data"]]:
                here[f"{line['data']}, {line['n']:,} x {line['dim']}"][line["engine"]].append(line)
        for name, engines in here.items():
            points[name].update(engines)
    return points


def best(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that no other one beats in recall and time, by recall."""
    kept: list[dict[str, Any]] = []
    for line in sorted(lines, key=lambda line: (line["us"], -line["recall"])):
        if not kept or line["recall"] > kept[-1]["recall"]:
            kept.append(line)
    return [line for line in kept if _LEAST <= line["recall"] <= _MOST]


def draw(points: dict[str, dict[str, list[dict[str, Any]]]], out: Path) -> None:
    """One panel a data set; recall on a scale that widens towards 1, time on a logarithmic one."""
    figure, panels = plt.subplots(
        1, len(points), figsize=(5.2 * len(points) + 0.6, 4.6), squeeze=False, layout="constrained", sharey=False
    )
    shown: dict[str, Any] = {}
    named = [engine for engines in points.values() for engine, lines in engines.items() if lines[0]["kind"] == "simpipe"]
    ours = list(dict.fromkeys(named))
    for panel, (name, engines) in zip(panels[0], points.items(), strict=True):
        for engine, lines in engines.items():
            line = best(lines)
            recall, us = [-(1 - each["recall"]) for each in line], [each["us"] for each in line]
            if engine in ours:
                colour = _OURS[ours.index(engine) % len(_OURS)]
                label = f"simpipe, {_VARIANTS.get(engine, engine)}"
                style: dict[str, Any] = {"color": colour, "marker": "o", "linewidth": 2.2, "markersize": 4.5, "zorder": 3}
            else:
                label, colour, marker = _PEERS[engine]
                style = {"color": colour, "marker": marker, "linewidth": 1.2, "markersize": 3.5, "linestyle": "--"}
            shown.setdefault(label, panel.plot(recall, us, label=label, **style)[0])
        ticks = (0.85, 0.90, 0.95, 0.98, 0.99, 0.995, 0.998)
        panel.set_xscale("symlog", linthresh=0.001)
        panel.set_xticks([tick - 1 for tick in ticks], [f"{tick:g}" for tick in ticks], minor=False)
        panel.set_xticks([], minor=True)
        panel.set_xlim(_LEAST - 1, _MOST - 1)
        panel.set_yscale("log")
        low, high = panel.get_ylim()
        marks = [mark for mark in (2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000) if low <= mark <= high]
        panel.set_yticks(marks, [f"{mark:g}" for mark in marks])
        panel.set_yticks([], minor=True)
        panel.grid(True, color="#e4e4e4", linewidth=0.7)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_title(name, fontsize=11)
        panel.set_xlabel("recall@10")
    panels[0][0].set_ylabel("CPU time a query, µs (less is better)")
    handles = sorted(shown.items(), key=lambda entry: not entry[0].startswith("simpipe"))
    figure.legend(
        [handle for _, handle in handles],
        [label for label, _ in handles],
        loc="outside lower center",
        ncols=min(5, 3 * len(points)),
        fontsize=9,
        frameon=False,
    )
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None, dpi=110)


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("files", nargs="+")
    options.add_argument("--out", default="docs/index-search.svg")
    chosen = options.parse_args()
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "simpipe"  # the same figures give the same file
    points = read(chosen.files)
    if not points:
        raise SystemExit(f"no points in {', '.join(chosen.files)}")
    draw(points, Path(chosen.out))


if __name__ == "__main__":
    main()
