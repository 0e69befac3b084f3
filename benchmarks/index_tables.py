"""Prints what `index_build`, `index_search` and `index_large` printed as Markdown tables, for `docs/index-benchmarks.md`.

python -m benchmarks.index_tables build.jsonl search-medium.jsonl search-omniglot.jsonl
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Line = dict[str, Any]
_RECALLS = (0.90, 0.95, 0.98, 0.99)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; None is shown as a dash."""
    cells = [["-" if cell is None else f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [list(head), ["---"] * len(head), *cells]) + "\n"


def of(lines: list[Line], what: str, *fields: str) -> list[Line]:
    """Lines of a kind that have these fields."""
    return [line for line in lines if line["what"] == what and all(field in line for field in fields)]


def places(lines: list[Line]) -> list[tuple[str, int]]:
    """Data sets, as (name, items)."""
    return list(dict.fromkeys((line["data"], line["n"]) for line in lines if "n" in line))


def costs(lines: list[Line]) -> str:
    """Microseconds a query at each recall, by block size."""
    out = []
    for block in dict.fromkeys(line["block"] for line in of(lines, "at")):
        here = [line for line in of(lines, "at") if line["block"] == block]
        found = {(name, line["recall"]): us for line in here for name, us in line["us"].items()}
        names = list(dict.fromkeys(name for name, _ in found))
        out.append(f"CPU µs a query at recall@10, blocks of {block:,}\n")
        rows = [[name, *(found.get((name, recall)) for recall in _RECALLS)] for name in names]
        out.append(table(["", *(f"{recall:.2f}" for recall in _RECALLS)], rows))
    return "\n".join(out)


def ratios(lines: list[Line]) -> str:
    head = ["release", "blocks of", "recall", "best peer", "times its queries per CPU second", "as promised", "bar"]
    rows = [
        [line["variant"], line["block"], line["recall"], line["best_peer"], line["ratio"], line["as_promised"], line["bar"]]
        for line in of(lines, "ratio", "variant")
    ]
    return table(head, rows)


def promised(lines: list[Line]) -> str:
    found = {(line["variant"], line["target"]): line["recall"] for line in of(lines, "promise")}
    names = list(dict.fromkeys(name for name, _ in found))
    head = ["release: recall on fresh queries, promised", *(f"{target:.2f}" for target in _RECALLS)]
    return table(head, [[name, *(found.get((name, target)) for target in _RECALLS)] for name in names])


def built(lines: list[Line]) -> str:
    head = ["", "build CPU s", "peak MiB", "MB on disk", "partitions", "rows"]
    rows = [
        [line["variant"], line["cpu_s"], line["peak_mib"], round(line["bytes"] / 1e6), line["partitions"], line["rows"]]
        for line in of(lines, "release")
    ]
    rows += [
        [line["name"], line["cpu_s"], line["peak_mib"], round(line["bytes"] / 1e6), None, line["n"]]
        for line in of(lines, "peer_build")
    ]
    return table(head, rows)


def single(lines: list[Line]) -> str:
    opening = {line["variant"]: line for line in of(lines, "open")}
    head = ["one query at a time, warm", "target recall", "p50 ms", "p99 ms", "open s", "first answer s"]
    rows = [
        [
            line["variant"],
            line["target"],
            line["p50_ms"],
            line["p99_ms"],
            opening[line["variant"]]["open_s"],
            opening[line["variant"]]["first_answer_s"],
        ]
        for line in of(lines, "single")
    ]
    return table(head, rows)


def against(lines: list[Line]) -> str:
    """What `index_build` says."""
    head = ["router", "build CPU s", "to hnswlib", "bar", "to bare ScaNN", "bar", "recall@10", "peak MiB", "allowed"]
    cpu = {line["router"]: line["cpu_s"] for line in of(lines, "build", "largest")}
    rows = [
        [
            line["router"], cpu.get(line["router"]), line["to_hnswlib"], line["bar_to_hnswlib"], line["to_bare"],
            line["bar_to_bare"], line["recall_at_10"], round(line["peak_mib"]), line["bar_peak_mib"],
        ]
        for line in of(lines, "ratio", "to_bare")
    ]  # fmt: skip
    return table(head, rows)


def large(lines: list[Line]) -> str:
    head = ["items", "CPU s", "µs an item", "peak MiB", "of it private", "partitions", "import CPU s", "GB on disk"]
    rows = [
        [
            line["n"], line["cpu_s"], line["us_an_item"], round(line["peak_mib"]), round(line["private_mib"]),
            line["partitions"], line["import_cpu_s"], round(line["bytes"] / 1e9, 2),
        ]
        for line in of(lines, "build", "us_an_item")
    ]  # fmt: skip
    return table(head, rows)


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("files", nargs="+")
    lines: list[Line] = []
    for path in options.parse_args().files:
        lines += [json.loads(text) for text in Path(path).read_text().splitlines() if text.startswith("{")]
    if of(lines, "build", "us_an_item"):
        print("### Large\n\n" + large(lines))
    for name, n in places(lines):
        here = [line for line in lines if (line.get("data"), line.get("n")) == (name, n)]
        parts = [
            make(here)
            for make, what, field in (
                (against, "ratio", "to_bare"), (built, "release", "variant"), (costs, "at", "us"), (ratios, "ratio", "variant"),
                (promised, "promise", "target"), (single, "single", "p50_ms"),
            )
            if of(here, what, field)
        ]  # fmt: skip
        if parts:
            print(f"### {name}, {n:,} items\n\n" + "\n".join(parts))


if __name__ == "__main__":
    main()
