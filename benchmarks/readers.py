"""Readers that ask while releases are published, rolled back and pruned: every answer is whole, and from one release.

    python -m benchmarks.readers --rounds 100 --readers 3

Readers are processes of their own. One opens the live release anew for every answer; the others keep it open for several, with
one partition at a time in memory, so that files are opened again after the release has left the pointer. Each round makes a
release (every third one carries all its files over from the live one), publishes it, on every fourth round rolls back, and
prunes all that may be pruned. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from simpipe import releases
from simpipe.index.router import Router
from simpipe.index.searcher import open_release
from simpipe.prune import prune
from tests.plain_releases import release_name
from tests.release_maker import make_release

WAIT = 120.0  # seconds after which a lost reader ends the run
K, DIM, LEAST, PARTITIONS = 5, 8, 60, 3
QUERIES = np.random.default_rng(0).normal(size=(4, DIM)).astype(np.float32)


def vectors_of(version: int) -> np.ndarray:
    """A version's items; it tells itself by their number, `LEAST` + version."""
    return np.random.default_rng(version).normal(size=(LEAST + version, DIM)).astype(np.float32)


def expected(version: int) -> list[list[str]]:
    """Ids of the nearest items by brute force."""
    vectors = vectors_of(version)
    distances = np.stack([np.sqrt(((vectors - query) ** 2).sum(1)) for query in QUERIES])
    return [[f"i{row}" for row in np.argsort(line, kind="stable")[:K]] for line in distances]


def watch(root: Path, rounds: int, readers: int = 2) -> dict[str, Any]:
    """Publishes, rolls back and prunes for so many rounds, while readers ask.

    Returns:
      Answers, how many were wrong, errors by text, how many releases answered, were removed, and are left.
    """
    context = multiprocessing.get_context("spawn")
    told, stop = context.Queue(), context.Event()
    _make(root, 0)
    releases.publish(root, release_name(0), needed_steps=())
    workers = [context.Process(target=_read, args=(root, which, stop, told)) for which in range(readers)]
    for worker in workers:
        worker.start()
    found: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    seen: set[str] = set()
    removed, began = 0, time.monotonic()

    def take(which: int, release: str, outcome: str) -> int:
        seen.add(release)
        found["answers" if outcome in ("right", "wrong") else "errors"] += 1
        found["wrong"] += outcome == "wrong"
        if outcome not in ("right", "wrong"):
            errors[outcome] += 1
        return which

    def drain() -> None:
        while not told.empty():
            take(*told.get(timeout=WAIT))

    def listen() -> None:
        """Waits until every reader has answered since."""
        drain()
        missing = set(range(readers))
        while missing:
            missing.discard(take(*told.get(timeout=WAIT)))

    try:
        for number in range(1, rounds + 1):
            listen()
            if number % 3 == 0:
                folder, _ = releases.open_for_change(*releases.open_live(root), "report")
                releases.publish(root, folder.name, needed_steps=())
            else:
                _make(root, number)
                releases.publish(root, release_name(number), needed_steps=())
            removed += len(prune(root, keep=0).removed)
            if number % 4 == 0:
                listen()
                releases.rollback(root)
                removed += len(prune(root, keep=0).removed)
        listen()
    finally:
        stop.set()
        while any(worker.is_alive() for worker in workers):
            drain()
            for worker in workers:
                worker.join(0.1)
    left = len(prune(root, keep=0).kept)
    about = {"rounds": rounds, "readers": readers, "answers": found["answers"], "wrong": found["wrong"], "errors": dict(errors)}
    return {**about, "answered_by": len(seen), "removed": removed, "left": left, "seconds": round(time.monotonic() - began, 1)}


def _make(root: Path, version: int) -> None:
    make_release(root, vectors_of(version), Router(PARTITIONS), release=release_name(version), publish=False)


def _read(root: Path, which: int, stop: Any, told: Any) -> None:
    answers = 1 if which == 0 else 40
    while not stop.is_set():
        release = ""
        try:
            with open_release(root, cache_bytes=1) as searcher:
                release, wanted = searcher.manifest.release, expected(searcher.items - LEAST)
                for _ in range(answers):
                    neighbors = searcher.lookup(QUERIES, K)
                    numbers = searcher.metadata(neighbors).column("number").to_pylist()
                    right = neighbors.ids.tolist() == wanted and [f"i{number}" for number in numbers] == np.ravel(wanted).tolist()
                    told.put((which, release, "right" if right else "wrong"))
        except Exception as error:  # what no reader may ever see: counted and shown
            told.put((which, release, f"{type(error).__name__}: {error}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100, help="publishes (default: %(default)s)")
    parser.add_argument("--readers", type=int, default=3, help="processes (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(watch(Path(folder), options.rounds, options.readers)), flush=True)


if __name__ == "__main__":
    main()
