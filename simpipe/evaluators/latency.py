"""How long answers take: queries one by one, as a service asks, and in a block, as a job does."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from simpipe.index.base_searcher import BaseSearcher
from simpipe.index.setting import SearchSetting

_PERCENTILES = (50, 90, 99)


def measure_latency(
    searcher: BaseSearcher, vectors: np.ndarray, k: int, *, setting: SearchSetting | None = None, block: int = 1024
) -> dict[str, Any]:
    """Wall times of lookups in this process, after all queries were asked once: partitions are loaded then.

    Args:
      vectors: float32[n, dim], n at least 1. k: neighbors a query. setting: how partitions are asked; None: by default.
      block: queries that are asked together, at most.

    Returns:
      queries; single_ms: p50, p90 and p99 of single lookups; block: queries asked together; block_us: microseconds a query
      there.
    """
    together = vectors[:block]
    searcher.lookup(vectors, k, setting=setting)
    single = np.empty(len(vectors))
    for row in range(len(vectors)):
        started = time.perf_counter()
        searcher.lookup(vectors[row], k, setting=setting)
        single[row] = time.perf_counter() - started
    started = time.perf_counter()
    searcher.lookup(together, k, setting=setting)
    taken = time.perf_counter() - started
    quantiles = np.percentile(single * 1e3, _PERCENTILES)
    return {
        "queries": len(vectors),
        "single_ms": {f"p{name}": round(float(ms), 4) for name, ms in zip(_PERCENTILES, quantiles, strict=True)},
        "block": len(together),
        "block_us": round(taken / len(together) * 1e6, 2),
    }
