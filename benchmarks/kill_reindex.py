"""Kills re-index, publish and prune with SIGKILL at random moments, and checks what is left.

    python -m benchmarks.kill_reindex [--n 20000] [--kills 50]

A published release of vectors in 8 partitions; then 5 % of the items change, go or come. `simpipe reindex` and `simpipe prune
--keep 1` run undisturbed once; then, from the same start, they are killed at a random moment of the time they took. After each
kill the live release must open, verify and answer; after a rerun it must hold what the undisturbed run holds, `fsck` must
find nothing, and `prune` must leave no orphan. Prints JSON lines.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import simpipe
from benchmarks.catalogue import Catalogue, configure
from benchmarks.child import run_child
from simpipe import releases

Content = dict[str, tuple[str, int, bytes]]


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "simpipe.cli", *map(str, words)]


def script(config: Path) -> list[str]:
    """Re-index and prune as one process group that a kill ends."""
    lines = [" ".join(command(*words)) for words in (("reindex", "--config", config), ("prune", "--keep", 1, "--config", config))]
    return ["bash", "-c", f"exec 2>/dev/null >/dev/null; {lines[0]} && {lines[1]}"]


def contents(root: Path) -> Content:
    """All live items after every file was verified: id -> label, version, vector as a lookup finds it."""
    with simpipe.open_release(root, verify=True) as searcher:
        folder, manifest = releases.open_live(root)
        found: Content = {}
        for entry in manifest.files:
            if not entry.path.startswith("store/"):
                continue
            ids, labels, versions = _columns(releases.resolve(folder, entry))
            vectors = searcher.vectors_of(ids)
            found.update(zip(ids, zip(labels, versions, (row.tobytes() for row in vectors), strict=True), strict=True))
        if len(found) != searcher.items:
            raise SystemExit(f"{len(found)} items in the store, {searcher.items} in the manifest")
        ids = list(found)[:200]
        first = searcher.lookup(searcher.vectors_of(ids), 1, exact=True).ids[:, 0]
        if list(first) != ids:
            raise SystemExit("an item is not its own nearest")
    return found


def _columns(path: Path) -> tuple[list[str], list[str], list[int]]:
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["id", "label", "version"])
    return table["id"].to_pylist(), table["label"].to_pylist(), table["version"].to_pylist()


def check(config: Path) -> dict[str, object]:
    """`fsck`, and what `prune` would still remove."""
    _, said = run_child(command("fsck", "--json", "--config", config), echo=False)
    _, left = run_child(command("prune", "--keep", 1, "--dry-run", "--json", "--config", config), echo=False)
    report, plan = json.loads(said), json.loads(left)
    return {"findings": report["findings"], "would_remove": plan["removed"], "files": plan["files"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="kill-reindex-") as scratch:
        folder, root = Path(scratch), Path(scratch) / "root"
        catalogue = Catalogue.draw(options.n, 32, labels=40)
        catalogue.write(folder / "source")
        build = {"router": {"kind": "kmeans", "partitions": 8}, "profile": {"queries": 200}}
        measure = {"evaluate": {"exact_queries": 200, "latency_queries": 0}, "calibrate": {"bootstrap": 0}}
        config = configure(
            folder / "c.yaml", source=folder / "source", root=root, queries={"fraction": 0.02}, build=build, **measure
        )
        run_child(command("run", "--config", config), echo=False)
        rng = np.random.default_rng(1)
        rows = rng.choice(options.n, options.n // 20, replace=False)
        catalogue.change(rows[: len(rows) // 2])
        catalogue.replace(rows[len(rows) // 2 :], rng.integers(5, size=len(rows) // 2))
        catalogue.write(folder / "source")
        start = folder / "start"
        root.rename(start)
        shutil.copytree(start, root)
        began = time.monotonic()
        run_child(script(config), echo=False)
        took = time.monotonic() - began
        wanted, before = contents(root), contents(start)
        for number in range(options.kills):
            shutil.rmtree(root)
            shutil.copytree(start, root)
            process = subprocess.Popen(script(config), start_new_session=True)
            delay = chance.uniform(0.0, took)
            try:
                process.wait(delay)
            except subprocess.TimeoutExpired:
                kill_group(process.pid)
                process.wait()
            left = contents(root)
            state = "before" if left == before else "after" if left == wanted else None
            run_child(script(config), echo=False)
            same, about = contents(root) == wanted, check(config)
            clean = not about["findings"] and not about["would_remove"] and not about["files"]
            record = {"kill": number + 1, "after_s": round(delay, 2), "live": state, "same": same, "clean": clean}
            print(json.dumps(record), flush=True)
            if state is None or not same or not clean:
                print(json.dumps(about), flush=True)
                raise SystemExit(1)
        print(json.dumps({"kills": options.kills, "items": len(wanted), "undisturbed_s": round(took, 1), "all_same": True}))


def kill_group(pid: int) -> None:
    import os
    import signal

    os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
