"""Whether `simpipe dedupe` finds planted near duplicates, and what it costs.

    python -m benchmarks.dedupe [--n 200000] [--dim 64] [--planted 0.01] [--routers auto,hash-4@exact] [--scratch FOLDER]

Draws n clustered unit vectors of which `planted` (a share of n) are copies of others with noise, under ids of their own: groups
of 2, 3 and 5. The cutoff lies above the planted distances; the other items are clustered, so that some come near it. Imports
them, builds a release for each router (`KIND[-PARTITIONS][@BACKEND]`), runs `dedupe` in a process of its own, and prints a JSON
line each: recall and precision of the pairs within the groups against the planted pairs, whether the groups are scipy's
components of the pairs that an exact scan finds, seconds and peak memory.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from benchmarks.child import run_child, say
from benchmarks.releases import workplace
from benchmarks.vectors import mixture
from simpipe.components import components
from simpipe.groups import DEDUPE_JSON, GroupsInfo
from simpipe.ids import hash_ids

RECALL, PRECISION = 0.99, 0.99
CUTOFF = 0.02
_NOISE = 0.08  # length of the noise on a unit vector: two copies are about 0.0064 apart (cosine)
_SIZES = (2, 2, 2, 3, 5)  # of groups, in turn


def plant(n: int, dim: int, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors float32[n, dim], and the group of each: int64[n], -1 without one."""
    rng = np.random.default_rng(seed)
    vectors = mixture("hard", dim).draw(n)
    group = np.full(n, -1)
    rows, first, number = rng.permutation(n), 0, 0
    copies = round(share * n)
    while copies > 0:
        size = min(_SIZES[number % len(_SIZES)], copies + 1)
        original, *others = rows[first : first + size]
        noise = rng.standard_normal((size - 1, dim)).astype(np.float32) * (_NOISE / np.sqrt(dim))
        vectors[others] = vectors[original] + noise
        group[rows[first : first + size]] = number
        first, number, copies = first + size, number + 1, copies - (size - 1)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), group


def exact_pairs(vectors: np.ndarray, cutoff: float, block: int = 4096) -> np.ndarray:
    """All pairs of rows within the cutoff: int64[m, 2]."""
    found = []
    for first in range(0, len(vectors), block):
        for second in range(first, len(vectors), block):
            far = 1 - vectors[first : first + block] @ vectors[second : second + block].T
            if far.min() <= np.float32(cutoff):
                pairs = np.argwhere(far <= np.float32(cutoff)) + np.array((first, second))
                found.append(pairs[pairs[:, 0] < pairs[:, 1]])
    return np.concatenate(found)


def pairs_within(group: np.ndarray) -> set[tuple[int, int]]:
    """Pairs of rows in one group; -1 is none."""
    rows = np.flatnonzero(group >= 0)
    rows = rows[np.argsort(group[rows], kind="stable")]
    cuts = np.flatnonzero(np.diff(group[rows])) + 1
    return {(int(a), int(b)) for part in np.split(rows, cuts) for a in part for b in part if a < b}


def measure(variant: str, place: Path, args: argparse.Namespace, group: np.ndarray, exact: np.ndarray) -> dict[str, Any]:
    """Builds a release and finds its groups."""
    router, _, backend = variant.partition("@")
    kind, _, partitions = router.partition("-")
    raw = {
        "name": "dedupe",
        "root": str(place / variant),
        "source": {"kind": "vectors", "path": str(place / "x.npy"), "ids": str(place / "ids.npy")},
        "queries": {"fraction": 0.0},
        "build": {
            "router": {"kind": kind, **({"partitions": int(partitions)} if partitions else {})},
            "backend": {"kind": backend or "scann"},
        },
        "dedupe": {"distance": CUTOFF},
    }
    config = place / f"{variant}.yaml"
    config.write_text(yaml.safe_dump(raw))
    took = {}
    for verb in ("import", "build", "dedupe"):
        say(f"{variant}: {verb}")
        took[verb], _ = run_child([sys.executable, "-m", "simpipe.cli", verb, "--config", str(config)])
    (folder,) = [path.parent for path in (place / variant / "dedupe").glob(f"*/{DEDUPE_JSON}")]
    info = GroupsInfo.load(folder)
    table = {name: pq.read_table([folder / file.path for file in info.files])[name].to_numpy() for name in ("id", "group")}
    found = np.full(len(group), -1)
    found[[int(name.removeprefix("item-")) for name in table["id"]]] = table["group"]
    right, answered = pairs_within(group), pairs_within(found)
    ids = hash_ids([f"item-{row}" for row in range(len(group))])
    nodes, root = components(ids[exact])
    rows = np.argsort(ids, kind="stable")[np.searchsorted(np.sort(ids), nodes)]
    truth = np.full(len(group), -1)
    truth[rows] = np.unique(root, return_inverse=True)[1]
    recall, precision = len(right & answered) / len(right), len(right & answered) / max(1, len(answered))
    return {
        "variant": variant,
        "n": len(group),
        "planted_pairs": len(right),
        "recall": round(recall, 5),
        "precision": round(precision, 5),
        "bars_met": recall >= RECALL and precision >= PRECISION,
        "equal_to_scipy_on_exact_pairs": pairs_within(truth) == answered,
        **info.counts,
        "seconds": {verb: round(usage.wall_s, 1) for verb, usage in took.items()},
        "cpu_s": {verb: round(usage.cpu_s, 1) for verb, usage in took.items()},
        "peak_mib": {verb: round(usage.peak_mib) for verb, usage in took.items()},
    }


def main(argv: list[str] | None = None) -> None:
    """Prints JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--planted", type=float, default=0.01)
    parser.add_argument("--routers", default="auto,packed-8,hash-4@exact")
    parser.add_argument("--scratch")
    args = parser.parse_args(argv)
    with workplace(args.scratch) as place:
        vectors, group = plant(args.n, args.dim, args.planted)
        np.save(place / "x.npy", vectors)
        np.save(place / "ids.npy", np.array([f"item-{row}" for row in range(args.n)]))
        say("exact scan")
        exact = exact_pairs(vectors, CUTOFF)
        for variant in args.routers.split(","):
            print(json.dumps(measure(variant, place, args, group, exact)), flush=True)


if __name__ == "__main__":
    main()
