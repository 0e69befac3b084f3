"""Measures what `simpipe plan` estimates with, on this machine, and writes its calibration file.

    python -m benchmarks.plan_calibrate [--out simpipe/plan/calibration.json] [--scratch FOLDER]

Lines of 20,000 to 200,000 vectors are run as `simpipe run` (every backend, dims 64 and 128, given and chosen partitions, few and
many queries), and lines of pictures with an encoder; CPU seconds of each step and bytes of each kind of file are fitted by least
squares of relative errors, with coefficients not below 0, on the terms of `simpipe.plan.terms` and `simpipe.plan.sizes`.
About 10 CPU minutes. What was run, and how far off the fit is, stands in the file. JSON lines on stdout: one a run.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import sys
import time
from collections import defaultdict
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from scipy.optimize import nnls

from benchmarks.child import run_child, run_steps, say
from benchmarks.releases import SEED, workplace
from benchmarks.vectors import mixture
from simpipe.config import parse_config
from simpipe.config.index import ScannBackend
from simpipe.embeddings import vectors_column
from simpipe.ids import hash_ids
from simpipe.index.backend import ladder
from simpipe.index.blas import blas_threads
from simpipe.index.measure import Probe, measure_partition
from simpipe.index.nearest import Nearest
from simpipe.index.partitions import Partition, build_partition
from simpipe.index.scann_backend import derived
from simpipe.plan.calibration import Calibration
from simpipe.plan.shape import shape_of
from simpipe.plan.sizes import bytes_terms
from simpipe.plan.terms import cpu_terms
from simpipe.plan.workload import Workload, workload_of
from simpipe.releases import open_live

_LIBRARIES = ("apache-beam", "numpy", "scann", "nmslib", "faiss-cpu", "tensorflow", "keras")
_ENCODER_STEPS = ("shard", "train", "embed")
_KINDS = ("partitions", "store", "digests")
# Of each line: items, dim, backend, router (with its number of partitions), held out, exact queries.
_Vectors = tuple[int, int, str, str, int, int]
_Pictures = tuple[int, int, str, int, int]
_VECTORS: tuple[_Vectors, ...] = (
    (20_000, 64, "scann", "auto", 2_000, 10_000),
    (50_000, 64, "scann", "auto", 5_000, 2_000),
    (100_000, 64, "scann", "auto", 10_000, 10_000),
    (200_000, 64, "scann", "auto", 2_000, 1_000),
    (200_000, 64, "scann", "auto-4", 10_000, 10_000),
    (200_000, 64, "scann", "auto-16", 20_000, 5_000),
    (200_000, 64, "scann", "hash-1", 2_000, 2_000),
    (200_000, 64, "scann", "hash-8", 1_000, 500),
    (100_000, 128, "scann", "auto", 10_000, 2_000),
    (100_000, 128, "scann", "packed-8", 2_000, 10_000),
    (20_000, 64, "exact", "auto", 2_000, 2_000),
    (100_000, 64, "exact", "packed-4", 5_000, 2_000),
    (20_000, 64, "nmslib", "auto", 2_000, 2_000),
    (60_000, 64, "nmslib", "packed-4", 5_000, 2_000),
    (30_000, 128, "nmslib", "auto", 1_000, 2_000),
    (20_000, 64, "faiss", "auto", 2_000, 2_000),
    (60_000, 64, "faiss", "packed-4", 5_000, 2_000),
    (30_000, 128, "faiss", "auto", 1_000, 2_000),
)
# Of each line with an encoder: pictures, side, architecture, filters, steps.
_PICTURES: tuple[_Pictures, ...] = (
    (2_000, 28, "conv4", 16, 60),
    (2_000, 28, "conv4", 64, 60),
    (4_000, 14, "conv4", 32, 200),
)


def vectors_config(folder: Path, run: _Vectors) -> dict[str, Any]:
    items, dim, backend, routed, held_out, exact = run
    paths = [folder.parent / f"{name}-{items}-{dim}.npy" for name in ("vectors", "labels")]
    if not paths[1].exists():
        pieces = list(mixture("medium", dim).labelled(items))
        np.save(paths[0], np.concatenate([block for block, _ in pieces]))
        np.save(paths[1], np.concatenate([place for _, place in pieces]).astype(np.int16))
    kind, _, count = routed.partition("-")
    router: dict[str, Any] = {"kind": kind, **({"partitions": int(count)} if count else {})}
    return {
        "source": {"kind": "vectors", "path": str(paths[0]), "labels": str(paths[1])},
        "queries": {"fraction": held_out / items},
        "build": {"router": router, "backend": {"kind": backend}},
        "evaluate": {"exact_queries": exact},
    }


def pictures_config(folder: Path, run: _Pictures) -> dict[str, Any]:
    items, side, architecture, filters, steps = run
    path = folder.parent / f"pictures-{items}-{side}.npz"
    if not path.exists():
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 40, size=items)
        classes = rng.integers(0, 256, size=(40, side, side))
        noise = rng.normal(0, 40, size=(items, side, side))
        np.savez(path, x=np.clip(classes[labels] + noise, 0, 255).astype(np.uint8), y=labels)
    return {
        "source": {"kind": "npz", "path": str(path)},
        "train": {"encoder": {"architecture": architecture, "filters": filters}, "epochs": 1, "steps_per_epoch": steps},
    }


def measured(folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Runs a line anew.

    Returns:
      config and workload, CPU seconds and memory of each step, bytes of each kind of file, partitions and rows in them.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = {"name": "plan", "root": str(folder / "root"), "seed": SEED, **about}
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    _, steps = run_steps([sys.executable, "-m", "simpipe.cli", "run", "--config", str(path)])
    cpu = {name: usage.cpu_s for name, usage in steps.items()}
    _, manifest = open_live(folder / "root")
    sizes = bytes_of(folder / "root")
    shutil.rmtree(folder)
    return {
        "config": config,
        "workload": asdict(workload_of(parse_config(config))),
        "cpu": cpu,
        "private_mib": {name: usage.private_mib for name, usage in steps.items()},
        "bytes": sizes,
        "partitions": len(manifest.partitions),
        "rows": sum(part.rows for part in manifest.partitions),
    }


def line_of(run: dict[str, Any]) -> dict[str, Any]:
    """What tells a run from the others."""
    config, workload = parse_config(run["config"]), run["workload"]
    encoder = config.train.encoder
    about = {"items": workload["items"], "dim": workload["dim"], "backend": config.build.backend.kind}
    about |= {"partitions": run["partitions"], "held_out": round(workload["items"] * config.queries.fraction)}
    return about if workload["shape"] is None else {**about, "encoder": f"{encoder.architecture}-{encoder.filters}"}


def bytes_of(root: Path) -> dict[str, int]:
    """Bytes of a root with one release, by the kinds of `bytes_terms`; what is no release, embeddings, examples or encoder is
    left out."""
    found: dict[str, int] = defaultdict(int)
    for path in root.rglob("*"):
        if not path.is_file():
            continue
        parts = path.relative_to(root).parts
        if parts[0] == "releases":
            search = ("measures", "probe.npz", "router.npz")
            name = parts[2]
            kind = name if name in _KINDS else "profile" if name in search else "measured"
        else:
            kind = {"encoders": "encoder"}.get(parts[0], parts[0])
        if kind in (*_KINDS, "profile", "measured", "encoder", "embeddings", "examples"):
            found[kind] += path.stat().st_size
    return dict(found)


def fit(
    runs: list[dict[str, Any]], of: str, known: dict[tuple[str, str], float] | None = None
) -> tuple[dict[str, dict[str, float]], list[dict[str, float]]]:
    """Coefficients of each verb or kind, and of each run the estimate over what was measured.

    Args:
      runs: see `measured`. of: `cpu` or `bytes`. known: coefficients that were measured by themselves, by verb and term.
    """
    known = known or {}
    names: dict[str, list[tuple[int, dict[str, float], float]]] = defaultdict(list)
    for number, run in enumerate(runs):
        config = parse_config(run["config"])
        workload = Workload(**{**run["workload"], "shape": run["workload"]["shape"] and tuple(run["workload"]["shape"])})
        shape = replace(shape_of(config, workload, partitions=run["partitions"]), rows=run["rows"])
        terms = (cpu_terms if of == "cpu" else bytes_terms)(config, workload, shape)
        for name, value in run[of].items():
            # After training the later steps of a process find TensorFlow and Beam loaded: not what they take alone.
            if name in terms and (of == "bytes" or workload.shape is None or name in _ENCODER_STEPS):
                names[name].append((number, dict(terms[name]), value))
    coefficients: dict[str, dict[str, float]] = {}
    ratios: list[dict[str, float]] = [{} for _ in runs]
    for name, entries in names.items():
        given = {term: value for (verb, term), value in known.items() if verb == name}
        free = [term for term in dict.fromkeys(term for _, terms, _ in entries for term in terms) if term not in given]
        table = np.array([[terms.get(term, 0.0) for term in free] for _, terms, _ in entries])
        before = np.array([sum(terms.get(term, 0.0) * value for term, value in given.items()) for _, terms, _ in entries])
        values = np.array([value for _, _, value in entries], np.float64)
        # Relative errors; absolute ones of steps below a second, which are all noise.
        weight = 1.0 / np.maximum(values, 1.0)
        scale = np.maximum(np.abs(table * weight[:, None]).max(axis=0), 1e-300)
        found, _ = nnls(table * weight[:, None] / scale, np.maximum(values - before, 0.0) * weight, maxiter=10_000)
        coefficients[name] = {**given, **{term: float(value) for term, value in zip(free, found / scale, strict=True)}}
        for (number, _, _), estimate, value in zip(entries, before + table @ (found / scale), values, strict=True):
            ratios[number][name] = round(float(estimate / max(value, 1e-3)), 3)
    return coefficients, ratios


def a_distance() -> float:
    """CPU seconds of a distance to a centroid of routing, dim 64: the least of three rounds."""
    rng = np.random.default_rng(0)
    centroids, vectors = (rng.normal(size=(rows, 64)).astype(np.float32) for rows in (4096, 30_000))
    nearest = Nearest(centroids, np.arange(len(centroids)), np.zeros(len(centroids), np.float32))
    took = []
    with blas_threads(1):
        nearest.owner_of(vectors[:2000])
        for _ in range(3):
            started = time.process_time()
            nearest.owner_of(vectors)
            took.append(time.process_time() - started)
    return min(took) / (len(vectors) * len(centroids))


def scann_costs(folder: Path, distance: float) -> dict[tuple[str, str], float]:
    """What ScaNN's partitions cost, measured by themselves: in whole lines the parts of a build cannot be told apart.

    Args:
      folder: scratch. distance: what `a_distance` returned.

    Returns:
      Coefficients of building rows, of placing them in leaves, and of asking them with each setting of the search profile.
    """
    config, probes, table, builds, asks, asked = ScannBackend(kind="scann"), 1000, [], [], [], []
    queries = mixture("medium").draw(probes, stream=1)
    for rows in (10_000, 40_000, 160_000):
        vectors = mixture("medium").draw(rows)
        ids = pa.array(np.char.mod("v-%09d", np.arange(rows)))
        items = pa.table({"id": ids, "label": pa.nulls(rows, pa.string()), "embedding": vectors_column(vectors)})
        shutil.rmtree(folder, ignore_errors=True)
        number = folder / "partitions" / "00000"
        number.parent.mkdir(parents=True)
        with blas_threads(1):
            if not builds:
                build_partition(items, number, config, distance="cosine")  # loads the library
                shutil.rmtree(number)
            started = time.process_time()
            build_partition(items, number, config, distance="cosine")
            builds.append(time.process_time() - started)
            part = Partition.load(number, "scann", distance="cosine", dim=64, params=config.model_dump(mode="json"))
            settings = ladder(config, rows, 10, dim=64, distance="cosine")
            none, near = np.zeros(probes, np.uint64), np.zeros((probes, 1), np.float32)
            probe = Probe(queries, none, near, np.inf, tuple(settings), 10, 0.0, "queries")
            started = time.process_time()
            measure_partition(part, vectors, hash_ids(ids), probe, number=0)
            asks.append(max(0.0, time.process_time() - started - distance * probes * rows))
        table.append([rows, rows * derived(config, rows, dim=64, distance="cosine").leaves * 64.0])
        asked.append(float(probes * rows))
    weight = 1 / np.array(builds)
    scale = np.array(table).max(axis=0)
    (by_row, by_leaf), _ = nnls(np.array(table) / scale * weight[:, None], np.array(builds) * weight)
    names = {"scann_rows": by_row / scale[0], "scann_tree": by_leaf / scale[1], "scann_profile": sum(asks) / sum(asked)}
    return {("build", name): float(value) for name, value in names.items()}


def resting(*modules: str) -> float:
    """MiB without pages of files that a process takes with some modules imported."""
    command = f"import time, {', '.join(modules)}; time.sleep(0.5)"
    return round(run_child([sys.executable, "-c", command])[0].private_mib, 1)


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--out", default="simpipe/plan/calibration.json")
    options.add_argument("--keep", metavar="RUNS.json", help="keeps what was measured; lines that are there are not run again")
    options.add_argument("--scratch")
    chosen = options.parse_args()
    kept = Path(chosen.keep) if chosen.keep else None
    runs: list[dict[str, Any]] = json.loads(kept.read_text()) if kept is not None and kept.exists() else []
    done = {tuple(run["line"]) for run in runs}
    with workplace(chosen.scratch) as scratch:
        for line in (*_VECTORS, *_PICTURES):
            if line in done:
                continue
            say(f"line {line}")
            about = vectors_config(scratch / "line", line) if len(line) == 6 else pictures_config(scratch / "line", line)
            runs.append({"line": line, **measured(scratch / "line", about)})
            print(json.dumps(runs[-1]), flush=True)
            if kept is not None:
                kept.write_text(json.dumps(runs))
    distance = a_distance()
    with workplace(None) as scratch:
        known = {("build", "distances"): distance, **scann_costs(scratch / "partition", distance)}
    cpu, off = fit(runs, "cpu", known)
    sizes, off_bytes = fit(runs, "bytes")
    calibration = Calibration(
        machine=f"{processor()}, {len(os.sched_getaffinity(0))} cores",
        date=datetime.date.today().isoformat(),
        versions={name: version(name) for name in _LIBRARIES},
        runs=tuple(
            {"line": line_of(run), "cpu_s": round(sum(run["cpu"].values()), 1), "estimate_over_measured": one, "bytes": two}
            for run, one, two in zip(runs, off, off_bytes, strict=True)
        ),
        cpu=cpu,
        bytes=sizes,
        memory={
            "beam": resting("simpipe.beam.options", "simpipe.beam.build", "pipelines.line", "sklearn.cluster"),
            "tensorflow": resting("simpipe.beam.options", "tensorflow", "keras"),
            "report": round(max(run["private_mib"]["report"] for run in runs if run["workload"]["shape"] is None), 1),
        },
    )
    Path(chosen.out).write_text(json.dumps(calibration.model_dump(mode="json"), indent=1) + "\n")


if __name__ == "__main__":
    main()
