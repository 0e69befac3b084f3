"""Is what a release holds the same, whichever runner made it?

    python -m benchmarks.runners [--only local,processes,prism,flink] [--n 200000] [--dim 64] [--skip-digits]

Two lines run on each runner. The digits: sharded by each runner, trained once (the encoder is copied to the others: training is
no Beam job), then embedded, built, calibrated and evaluated by each. And `n` ready-made vectors from import to evaluation.
What the first runner left is the measure: shards by their bytes; of the release the ids, labels, vectors, where each item lies,
the store with its metadata, all counts, and cutpoints; recall@10 within 0.005. Prints a JSON line a runner with the seconds each
verb took and how many files of the release differ in bytes (ScaNN trains anew each time, measures hold times); exit status 1
where content differs.

Flink: `python -m scripts.flink start` first. Spark: `python -m scripts.job_server spark`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

import simpipe
from benchmarks import engines, vectors
from benchmarks.child import run_child, say
from benchmarks.releases import workplace
from simpipe import files, releases
from simpipe.data.examples import DATASET_JSON

_RECALL_WITHIN = 0.005


@dataclass(frozen=True)
class Held:
    """What a release holds, in the order of ids.

    Attributes:
      ids, labels, places: str[n], str[n], int[n] (the partition). vectors: float32[n, dim]. rest: digests and counts of
        everything else that must be equal. recall: recall@10. files: SHA-256 by path.
    """

    ids: np.ndarray
    labels: np.ndarray
    places: np.ndarray
    vectors: np.ndarray
    rest: dict[str, Any]
    recall: float
    files: dict[str, str]


def held(root: Path) -> Held:
    """What the live release under a root holds."""
    searcher = simpipe.open_release(root, verify=True)
    manifest, folder = searcher.manifest, searcher.folder
    parts = [searcher.partition(about.partition) for about in manifest.partitions]
    ids = np.concatenate([np.asarray(part.ids)[part.live] for part in parts])
    order = np.argsort(ids)
    store = pa.concat_tables([pq.read_table(releases.resolve(folder, entry)) for entry in manifest.under("store")]).sort_by("id")
    cutpoints = files.read_json(releases.resolve(folder, manifest.file("cutpoints.json")))
    metrics = files.read_json(releases.resolve(folder, manifest.file("metrics.json")))["metrics"]
    rest = {
        "store": _digest(*(str(store[name].to_pylist()).encode() for name in sorted(store.column_names))),
        "counts": [manifest.items, *((part.rows, part.backend, part.hidden) for part in manifest.partitions)],
        "cutpoints": {name: round(point["distance"], 6) for name, point in cutpoints["cutpoints"].items()},
    }
    return Held(
        ids[order],
        np.concatenate([np.asarray(part.labels)[part.live] for part in parts])[order],
        np.concatenate(
            [np.full(len(part.live), about.partition) for part, about in zip(parts, manifest.partitions, strict=True)]
        )[order],
        np.concatenate([np.asarray(part.vectors)[part.live] for part in parts])[order],
        rest,
        metrics["ann_recall_at_10"],
        {entry.path: entry.sha256 for entry in manifest.files},
    )


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def differences(one: Held, other: Held) -> list[str]:
    """What differs, in words."""
    found = [name for name in ("ids", "labels", "places") if not np.array_equal(getattr(one, name), getattr(other, name))]
    if one.vectors.tobytes() != other.vectors.tobytes():
        same = one.vectors.shape == other.vectors.shape
        found.append(f"vectors, by {np.abs(one.vectors - other.vectors).max():.1e}" if same else "vectors")
    found += [f"{name}: {one.rest[name]} and {other.rest[name]}" for name in one.rest if one.rest[name] != other.rest[name]]
    if abs(one.recall - other.recall) > _RECALL_WITHIN:
        found.append(f"recall@10: {one.recall:.4f} and {other.recall:.4f}")
    return found


def run(verb: str, config: Path) -> float:
    """Runs a verb; its seconds."""
    usage, _ = run_child([sys.executable, "-m", "simpipe.cli", verb, "--config", str(config)], echo=False)
    return round(usage.wall_s, 1)


def configure(folder: Path, name: str, section: dict[str, Any], config: dict[str, Any]) -> tuple[Path, Path]:
    """Writes a configuration for a runner; its path, and the root."""
    root = folder / name
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**config, "root": str(root), "runner": section}, sort_keys=False))
    return path, root


def digits(folder: Path, name: str, section: dict[str, Any], first: Path | None) -> tuple[Path, dict[str, Any]]:
    """The digits on a runner: the root, and what to print. `first`: the root whose encoder is taken."""
    config, root = configure(folder, name, section, yaml.safe_load(Path("configs/digits.yaml").read_text()))
    took = {"shard_s": run("shard", config)}
    if first is not None:
        shutil.copytree(first / "encoders", root / "encoders")
    took |= {verb + "_s": run(verb, config) for verb in ("train", "embed", "build", "calibrate", "evaluate", "run")}
    (dataset,) = (root / "examples").glob(f"*/{DATASET_JSON}")
    shards = sorted(path for path in dataset.parent.rglob("*.tfrecord*"))
    return root, {**took, "shards": _digest(*(path.name.encode() + path.read_bytes() for path in shards))}


def ready_made(folder: Path, name: str, section: dict[str, Any], config: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Ready-made vectors on a runner: the root, and what to print."""
    path, root = configure(folder, name, section, config)
    return root, {verb + "_s": run(verb, path) for verb in ("import", "build", "calibrate", "evaluate", "run")}


