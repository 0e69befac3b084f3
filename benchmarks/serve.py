"""A server under load, beside the same search in one process: queries a second, latency, recall.

    python -m benchmarks.serve [--n 1000000] [--seconds 10] [--sizes 1,16,256] [--scratch FOLDER]

One `simpipe serve` with one worker answers a release of n x 64 vectors (see `benchmarks.scale`); a process of its own asks
over 32 connections (see `benchmarks.load`). All share this machine's processors, so the server has fewer of them than the search
in one process has. JSON lines:

- `in_process`: `Searcher.lookup` in blocks, queries a second, before and after the server (`rate` is the mean).
- `closed`: requests of so many queries, 32 at a time: queries and requests a second, latency, recall@10, the mean batch;
  `ratio` to the best rate in one process, `ratio_block` to that in blocks of what 32 such requests hold.
- `open`: requests that come at half of that rate, by chance: p50, p99 and their ratio, with its bar.
- `memory`: resident MiB of the server's processes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.child import say
from benchmarks.load import Generator, Load, save_bodies
from benchmarks.releases import workplace
from benchmarks.scale import DIM, run_of
from benchmarks.served import Served, serving
from benchmarks.vectors import mixture
from simpipe.index.searcher import Searcher, open_release

K, TARGET, CONNECTIONS = 10, 0.95, 32
BLOCKS = (1, 32, 512, 8192)
BAR_RATIO, BAR_TAIL, BAR_RECALL = 0.5, 5.0, 0.95
_BODIES = 2000
_MEASURED = 3.0  # seconds a block size


def ready_root(scratch: Path, n: int) -> Path:
    """A root with a live release of n drawn vectors, made once."""
    folder = scratch / f"scale-medium-{n}"
    if not (folder / "root" / "live.json").exists():
        run_of(folder, "medium", n, held_out=10_000, overrides=[])
    return folder / "root"


def queries(n: int) -> np.ndarray:
    """Fresh queries, float32[n, 64]."""
    return mixture("medium", DIM).draw(n, stream=9)


def rates(root: Path) -> dict[int, float]:
    """Queries a second of one process, by block size."""
    searcher = open_release(root)
    asked = queries(8192 * 2)
    found = {}
    searcher.lookup(asked, K, target_recall=TARGET)  # loads every partition
    for block in BLOCKS:
        done, began = 0, time.perf_counter()
        while (took := time.perf_counter() - began) < _MEASURED:
            at = done % (len(asked) - block + 1)
            searcher.lookup(asked[at : at + block], K, target_recall=TARGET)
            done += block
        found[block] = done / took
    return found


def rates_apart(root: Path) -> dict[int, float]:
    """`rates`, of a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serve", "--rates", str(root)], capture_output=True, text=True, check=True
    )
    return {int(block): rate for block, rate in json.loads(done.stdout.splitlines()[-1]).items()}


def bodies_of(asked: np.ndarray, size: int) -> list[bytes]:
    """Requests of `size` queries each."""
    import orjson

    found = []
    for first in range(0, len(asked) - size + 1, size):
        about = {"vectors": asked[first : first + size], "k": K}
        found.append(orjson.dumps(about, option=orjson.OPT_SERIALIZE_NUMPY))
    return found


