"""The exact pass that ANN recall is measured against: its arithmetic rate beside that of a plain matrix product, its memory.

python -m benchmarks.exact_pass [--n 1000000 --dim 64 --queries 1000 --k 10 --threads 1 2]

Both read the same memory-mapped file in the same process, in turns. The plain product writes scores block by block into one
array and does nothing with them; the fastest of several block sizes counts. The pass finds the k nearest and their exact
distances. Prints a JSON line for each number of threads, and one for the memory of a process that does the pass alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.child import run_child, say
from simpipe.index.blas import blas_threads
from simpipe.index.distance import prepare
from simpipe.index.exact import exact_topk

_WRITTEN = 1 << 16
# Queries and rows of the plain product's blocks.
_BLOCKS = ((256, 2048), (512, 1024), (512, 2048), (512, 8192), (1024, 1024), (1024, 4096), (1024, 32768))


def write_vectors(path: Path, n: int, dim: int) -> None:
    """Random unit vectors, block by block."""
    rng = np.random.default_rng(0)
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n, dim))
    for first in range(0, n, _WRITTEN):
        rows = out[first : first + _WRITTEN]
        rows[:] = prepare(rng.normal(size=rows.shape).astype(np.float32), "cosine")
    out.flush()


def opened(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)


def asked(queries: int, dim: int) -> np.ndarray:
    return prepare(np.random.default_rng(1).normal(size=(queries, dim)).astype(np.float32), "cosine")


def product(queries: np.ndarray, vectors: np.ndarray, block: tuple[int, int], threads: int) -> None:
    """All scores, and nothing else."""
    out = np.empty(min(block[0], len(queries)) * min(block[1], len(vectors)), np.float32)
    with blas_threads(threads):
        for first in range(0, len(queries), block[0]):
            some = queries[first : first + block[0]]
            for row in range(0, len(vectors), block[1]):
                rows = vectors[row : row + block[1]]
                np.matmul(some, rows.T, out=out[: len(some) * len(rows)].reshape(len(some), len(rows)))


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def rates(path: Path, queries: np.ndarray, k: int, threads: int, rounds: int) -> dict[str, object]:
    """Rates in 10^9 operations a second: of the median round, by wall and by CPU time."""
    vectors = opened(path)
    flop = 2.0 * len(vectors) * len(queries) * vectors.shape[1] / 1e9
    ways: dict[object, Callable[[], object]] = {
        block: lambda block=block: product(queries, vectors, block, threads) for block in _BLOCKS
    }
    ways["pass"] = lambda: exact_topk(vectors, queries, k, distance="cosine", threads=threads)
    taken: dict[object, list[tuple[float, float]]] = {name: [] for name in ways}
    ways["pass"]()  # pages are read, threads are there
    for turn in range(rounds):
        for name, work in ways.items():
            taken[name].append(seconds(work))
        say(f"{threads} threads: round {turn + 1} of {rounds}")
    wall, cpu = ({name: flop / float(np.median([each[at] for each in list_])) for name, list_ in taken.items()} for at in (0, 1))
    best = max(_BLOCKS, key=lambda block: wall[block])
    cheapest = max(_BLOCKS, key=lambda block: cpu[block])
    return {
        "threads": threads,
        "product_gflops": round(wall[best], 1),
        "product_block": list(best),
        "pass_gflops": round(wall["pass"], 1),
        "ratio": round(wall["pass"] / wall[best], 3),
        "product_gflops_cpu": round(cpu[cheapest], 1),
        "pass_gflops_cpu": round(cpu["pass"], 1),
        "ratio_cpu": round(cpu["pass"] / cpu[cheapest], 3),
        "pass_s": round(flop / wall["pass"], 3),
    }


def memory(path: Path, options: argparse.Namespace) -> dict[str, object]:
    """Peak memory of a process that does the pass, and of one that only starts."""
    sizes = ["--queries", str(options.queries), "--k", str(options.k), "--n", str(options.n), "--dim", str(options.dim)]
    command = [sys.executable, "-m", "benchmarks.exact_pass", *sizes]
    alone, _ = run_child([*command, "--child", str(path), "--idle"])
    used, _ = run_child([*command, "--child", str(path)])
    return {
        "vectors_mib": round(options.n * options.dim * 4 / 2**20, 1),
        "pass_private_mib": round(used.private_mib, 1),
        "started_private_mib": round(alone.private_mib, 1),
        "pass_peak_mib_with_mapped_pages": round(used.peak_mib, 1),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--n", type=int, default=1_000_000)
    options.add_argument("--dim", type=int, default=64)
    options.add_argument("--queries", type=int, default=1000)
    options.add_argument("--k", type=int, default=10)
    options.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--idle", action="store_true", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    queries = asked(chosen.queries, chosen.dim)
    if chosen.child is not None:
        vectors = opened(chosen.child)[: 1 if chosen.idle else None]
        exact_topk(vectors, queries, chosen.k, distance="cosine")
        time.sleep(0.2)  # long enough to be sampled
        return
    with tempfile.TemporaryDirectory(prefix="exact-pass-") as folder:
        path = Path(folder) / "vectors.npy"
        write_vectors(path, chosen.n, chosen.dim)
        for threads in chosen.threads:
            print(json.dumps(rates(path, queries, chosen.k, threads, chosen.rounds)), flush=True)
        print(json.dumps(memory(path, chosen)), flush=True)


if __name__ == "__main__":
    main()
