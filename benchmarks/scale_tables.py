"""The tables of docs/scale.md from what `benchmarks.scale` and `benchmarks.plan_check` printed.

python -m benchmarks.scale_tables scale.jsonl [plan.jsonl]
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

_KINDS = ("partitions", "embeddings", "store", "release", "total")


def main() -> None:
    lines = [json.loads(line) for path in sys.argv[1:] for line in Path(path).read_text().splitlines()]
    runs = sorted((line for line in lines if line["what"] == "run"), key=lambda run: run["n"])
    planned = [line for line in lines if line["what"] == "total"]
    measured = [line for line in lines if line["what"] == "step"]
    if runs:
        sizes = [run["n"] for run in runs]
        took = {(line["n"], line["step"]): line for line in measured if "cpu_s" in line}
        _whole(runs)
        _steps(sizes, took)
        _growth(runs, took)
    if planned:
        _plan(planned, [line for line in measured if "plan_cpu_s" in line])


def _whole(runs: list[dict[str, Any]]) -> None:
    rows = {
        "CPU s": [f"{run['cpu_s']:.1f}" for run in runs],
        "CPU µs an item": [f"{run['cpu_s'] / run['n'] * 1e6:.1f}" for run in runs],
        "wall s (load before it)": [f"{run['wall_s']:.0f} ({run['load']})" for run in runs],
        "peak MiB (without pages of files)": [f"{run['peak_mib']:,.0f} ({run['private_mib']:,.0f})" for run in runs],
        "partitions": [f"{run['partitions']} {run['router']}" for run in runs],
        "rows stored / items": [f"{run['rows'] / run['items']:.2f}" for run in runs],
        "recall@10, evaluation": [f"{run['recall_at_10']:.4f}" for run in runs],
        "recall@10, fresh queries": [f"{run['fresh']['recall']:.4f}" if "fresh" in run else "-" for run in runs],
        "a fresh query, CPU µs": [f"{run['fresh']['us']:.0f}" if "fresh" in run else "-" for run in runs],
        "opening the release, ms": [f"{run['fresh']['open_s'] * 1000:.0f}" if "fresh" in run else "-" for run in runs],
        **{f"MB {kind}": [f"{run['bytes'][kind] / 1e6:,.1f}" for run in runs] for kind in _KINDS},
    }
    _print(["", *(f"{run['n']:,}" for run in runs)], [[name, *cells] for name, cells in rows.items()])


def _steps(sizes: list[int], took: dict[tuple[int, str], dict[str, Any]]) -> None:
    steps = dict.fromkeys(step for _, step in took)
    cells = [
        [
            step,
            *(f"{one['cpu_s']:.1f} / {one['wall_s']:.1f} / {one['private_mib']:,.0f}" for n in sizes if (one := took[n, step])),
        ]
        for step in steps
    ]
    _print(["CPU s / wall s / MiB", *(f"{n:,}" for n in sizes)], cells)


def _growth(runs: list[dict[str, Any]], took: dict[tuple[int, str], dict[str, Any]]) -> None:
    pairs = list(itertools.pairwise(runs))
    steps = dict.fromkeys(step for _, step in took)

    def ratio(small: float, large: float, one: dict[str, Any], other: dict[str, Any]) -> str:
        return f"{large / max(small, 0.01) * one['n'] / other['n']:.2f}"

    cells = [
        [step, *(ratio(took[one["n"], step]["cpu_s"], took[other["n"], step]["cpu_s"], one, other) for one, other in pairs)]
        for step in steps
    ]
    cells.append(["whole line", *(ratio(one["cpu_s"], other["cpu_s"], one, other) for one, other in pairs)])
    _print(["CPU s an item, times", *(f"{other['n']:,} / {one['n']:,}" for one, other in pairs)], cells)


def _plan(totals: list[dict[str, Any]], steps: list[dict[str, Any]]) -> None:
    sizes = [total["n"] for total in totals]
    found = {(line["n"], line["step"]): line for line in steps}
    cells = [
        [step, *(f"{one['measured_cpu_s']:.1f} / {one['plan_cpu_s']:.1f}" for n in sizes if (one := found[n, step]))]
        for step in dict.fromkeys(line["step"] for line in steps)
    ]
    cells.append(
        ["CPU s", *(f"{one['measured_cpu_s']:.1f} / {one['plan_cpu_s']:.1f} ({one['cpu_ratio']:.2f})" for one in totals)]
    )
    for kind in totals[0]["bytes_ratios"]:
        cells.append([f"{kind}, bytes", *(f"{one['bytes_ratios'][kind]:.3f}" for one in totals)])
    cells.append(
        [
            "MB",
            *(
                f"{one['measured_bytes'] / 1e6:,.1f} / {one['plan_bytes'] / 1e6:,.1f} ({one['bytes_ratio']:.3f})"
                for one in totals
            ),
        ]
    )
    _print(["measured / planned", *(f"{n:,}" for n in sizes)], cells)


def _print(head: list[str], rows: list[list[str]]) -> None:
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


if __name__ == "__main__":
    main()