def answers_of(load: Load, size: int, asked: np.ndarray, searcher: Searcher, *, most: int = 1000) -> dict[str, Any]:
    """Recall of the first answers, and failures of all."""
    some = np.flatnonzero(load.status == 200)[: max(1, most // size)]
    rows = np.concatenate([np.arange(load.body[number] * size, load.body[number] * size + size) for number in some])
    truth = searcher.lookup(asked[rows], K, exact=True).ids
    found = [
        [neighbor["id"] for neighbor in result["neighbors"]]
        for number in some
        for result in json.loads(load.answer(number))["results"]
    ]
    hits = sum(len(set(mine) & set(true)) for mine, true in zip(found, truth.tolist(), strict=True))
    return {"recall": round(hits / truth.size, 4), "failed": int((load.status != 200).sum())}


def quantiles(load: Load) -> dict[str, float]:
    milliseconds = load.latency * 1e3
    return {f"p{share:g}_ms": round(float(np.percentile(milliseconds, share)), 2) for share in (50, 90, 99, 99.9)}


def asked_of(served: Served, scratch: Path, size: int, *, seconds: float, rate: float | None = None) -> Load:
    """A warm-up of 2 seconds, then the load."""
    bodies, out = scratch / f"bodies-{size}.npz", scratch / f"load-{size}"
    Generator(served.port, bodies, out, connections=CONNECTIONS, seconds=2.0, rate=rate).wait()
    # More connections where requests come by chance: a request must not wait for another one's answer.
    connections = CONNECTIONS if rate is None else 4 * CONNECTIONS
    return Generator(served.port, bodies, out, connections=connections, seconds=seconds, rate=rate).wait()


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--n", type=int, default=1_000_000)
    options.add_argument("--seconds", type=float, default=10.0, help="of each load (default: %(default)s)")
    options.add_argument("--sizes", default="1,16,256", help="queries a request (default: %(default)s)")
    options.add_argument("--scratch")
    options.add_argument("--rates", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.rates:
        print(json.dumps(rates(Path(chosen.rates))))
        return
    with workplace(chosen.scratch) as scratch:
        root = ready_root(scratch, chosen.n)
        asked = queries(_BODIES * 16)
        searcher = open_release(root)
        say("in one process")
        before = rates_apart(root)
        lines: list[dict[str, Any]] = []
        with serving(
            root, [f"target_recall={TARGET}", "access_log=false", "pictures=false"], log=scratch / "serve.log"
        ) as served:
            for size in map(int, chosen.sizes.split(",")):
                save_bodies(scratch / f"bodies-{size}.npz", bodies_of(asked, size)[:_BODIES])
                say(f"{size} queries a request, {CONNECTIONS} at a time")
                load = asked_of(served, scratch, size, seconds=chosen.seconds)
                requests = len(load.due) / (load.ended.max() - load.due.min())
                line: dict[str, Any] = {"what": "closed", "n": chosen.n, "queries_a_request": size, "connections": CONNECTIONS}
                line |= {"requests_a_s": round(requests, 1), "queries_a_s": round(requests * size, 1)}
                lines.append(line | quantiles(load) | answers_of(load, size, asked, searcher))
                say("half of that, by chance")
                half = asked_of(served, scratch, size, seconds=2 * chosen.seconds, rate=requests / 2)
                line = {"what": "open", "queries_a_request": size, "requests_a_s": round(requests / 2, 1), **quantiles(half)}
                line |= {
                    "failed": int((half.status != 200).sum()),
                    "tail": round(line["p99_ms"] / line["p50_ms"], 2),
                    "bar": BAR_TAIL,
                }
                lines.append(line)
            with_files, private = served.memory()
        say("in one process, again")
        after = rates_apart(root)
    rate = {block: (before[block] + after[block]) / 2 for block in BLOCKS}
    shown = {
        name: {block: round(value, 1) for block, value in found.items()} for name, found in (("before", before), ("after", after))
    }
    print(
        json.dumps({"what": "in_process", **shown, "rate": {block: round(value, 1) for block, value in rate.items()}}), flush=True
    )
    best = max(rate.values())
    for line in lines:
        if line["what"] == "closed":
            block = min(BLOCKS, key=lambda block: abs(np.log(block / (CONNECTIONS * line["queries_a_request"]))))
            line |= {"ratio": round(line["queries_a_s"] / best, 3), "ratio_block": round(line["queries_a_s"] / rate[block], 3)}
            line |= {"block": block, "bar": BAR_RATIO, "bar_recall": BAR_RECALL}
        print(json.dumps(line), flush=True)
    print(json.dumps({"what": "memory", "with_files_mib": round(with_files), "private_mib": round(private)}), flush=True)


if __name__ == "__main__":
    main()
