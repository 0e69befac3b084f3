"""Kills calibrate, evaluate, dedupe and lookup on a file with SIGKILL at random moments, and checks what is left.

    python -m benchmarks.kill_jobs [--n 20000] [--kills 5]

One release of clustered vectors in 4 partitions. Each job runs undisturbed once; then, for each kill, it is killed at a random
moment and run again. What it leaves must be the same bytes as without the kill (of metrics all but latencies), a killed job must
leave no result that looks finished, and no work folder may stay after the rerun. Prints JSON lines.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks import vectors
from simpipe.embeddings import vectors_column

_MADE = {
    "calibrate": ("cutpoints.json", "thresholds.parquet", "curves.parquet", "distributions.parquet"),
    "evaluate": ("metrics.json", "classes.parquet", "confusion.parquet", "slices.parquet"),
}


@dataclass(frozen=True)
class Job:
    """A command, the digest of what it leaves (None: nothing), and how its result is taken away."""

    name: str
    command: list[str]
    digest: Callable[[], str | None]
    undo: Callable[[], None]


def data(folder: Path, n: int) -> Path:
    """A configuration over labelled vectors with near duplicates, and a file of queries."""
    items, queries = vectors.load("medium", n, n // 4)
    labels = np.random.default_rng(1).integers(20, size=n)
    items[: n // 100] = items[n // 100 : 2 * (n // 100)]
    ids = np.array([f"item-{row:06d}" for row in range(n)])
    for name, values in (("x", items), ("ids", ids), ("labels", labels.astype(str))):
        np.save(folder / f"{name}.npy", values)
    pq.write_table(pa.table({"embedding": vectors_column(queries)}), folder / "queries.parquet")
    config = {
        "name": "kill",
        "root": str(folder / "root"),
        "source": {"kind": "vectors", "path": str(folder / "x.npy")}
        | {name: str(folder / f"{name}.npy") for name in ("ids", "labels")},
        "build": {"router": {"kind": "kmeans", "partitions": 4}, "backend": {"kind": "exact"}},
        "dedupe": {"distance": 0.001},
    }
    path = folder / "kill.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def contents(paths: list[Path]) -> str | None:
    """One digest of files by name; latencies and checksums of the files that hold them left out."""
    if not paths:
        return None
    hasher = hashlib.sha256()
    for path in sorted(paths):
        content = path.read_bytes()
        if path.name == "metrics.json":
            content = json.dumps({**json.loads(content), "latency": None}).encode()
        hasher.update(path.name.encode() + content)
    return hasher.hexdigest()


def jobs(folder: Path, config: Path) -> list[Job]:
    root, out = folder / "root", folder / "answers.parquet"

    def listed(*names: str) -> list[Path]:
        """Files that the manifest lists: what is not there does not exist for a reader."""
        (manifest,) = root.glob("releases/*/manifest.json")
        entries = json.loads(manifest.read_text())["files"]
        return [manifest.parent / entry["path"] for entry in entries if entry["path"] in names]

    def unlist(*steps: str) -> Callable[[], None]:
        before: list[str] = []

        def undo() -> None:
            """Back to the manifest that stood there before these steps."""
            (manifest,) = root.glob("releases/*/manifest.json")
            if not before:
                record: dict[str, Any] = json.loads(manifest.read_text())
                record["steps"] = {name: key for name, key in record["steps"].items() if name not in steps}
                record["files"] = [entry for entry in record["files"] if entry["path"] not in _MADE[steps[0]]]
                before.append(json.dumps(record))
            manifest.write_text(before[0])

        return undo

    def groups() -> list[Path]:
        return [path for found in root.glob("dedupe/*/dedupe.json") for path in found.parent.iterdir() if path.is_file()]

    def simpipe(*words: str) -> list[str]:
        return [sys.executable, "-m", "simpipe.cli", *words]

    wanted = ["--queries", str(folder / "queries.parquet"), "--out", str(out)]
    return [
        Job(
            "calibrate",
            simpipe("calibrate", "--config", str(config)),
            lambda: contents(listed(*_MADE["calibrate"])),
            unlist("calibrate"),
        ),
        Job(
            "evaluate",
            simpipe("evaluate", "--config", str(config)),
            lambda: contents(listed(*_MADE["evaluate"])),
            unlist("evaluate"),
        ),
        Job(
            "dedupe",
            simpipe("dedupe", "--config", str(config)),
            lambda: contents(groups()),
            lambda: shutil.rmtree(root / "dedupe", ignore_errors=True),
        ),
        Job(
            "lookup",
            simpipe("lookup", "--root", str(next(root.glob("releases/*"))), *wanted),
            lambda: contents([out] if out.exists() else []),
            lambda: out.unlink(missing_ok=True),
        ),
    ]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--n", type=int, default=20_000)
    options.add_argument("--kills", type=int, default=5)
    chosen = options.parse_args()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory(prefix="kill-jobs-") as scratch:
        folder = Path(scratch)
        config = data(folder, chosen.n)
        for verb in ("import", "build"):
            subprocess.run([sys.executable, "-m", "simpipe.cli", verb, "--config", str(config)], check=True)
        for job in jobs(folder, config):
            took = np.inf
            for _ in range(2):
                job.undo()
                began = time.monotonic()
                subprocess.run(job.command, check=True, capture_output=True)
                took = min(took, time.monotonic() - began)
            expected = job.digest()
            assert expected is not None, job.name
            whole = killed = finished = 0
            for _ in range(chosen.kills):
                job.undo()
                process = subprocess.Popen(job.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                time.sleep(rng.uniform(0.15, 0.8) * took)
                process.kill()
                killed += process.wait() != 0
                finished += job.digest() == expected
                subprocess.run(job.command, check=True, capture_output=True)
                whole += job.digest() == expected
            left = [path.name for path in (*folder.rglob(".work-*"), *folder.rglob(".tmp*")) if path.exists()]
            line = {"job": job.name, "seconds": round(took, 1), "kills": killed, "done_before_the_kill": finished}
            print(json.dumps({**line, "same_after_rerun": whole, "of": chosen.kills, "left_over": left}), flush=True)


if __name__ == "__main__":
    main()
