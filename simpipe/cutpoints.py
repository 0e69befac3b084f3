"""The calibration in a release: `cutpoints.json` and `thresholds.parquet`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simpipe import files
from simpipe.calibration import Calibration

CUTPOINTS_JSON = "cutpoints.json"
THRESHOLDS = "thresholds.parquet"
COMPARISON = "distance <= cutpoint, both float32"


def calibration_record(
    result: Calibration | None, *, matcher: str, k: int, metric: str, targets: Mapping[str, Any], queries: int
) -> dict[str, Any]:
    """What `cutpoints.json` holds: the cutpoints, and everything needed to apply them in the same way.

    Args:
      result: None where no query has a label.
      matcher, k, metric: of the calibration. targets: as they were asked for.
      queries: asked, with and without a label.
    """
    return {
        "matcher": matcher,
        "k": k,
        "metric": metric,
        "targets": dict(targets),
        "comparison": COMPARISON,
        "queries": queries,
        "labelled": result.queries if result else 0,
        "cutpoints": result.cutpoints if result else {},
    }


def write_calibration(folder: Path, record: Mapping[str, Any], thresholds: Mapping[str, np.ndarray]) -> list[str]:
    """Writes both files into a release's folder; returns their names."""
    files.write_json(folder / CUTPOINTS_JSON, dict(record))
    columns = dict(thresholds) or {"distance": np.empty(0, np.float32)}
    with files.replacing(folder / THRESHOLDS) as temporary:
        pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), temporary, compression="zstd")
    return [CUTPOINTS_JSON, THRESHOLDS]


def read_thresholds(path: Path) -> dict[str, np.ndarray]:
    """`thresholds.parquet` after it was verified: "distance" and one array a metric."""
    table = pq.read_table(path)
    return {name: table.column(name).to_numpy() for name in table.column_names}
