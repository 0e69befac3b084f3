"""What `simpipe build` costs beside single indexes of the same vectors and beside the bare library.

    python -m benchmarks.index_build [--n 1000000] [--data medium] [--routers packed,kmeans,auto] [--scratch FOLDER]

Draws n x 64 vectors, imports them, and builds a release of 16 partitions with ScaNN for each router in a process of its own,
whose CPU seconds (with those of its children) and peak memory are taken. In the same run: one hnswlib index over all items, and
ScaNN's own build, with the parameters that the release has, over the vectors of each of its partitions. Prints JSON lines:

- `hnswlib`: CPU seconds of building it (kept in the scratch folder from an earlier run: `kept`).
- `build`: what importing and building took; rows, with those that spill, and the largest partition.
- `bare_scann`: CPU seconds inside ScaNN's `build`, summed over partitions; `save_cpu_s` of writing them, not in the ratio;
  `usual_cpu_s` of ScaNN as it is mostly used (sqrt(n) leaves, SOAR, hashing, reordering, its own training defaults).
- `ratio`: build against both and the bars; recall@10 on fresh queries, the best that the release's targets reach; peak memory
  against what `partition_memory_mib` allows for all workers and 1 GiB.

Held-out queries that the search profile is measured with, computing their exact neighbors included, are part of the build.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.child import run_child, say
from benchmarks.peer_cache import ready
from benchmarks.peers import scann
from benchmarks.releases import Data, recall, release, workplace

TO_HNSWLIB, TO_BARE, RECALL = 0.30, 1.6, 0.97
K = 10
_TARGETS = (0.999, 0.998, 0.995, 0.99, 0.98, 0.97, 0.95, 0.90)


@contextlib.contextmanager
def _library_timed() -> Iterator[list[float]]:
    """CPU seconds of each call of ScaNN's own `build` meanwhile."""
    scann()
    from scann.scann_ops.py.scann_builder import ScannBuilder

    build, taken = ScannBuilder.build, []

    def timed(self: Any, *args: Any, **kwargs: Any) -> Any:
        began = time.process_time()
        try:
            return build(self, *args, **kwargs)
        finally:
            taken.append(time.process_time() - began)

    ScannBuilder.build = timed
    try:
        yield taken
    finally:
        ScannBuilder.build = build


def bare(folder: Path) -> dict[str, Any]:
    """Builds ScaNN over each partition of a release, and nothing else: no routing, no profile, no store."""
    from simpipe.config.index import ScannBackend
    from simpipe.index.backend import build_backend
    from simpipe.index.searcher import open_release

    searcher = open_release(folder)
    manifest = searcher.manifest
    config, taken, saved, scanned, usual = ScannBackend(**manifest.backend), [], 0.0, 0, 0.0
    for about in manifest.partitions:
        vectors = np.array(searcher.partition(about.partition).vectors, np.float32)
        with _library_timed() as calls, tempfile.TemporaryDirectory() as scratch:
            index = build_backend(vectors, config, distance=manifest.distance)
            began = time.process_time()
            index.save(Path(scratch))
            saved += time.process_time() - began
        scanned += not calls
        taken.append(sum(calls))
        if len(vectors) >= 1000:
            began = time.process_time()
            usual_scann(vectors)
            usual += time.process_time() - began
    return {
        "partitions": len(taken),
        "scanned_partitions": scanned,
        "cpu_s": round(sum(taken), 2),
        "save_cpu_s": round(saved, 2),
        "usual_cpu_s": round(usual, 2),
    }


def usual_scann(vectors: np.ndarray) -> Any:
    """ScaNN over float32[n, dim] as it is mostly used: a tree of sqrt(n) leaves with SOAR, hashing, reordering."""
    leaves = round(len(vectors) ** 0.5)
    builder = scann().builder(vectors, K, "dot_product").tree(leaves, leaves // 10, soar_lambda=1.5, overretrieve_factor=2.0)
    return builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100).build()


def reachable(folder: Path, data: Data, truth: np.ndarray) -> tuple[float, float | None]:
    """The best recall on fresh queries, and the target that was asked for."""
    from simpipe.errors import QueryError
    from simpipe.index.searcher import open_release

    searcher = open_release(folder)
    for target in _TARGETS:
        try:
            found = searcher.lookup(data.queries, K, target_recall=target)
        except QueryError:
            continue
        return recall(data.rows(found.ids), truth), target
    return recall(data.rows(searcher.lookup(data.queries, K).ids), truth), None


def emit(what: str, **values: Any) -> None:
    print(json.dumps({"what": what, **values}), flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--n", type=int, default=1_000_000)
    options.add_argument("--data", default="medium")
    options.add_argument("--routers", default="packed,auto,packed@scann-hash")
    options.add_argument("--partitions", type=int, default=16)
    options.add_argument("--memory-mib", type=int, default=256, help="partition_memory_mib (default: %(default)s)")
    options.add_argument("--workers", type=int, default=1)
    options.add_argument("--queries", type=int, default=5000)
    options.add_argument("--held-out", type=int, default=None)
    options.add_argument("--scratch")
    options.add_argument("--bare", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.bare:
        print(json.dumps(bare(Path(chosen.bare))))
        return
    with workplace(chosen.scratch) as scratch:
        data = Data.load(chosen.data, chosen.n, queries=chosen.queries, held_out=chosen.held_out)
        n = len(data.items)
        about = {"data": data.name, "n": n, "dim": data.items.shape[1]}
        truth = data.truth(scratch, K)
        single = ready("hnswlib", data.vectors(scratch), n, data.peers(scratch))
        emit("hnswlib", **about, **single)
        for router in filter(None, chosen.routers.split(",")):
            name, at, backend = router.partition("@")
            variant = f"{name}-{chosen.partitions}{at}{backend}"
            folder, took = release(data, scratch, variant, memory_mib=chosen.memory_mib, workers=chosen.workers, anew=True)
            parts = json.loads((folder / "manifest.json").read_text())["partitions"]
            sizes = [part["rows"] for part in parts]
            built = took["build"]
            emit(
                "build",
                **about,
                router=variant,
                **built,
                import_cpu_s=took["import"]["cpu_s"],
                rows=sum(sizes),
                largest=max(sizes),
            )
            say("ScaNN alone over the same partitions")
            _, said = run_child([sys.executable, "-m", "benchmarks.index_build", "--bare", str(folder)])
            alone = json.loads(said.strip().splitlines()[-1])
            emit("bare_scann", **about, router=variant, **alone)
            best, target = reachable(folder, data, truth)
            allowed = chosen.memory_mib * chosen.workers + 1024
            emit(
                "ratio",
                **about,
                router=variant,
                to_hnswlib=round(built["cpu_s"] / single["cpu_s"], 3),
                bar_to_hnswlib=TO_HNSWLIB,
                to_bare=round(built["cpu_s"] / max(alone["cpu_s"], 1e-9), 3),
                to_usual=round(built["cpu_s"] / max(alone["usual_cpu_s"], 1e-9), 3),
                bar_to_bare=TO_BARE,
                recall_at_10=round(best, 4),
                target=target,
                bar_recall=RECALL,
                peak_mib=built["peak_mib"],
                bar_peak_mib=allowed,
            )


if __name__ == "__main__":
    main()
