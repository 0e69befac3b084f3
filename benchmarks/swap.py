"""Swaps of the engine without HTTP: jobs that fail or mix releases, and how much slower answers come meanwhile.

    python -m benchmarks.swap [--n 1000000] [--rounds 10] [--rate 400] [--scratch FOLDER]

Two releases of one root hold the same files. While jobs of one query come by chance at `--rate` a second, the pointer moves to
and fro between them. Prints one JSON line: jobs, failed ones, answers whose body names another release than the reply does,
seconds from a move to the first new answer, p50 and p99 of jobs that were due between a move and two seconds after that, and
at other times. `benchmarks.serve_swaps` is the same through HTTP, and checks every answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.child import say
from benchmarks.releases import workplace
from benchmarks.serve import TARGET, K, queries, ready_root
from simpipe import files, releases
from simpipe.config.serve import ServeConfig
from simpipe.manifest import MANIFEST_JSON, ManifestFile
from simpipe.pointer import move_pointer, read_pointer
from simpipe.serve.engine import ProcessEngine
from simpipe.serve.jobs import Job

_AFTER, _QUIET = 2.0, 3.0


def two_names(root: Path) -> tuple[str, str]:
    """The live release and another one of the same files."""
    folder, manifest = releases.open_live(root)
    other = f"{manifest.release}-again"
    entries = tuple(
        ManifestFile(path=each.path, size=each.size, sha256=each.sha256, release=each.release or manifest.release)
        for each in manifest.files
    )
    target = folder.with_name(other)
    if not (target / MANIFEST_JSON).exists():
        target.mkdir(exist_ok=True)
        manifest.model_copy(update={"release": other, "files": entries}).save(target)
    return manifest.release, other


async def ask(engine: ProcessEngine, rate: float, found: list[tuple[float, float, bool, bool]], stop: asyncio.Event) -> None:
    """Jobs by chance; notes when each was due, how long it took, whether it failed or was of two releases."""
    asked, random = queries(4096), np.random.default_rng(0)
    waiting: set[asyncio.Task[None]] = set()

    async def one(due: float, row: int) -> None:
        job = Job("lookup", asked[row : row + 1], k=K, options={"target_recall": TARGET})
        failed = mixed = False
        try:
            reply = await engine.ask(job, timeout=10.0)
            mixed = f'"release":"{reply.release}"'.encode() not in reply.body
        except Exception as error:
            say(f"{type(error).__name__}: {error}")
            failed = True
        found.append((due, time.monotonic() - due, failed, mixed))

    due, number = time.monotonic(), 0
    while not stop.is_set():
        due += random.exponential(1 / rate)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        task = asyncio.create_task(one(due, number % len(asked)))
        waiting.add(task)
        task.add_done_callback(waiting.discard)
        number += 1
    await asyncio.gather(*waiting)


async def measure(root: Path, rounds: int, rate: float) -> dict[str, Any]:
    names = two_names(root)
    engine = ProcessEngine(str(root), ServeConfig(target_recall=TARGET, poll_seconds=0.5))
    began = time.monotonic()
    await engine.start()
    say(f"open after {time.monotonic() - began:.2f} s")
    found: list[tuple[float, float, bool, bool]] = []
    stop, windows = asyncio.Event(), []
    asking = asyncio.create_task(ask(engine, rate, found, stop))
    await asyncio.sleep(2 * _QUIET)
    for _ in range(rounds):
        pointer = read_pointer(root)
        assert pointer is not None
        other = names[1] if pointer.release == names[0] else names[0]
        sha256 = files.sha256_file(root / "releases" / other / MANIFEST_JSON)
        at = time.monotonic()
        move_pointer(root, other, expected=pointer.release, manifest_sha256=sha256)
        while engine.status().release != other:
            await asyncio.sleep(0.02)
        windows.append((at, time.monotonic()))
        await asyncio.sleep(_AFTER + _QUIET)
    stop.set()
    await asking
    status = engine.status()
    await engine.close()
    due, took, failed, mixed = (np.array(column) for column in zip(*found, strict=True))
    inside = np.zeros(len(due), bool)
    for first, last in windows:
        inside |= (due >= first) & (due <= last + _AFTER)
    outside = ~inside & (due > due.min() + _QUIET)
    p99 = [float(np.percentile(took[rows], 99) * 1e3) for rows in (inside, outside)]
    return {
        "what": "engine swaps",
        "rounds": rounds,
        "rate": rate,
        "jobs": len(due),
        "failed": int(failed.sum()),
        "mixed": int(mixed.sum()),
        "swaps": status.swaps,
        "swap_s": [round(float(np.median([last - first for first, last in windows])), 2)],
        "p50_ms": [round(float(np.median(took[rows]) * 1e3), 2) for rows in (inside, outside)],
        "p99_ms": [round(value, 2) for value in p99],
        "ratio": round(p99[0] / p99[1], 2),
        "worst_ms": [round(float(took[rows].max() * 1e3), 1) for rows in (inside, outside)],
    }


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--n", type=int, default=1_000_000)
    options.add_argument("--rounds", type=int, default=10)
    options.add_argument("--rate", type=float, default=400.0, help="jobs a second (default: %(default)s)")
    options.add_argument("--scratch")
    chosen = options.parse_args()
    with workplace(chosen.scratch) as scratch:
        print(json.dumps(asyncio.run(measure(ready_root(scratch, chosen.n), chosen.rounds, chosen.rate))), flush=True)


if __name__ == "__main__":
    main()
