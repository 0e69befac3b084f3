"""Cutpoints of each value of a column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from simpipe.calibration.groups import GroupCounts
from simpipe.calibration.rules import Target
from simpipe.calibration.sweep import calibrate


def group_cutpoints(
    groups: GroupCounts,
    *,
    metrics: Sequence[str],
    metric: str = "f1",
    optimal: Sequence[str] = (),
    targets: Sequence[Target] = (),
    min_queries: int = 50,
) -> tuple[pa.Table, int]:
    """Calibrates value by value.

    A value with fewer queries, or none of whose matches is right, has no cutpoints: that of all queries holds there.

    Args:
      groups: counts of the first matcher. metrics: columns of the table.
      metric, optimal, targets: see `calibrate`. min_queries: of a value.

    Returns:
      Columns value string, cutpoint string, distance float32, queries and hits int64, and the metrics float64, by value and in
      the order of the cutpoints; and how many values have any.
    """
    rows: list[dict[str, Any]] = []
    found = 0
    for value, pairs in groups.pairs(min_queries):
        hits = int(pairs.hits.sum())
        if not hits:
            continue
        found += 1
        result = calibrate(pairs, metric=metric, optimal=optimal, targets=targets, metrics=metrics)
        about = {"value": value, "queries": pairs.queries, "hits": hits}
        rows += [{**cut, **about, "cutpoint": name} for name, cut in result.cutpoints.items()]
    fields = [("value", pa.string()), ("cutpoint", pa.string()), ("distance", pa.float32())]
    fields += [("queries", pa.int64()), ("hits", pa.int64()), *((name, pa.float64()) for name in metrics)]
    return pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in fields}), found
