"""The whole line at scale: `simpipe run` from ready-made vectors to a published, calibrated release.

    python -m benchmarks.scale [--sizes 100000,1000000,10000000] [--held-out 10000] [--scratch FOLDER] [--set A.B=VALUE ...]

Labelled vectors (float32, dim 64, 2,000 classes of unequal size) are drawn into `.npy` files piece by piece, and one
`simpipe run` a size, in a process of its own, does the rest with the default configuration. About `--held-out` queries are held
out at every size (a tenth at most, which is the default). 10,000,000 need about 15 GB of disk. JSON lines:

- `step`: CPU seconds, wall seconds and peak memory of each step of the line.
- `run`: the same of the whole process (starting Python is part of it); the bytes of each kind of file; partitions; recall@10
  as the release's own evaluation measured it, and on fresh queries that nothing has seen; the load of the machine before it.
- `growth`: CPU seconds an item of each size against the size before it, and the largest peak, with their bars.

CPU seconds are user and system time of the process and its children. Memory is the resident memory of the process tree,
sampled 20 times a second: `peak_mib` with the pages of memory-mapped files, which the kernel takes back when it needs them,
`private_mib` without.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.child import run_steps, say
from benchmarks.index_large import searched
from benchmarks.releases import SEED, workplace
from benchmarks.vectors import mixture
from simpipe import releases
from simpipe.files import read_json

DIM = 64
BAR_GROWTH, BAR_MIB = 1.15, 12 * 1024


def drawn(folder: Path, name: str, n: int) -> tuple[Path, Path]:
    """`vectors.npy`, float32[n, 64], and `labels.npy`, int16[n], written once."""
    vectors, labels = folder / "vectors.npy", folder / "labels.npy"
    if labels.exists():
        return vectors, labels
    say(f"draw {n:,} vectors into {vectors}")
    folder.mkdir(parents=True, exist_ok=True)
    places = np.empty(n, np.int16)
    first = 0
    with vectors.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (n, DIM)})
        for block, place in mixture(name, DIM).labelled(n):
            file.write(block.tobytes())
            places[first : first + len(place)] = place
            first += len(place)
    np.save(labels, places)  # last: what is half drawn is drawn again
    return vectors, labels


def line_config(root: str, vectors: str, labels: str, *, n: int, held_out: int) -> dict[str, Any]:
    """The line's configuration; what is not set is simpipe's default."""
    return {
        "name": "scale",
        "root": root,
        "seed": SEED,
        "source": {"kind": "vectors", "path": vectors, "labels": labels},
        "queries": {"fraction": min(0.1, held_out / n)},
    }


def run_of(
    folder: Path, name: str, n: int, *, held_out: int, overrides: list[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Draws, and runs the line anew.

    Returns:
      What is printed of the run, and of each step.
    """
    vectors, labels = drawn(folder, name, n)
    root = folder / "root"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    path = folder / "scale.yaml"
    config = line_config(str(root), str(vectors), str(labels), n=n, held_out=held_out)
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    chosen = [word for override in overrides for word in ("--set", override)]
    load = os.getloadavg()[0]
    whole, steps = run_steps([sys.executable, "-m", "simpipe.cli", "run", "--config", str(path), *chosen])
    about = {"data": name, "n": n, "dim": DIM}
    release, manifest = releases.open_live(root)
    metrics = read_json(releases.resolve(release, manifest.file("metrics.json")))["metrics"]
    run = {
        **about,
        **whole.to_json(),
        "load": round(load, 1),
        "bytes": bytes_by_kind(root),
        "items": manifest.items,
        "router": manifest.router["kind"],
        "partitions": len(manifest.partitions),
        "rows": sum(part.rows for part in manifest.partitions),
        "recall_at_10": round(metrics["ann_recall_at_10"], 4),
        "label_precision_at_1": round(metrics["label_precision_at_1"], 4),
    }
    return run, [{"what": "step", **about, "step": step, **usage.to_json()} for step, usage in steps.items()]


def bytes_by_kind(root: Path) -> dict[str, int]:
    """Bytes of a root's files: embeddings, and of the release partitions, store and all the rest."""
    found: Counter[str] = Counter()
    for path in root.rglob("*"):
        if not path.is_file():
            continue
        parts = path.relative_to(root).parts
        kind = (
            parts[0] if parts[0] != "releases" else next((part for part in parts if part in ("partitions", "store")), "release")
        )
        found[kind if kind in ("embeddings", "partitions", "store", "release") else "other"] += path.stat().st_size
    return {**found, "total": found.total()}


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--sizes", default="100000,1000000,10000000")
    options.add_argument("--data", default="medium", help="easy, medium, hard or a noise length (default: %(default)s)")
    options.add_argument("--held-out", type=int, default=10_000, metavar="N", help="queries held out (default: %(default)s)")
    options.add_argument("--fresh", type=int, default=1000, metavar="N", help="fresh queries; 0: none (default: %(default)s)")
    options.add_argument("--set", dest="overrides", action="append", default=[], metavar="A.B=VALUE", help="as of `simpipe run`")
    options.add_argument("--scratch")
    chosen = options.parse_args()
    taken: dict[int, dict[str, Any]] = {}
    with workplace(chosen.scratch) as scratch:
        for n in sorted(map(int, chosen.sizes.split(","))):
            folder = scratch / f"scale-{chosen.data}-{n}"
            run, steps = run_of(folder, chosen.data, n, held_out=chosen.held_out, overrides=chosen.overrides)
            for step in steps:
                print(json.dumps(step), flush=True)
            if chosen.fresh:
                fraction = min(0.1, chosen.held_out / n)
                found = searched(
                    folder / "root", folder / "vectors.npy", chosen.data, queries=chosen.fresh, fraction=fraction, target=0.99
                )
                run["fresh"] = found
            taken[n] = run
            print(json.dumps({"what": "run", **run}), flush=True)
    sizes = sorted(taken)
    growth = {
        f"{large}/{small}": round(taken[large]["cpu_s"] / taken[small]["cpu_s"] * small / large, 3)
        for small, large in itertools.pairwise(sizes)
    }
    peak = max(run["peak_mib"] for run in taken.values())
    print(
        json.dumps({"what": "growth", "cpu_an_item": growth, "bar": BAR_GROWTH, "peak_mib": peak, "bar_mib": BAR_MIB}), flush=True
    )


if __name__ == "__main__":
    main()
