"""Routers against each other: how many partitions a query has to ask for a routing recall, before any index is built.

Routing recall is the share of the true ten nearest items that lie in a partition that was asked. JSON lines: one a data set,
router and number of partitions, with the mean partitions a query for recall 0.90, 0.95 and 0.99 by a fixed number of probes
and by the margin, rows stored over items, CPU seconds of fitting, CPU microseconds of an item routed and of a query routed, and
largest over mean partition.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.routing --data easy hard path/to/embeddings --partitions 16 64
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.vectors import load
from simpipe.config.index import FittedRouter, HashRouter, KMeansRouter, PackedRouter
from simpipe.index.exact import exact_topk
from simpipe.index.kmeans import lloyd
from simpipe.index.router import Router, fit_router
from simpipe.index.setting import SearchSetting

_K = 10
_TARGETS = (0.90, 0.95, 0.99)
_UNBALANCED = 1e9  # stands for plain k-means


def routers(partitions: int, sample: int) -> dict[str, FittedRouter]:
    common: dict[str, Any] = {"partitions": partitions, "sample": sample}
    return {
        "hash": HashRouter(kind="hash", partitions=partitions),
        "k-means, plain": KMeansRouter(kind="kmeans", balance=_UNBALANCED, **common),
        "k-means, balanced": KMeansRouter(kind="kmeans", **common),
        "k-means, balanced, nearest 1.3": KMeansRouter(kind="kmeans", spill="nearest", spill_factor=1.3, **common),
        "k-means, balanced, soar 1.3": KMeansRouter(kind="kmeans", spill="soar", spill_factor=1.3, **common),
        "packed": PackedRouter(kind="packed", **common),
        "packed, nearest 1.2": PackedRouter(kind="packed", spill="nearest", spill_factor=1.2, **common),
        "packed, soar 1.2": PackedRouter(kind="packed", spill="soar", spill_factor=1.2, **common),
    }


def plain(sample: np.ndarray, partitions: int) -> Router:
    """K-means without this package's additions: one centroid a partition, no balance."""
    centroids = lloyd(sample, partitions, seed=0, rounds=50, careful=True)
    line, zeros = np.arange(len(centroids), dtype=np.int32), np.zeros(len(centroids), np.float32)
    return Router(len(line), "kmeans", centroids, line, zeros, np.ones(len(line), np.int32))


def measure(config: FittedRouter, items: np.ndarray, queries: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Args: items: float32[n, dim]. queries: float32[q, dim]. truth: int64[q, 10], rows of the nearest items."""
    picked = np.random.default_rng(0).permutation(len(items))[: getattr(config, "sample", 0)]
    sample = items[np.sort(picked)]
    started = time.process_time()
    is_plain = config.kind != "hash" and config.balance == _UNBALANCED
    router = plain(sample, config.partitions) if is_plain else fit_router(sample, config, seed=0)
    fit = time.process_time() - started
    ids = pa.array(np.arange(len(items)).astype(str))
    started = time.process_time()
    primary, (rows, second) = router.route(ids, items)
    routed = time.process_time() - started
    started = time.process_time()
    router.ask(queries, SearchSetting(margin=0.1))
    asked = time.process_time() - started

    copy = np.full(len(items), -1)
    copy[rows] = second
    nearness = router.nearness(queries)
    rank = np.argsort(np.argsort(nearness, axis=1, kind="stable"), axis=1)
    query = np.arange(len(queries))[:, None]

    def least(of: np.ndarray) -> np.ndarray:
        """The least value of the partitions that hold each true neighbor."""
        there = of[query, primary[truth]].astype(np.float64)
        return np.minimum(there, np.where(copy[truth] >= 0, of[query, copy[truth]], np.inf))

    by_rank, by_margin = np.sort(least(rank), axis=None), np.sort(least(nearness), axis=None)
    sizes = np.bincount(primary, minlength=router.partitions)
    out: dict[str, Any] = {"partitions": router.partitions}
    for target in _TARGETS:
        at = int(np.ceil(target * by_rank.size)) - 1
        is_hash = router.centroids is None
        out[f"probes@{target}"] = router.partitions if is_hash else int(by_rank[at]) + 1
        out[f"margin@{target}"] = round(float((nearness <= by_margin[at]).sum() / len(queries)), 2)
    return out | {
        "rows": round((len(items) + len(rows)) / len(items), 3),
        "fit_cpu_s": round(fit, 2),
        "item_us": round(1e6 * routed / len(items), 2),
        "query_us": round(1e6 * asked / len(queries), 2),
        "max_over_mean": round(float(sizes.max() / sizes.mean()), 3),
        "min_over_mean": round(float(sizes.min() / sizes.mean()), 3),
        "centroids": 0 if router.centroids is None else len(router.centroids),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["easy", "hard"], help="easy, hard, a noise length, .npy, or a folder")
    parser.add_argument("--items", type=int, default=200_000, help="drawn; of files all are taken")
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--partitions", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--sample", type=int, default=100_000, help="vectors that routers learn from")
    options = parser.parse_args()
    for name in options.data:
        items, queries = load(name, options.items, options.queries)
        truth, _ = exact_topk(items, queries, _K, distance="squared_euclidean")
        for partitions in options.partitions:
            for router, config in routers(partitions, options.sample).items():
                about = {"data": Path(name).name, "items": len(items), "dim": items.shape[1], "router": router}
                print(json.dumps(about | measure(config, items, queries, truth)), flush=True)


if __name__ == "__main__":
    main()
