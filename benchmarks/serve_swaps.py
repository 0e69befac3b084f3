"""Publishes and rollbacks under load: no failed request, no answer of two releases, and how much slower answers come meanwhile.

    python -m benchmarks.serve_swaps [--n 1000000] [--rounds 50] [--share 0.5] [--scratch FOLDER]

Two releases of one root hold the same vectors under other ids and labels. While `benchmarks.load` asks a `simpipe serve` by
chance at `--share` of the rate that it answered at most, the pointer moves to and fro between them: by `rollback` every third
time, else by `publish`, in a process of low priority, as it would be another machine's. Every answer is checked afterwards:
labels and the distance of each neighbor's vector must be those of the release that the answer names. Prints one JSON line:

- `answers`, `failed`, `mixed`, `wrong`: of all requests.
- `swap_s`: seconds from a move of the pointer until all answers come from the new release: median and largest.
- `p99_in_ms`, `p99_out_ms`, `ratio`: latency of requests that were due between a move of the pointer and two seconds after its
  first answer from the new release, and at other times (but for the seconds in which the publisher itself reads all files).
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.child import say
from benchmarks.load import Generator, Load, save_bodies
from benchmarks.releases import workplace
from benchmarks.scale import line_config
from benchmarks.serve import CONNECTIONS, TARGET, asked_of, bodies_of, queries, ready_root
from benchmarks.served import serving
from simpipe import releases
from simpipe.pointer import read_pointer

BAR = 2.0
_AFTER = 2.0  # seconds after the first new answer that still count as the swap: the old release ends
_QUIET = 3.0  # seconds between the end of a swap and the next move
_MOST = 60.0  # seconds that a swap may take
_OTHER = 10_000  # added to the second release's labels


def two_releases(scratch: Path, n: int) -> tuple[Path, list[str]]:
    """A root with two releases; the second one holds the vectors in reverse order, and other labels."""
    root = ready_root(scratch, n)
    folder = root.parent
    first = read_pointer(root)
    assert first is not None
    if first.previous is not None:
        return root, sorted([first.previous, first.release])  # by the time when they were made
    vectors, labels = folder / "vectors-reversed.npy", folder / "labels-reversed.npy"
    np.save(vectors, np.load(folder / "vectors.npy", mmap_mode="r")[::-1])
    np.save(labels, np.load(folder / "labels.npy")[::-1].astype(np.int32) + _OTHER)
    config = line_config(str(root), str(vectors), str(labels), n=n, held_out=10_000)
    path = folder / "reversed.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    subprocess.run([sys.executable, "-m", "simpipe.cli", "run", "--config", str(path)], check=True)
    second = read_pointer(root)
    assert second is not None
    return root, [first.release, second.release]


def move(root: Path, number: int) -> tuple[float, float]:
    """Moves the pointer to the other release, in a process of low priority.

    Returns:
      When it began and when the pointer had moved.
    """
    verb = "rollback" if number % 3 == 2 else "publish"
    began = time.monotonic()
    subprocess.run(["nice", "-n", "19", sys.executable, "-m", "benchmarks.serve_swaps", "--move", verb, str(root)], check=True)
    return began, os.stat(root / "live.json").st_mtime - time.time() + time.monotonic()


def moved(verb: str, root: Path) -> None:
    pointer = read_pointer(root)
    assert pointer is not None
    if verb == "rollback":
        releases.rollback(root)
    else:
        releases.publish(root, pointer.previous, expected=pointer.release)


def swapped(port: int, release: str) -> float:
    """When the server says that a release answers."""
    end = time.monotonic() + _MOST
    asking = http.client.HTTPConnection("127.0.0.1", port, timeout=10)  # cheap: what it takes counts as the swap's
    while time.monotonic() < end:
        asking.request("GET", "/readyz")
        if json.loads(asking.getresponse().read()).get("release") == release:
            asking.close()
            return time.monotonic()
        time.sleep(0.25)
    raise SystemExit(f"{release} does not answer after {_MOST:g} s")


def check(load: Load, size: int, asked: np.ndarray, folder: Path, names: list[str]) -> dict[str, int]:
    """Failed requests, answers whose labels or distances are not those of the release that they name."""
    items = np.load(folder / "vectors.npy", mmap_mode="r")
    labels = np.load(folder / "labels.npy").astype(np.int64)
    count = {"answers": 0, "failed": int((load.status != 200).sum()), "mixed": 0, "wrong": 0}
    good = np.flatnonzero(load.status == 200)
    for block in np.array_split(good, max(1, len(good) * size // 5000)):
        found = [json.loads(load.answer(number)) for number in block]
        count["answers"] += len(found)
        lines = [line["neighbors"] for each in found for line in each["results"]]
        rows = np.array([[int(neighbor["id"].rpartition("-")[2]) for neighbor in line] for line in lines])
        said = np.array([[int(neighbor["label"]) for neighbor in line] for line in lines])
        near = np.array([[neighbor["distance"] for neighbor in line] for line in lines], np.float64)
        second = np.repeat([each["release"] == names[1] for each in found], size)
        known = np.repeat([each["release"] in names for each in found], size)
        of_second = said >= _OTHER
        count["mixed"] += int(((of_second != second[:, None]).any(axis=1) | ~known).sum())
        rows = np.where(second[:, None], len(items) - 1 - rows, rows)
        true_labels = labels[rows] + np.where(second, _OTHER, 0)[:, None]
        wanted = asked[(load.body[block][:, None] * size + np.arange(size)).ravel()]
        true = 1.0 - np.einsum("nkd,nd->nk", items[rows.ravel()].reshape(*rows.shape, -1), wanted)
        right = (np.abs(true - near) < 1e-4) & (true_labels == said) & (np.diff(near, axis=1, prepend=-1) >= 0)
        count["wrong"] += int((~right.all(axis=1)).sum())
    return count


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--n", type=int, default=1_000_000)
    options.add_argument("--rounds", type=int, default=50)
    options.add_argument("--size", type=int, default=1, help="queries a request (default: %(default)s)")
    options.add_argument("--share", type=float, default=0.5, help="of the rate at most (default: %(default)s)")
    options.add_argument("--scratch")
    options.add_argument("--move", nargs=2, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.move:
        moved(chosen.move[0], Path(chosen.move[1]))
        return
    with workplace(chosen.scratch) as scratch:
        root, names = two_releases(scratch, chosen.n)
        asked = queries(2000 * chosen.size)
        save_bodies(scratch / f"bodies-{chosen.size}.npz", bodies_of(asked, chosen.size))
        with serving(
            root, [f"target_recall={TARGET}", "access_log=false", "pictures=false"], log=scratch / "swaps.log"
        ) as served:
            most = asked_of(served, scratch, chosen.size, seconds=8.0)
            rate = chosen.share * len(most.due) / (most.ended.max() - most.due.min())
            say(f"{rate:.0f} requests a second, {chosen.rounds} moves of the pointer")
            seconds = chosen.rounds * _MOST
            out = scratch / "swaps"
            bodies = scratch / f"bodies-{chosen.size}.npz"
            generator = Generator(served.port, bodies, out, connections=4 * CONNECTIONS, seconds=seconds, rate=rate)
            time.sleep(10.0)
            moves: list[tuple[float, float, float]] = []
            for number in range(chosen.rounds):
                began, at = move(root, number)
                pointer = read_pointer(root)
                assert pointer is not None
                moves.append((began, at, swapped(served.port, pointer.release)))
                time.sleep(_AFTER + _QUIET)
                if number % 10 == 9:
                    say(f"{number + 1} moves")
            load = generator.stop()
            with_files, private = served.memory()
        print(
            json.dumps(
                summary(load, moves, rate, chosen.size)
                | check(load, chosen.size, asked, root.parent, names)
                | {"with_files_mib": round(with_files), "private_mib": round(private)}
            ),
            flush=True,
        )


def summary(load: Load, moves: list[tuple[float, float, float]], rate: float, size: int) -> dict[str, Any]:
    """Latency within and without swaps."""
    inside, left_out = np.zeros(len(load.due), bool), np.zeros(len(load.due), bool)
    for began, at, done in moves:
        inside |= load.between(at, done + _AFTER)
        left_out |= load.between(began, at)
    before = load.due < load.due.min() + 5.0
    outside = ~inside & ~left_out & ~before & (load.due < moves[-1][2] + _AFTER + _QUIET)
    milliseconds = load.latency * 1e3
    within, without = (milliseconds[rows] for rows in (inside & ~left_out, outside))
    p99_in, p99_out = (float(np.percentile(each, 99)) for each in (within, without))
    took = [done - at for _, at, done in moves]
    return {
        "what": "swaps",
        "rounds": len(moves),
        "queries_a_request": size,
        "requests_a_s": round(rate, 1),
        "swap_s": [round(float(np.median(took)), 2), round(max(took), 2)],
        "p50_in_ms": round(float(np.median(within)), 2),
        "p50_out_ms": round(float(np.median(without)), 2),
        "p99_in_ms": round(p99_in, 2),
        "p99_out_ms": round(p99_out, 2),
        "worst_ms": round(float(milliseconds.max()), 1),
        "ratio": round(p99_in / p99_out, 2),
        "bar": BAR,
        "requests_in": len(within),
        "requests_out": len(without),
    }


if __name__ == "__main__":
    main()