def source(folder: Path, n: int, dim: int) -> dict[str, Any]:
    """Writes labelled vectors; a configuration over them."""
    items, _ = vectors.load("medium", n, 0, dim)
    np.save(folder / "x.npy", items)
    np.save(folder / "ids.npy", np.array([f"item-{row:07d}" for row in range(n)]))
    np.save(folder / "labels.npy", np.random.default_rng(1).integers(50, size=n).astype(str))
    return {
        "name": "vectors",
        "source": {
            "kind": "vectors",
            "path": str(folder / "x.npy"),
            "ids": str(folder / "ids.npy"),
            "labels": str(folder / "labels.npy"),
        },
        "queries": {"fraction": 0.02},
        "build": {"router": {"kind": "kmeans", "partitions": 16}},
        "evaluate": {"latency_queries": 0},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    engines.add_arguments(parser, only="local,processes,prism,flink")
    parser.add_argument("--n", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--skip-digits", action="store_true")
    parser.add_argument("--scratch")
    options = parser.parse_args()
    sections, failed = engines.chosen(options), False
    with workplace(options.scratch) as folder:
        lines = ["vectors"] if options.skip_digits else ["digits", "vectors"]
        for line in lines:
            place = folder / line
            place.mkdir(exist_ok=True)
            config = source(place, options.n, options.dim) if line == "vectors" else {}
            first: tuple[Path, Held, dict[str, Any]] | None = None
            for name, section in sections.items():
                say(f"{line} on {name}")
                if line == "digits":
                    root, told = digits(place, name, section, first[0] if first else None)
                else:
                    root, told = ready_made(place, name, section, config)
                found = held(root)
                first = first or (root, found, told)
                differ = differences(first[1], found)
                if told.get("shards") != first[2].get("shards"):
                    differ.append("shards")
                failed |= bool(differ)
                other = [path for path, digest in found.files.items() if digest != first[1].files.get(path)]
                shown = {
                    "items": len(found.ids),
                    "recall_at_10": round(found.recall, 4),
                    "differs": differ,
                    "other_bytes": len(other),
                }
                print(
                    json.dumps({"line": line, "runner": name, "about": engines.about(name, options), **told, **shown}), flush=True
                )
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
