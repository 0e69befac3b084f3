"""The calibration in a release: `cutpoints.json`, and tables of thresholds, curves, distributions and cutpoints by value."""

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
CURVES = "curves.parquet"
DISTRIBUTIONS = "distributions.parquet"
CUTPOINTS_BY = "cutpoints_by.parquet"
COMPARISON = "distance <= cutpoint, both float32"
_THRESHOLDS_OF = "thresholds-{}.parquet"


def calibration_record(
    result: Calibration | None,
    *,
    matcher: str,
    k: int,
    metric: str,
    targets: Mapping[str, Any],
    queries: int,
    depth: int | None = None,
    probability: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What `cutpoints.json` holds of a matcher: the cutpoints, and everything needed to apply them in the same way.

    A release's first matcher has records of further ones under `matchers`, and under `by` where cutpoints of values lie.

    Args:
      result: None where no query has a label.
      matcher, k, metric: of the calibration. targets: as they were asked for.
      queries: asked, with and without a label.
      depth: neighbors that were searched; None: k.
      probability: of distances, as JSON.
    """
    bootstrap = result.bootstrap if result else None
    return {
        "matcher": matcher,
        "k": k,
        "depth": k if depth is None else depth,
        "metric": metric,
        "targets": dict(targets),
        "comparison": COMPARISON,
        "queries": queries,
        "labelled": result.queries if result else 0,
        "open_set": result.open_set if result else 0,
        "distinct": len(result.thresholds["distance"]) if result else 0,
        "dropped_bits": result.dropped_bits if result else 0,
        "threshold_error": result.threshold_error if result else 0.0,
        "cutpoints": result.cutpoints if result else {},
        "bootstrap": {"replicates": bootstrap.replicates, "confidence": bootstrap.confidence} if bootstrap else None,
        "probability": None if probability is None else dict(probability),
        "matchers": {},
        "by": None,
    }


def write_calibration(
    folder: Path,
    record: Mapping[str, Any],
    thresholds: Mapping[str, np.ndarray],
    *,
    further: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    tables: Mapping[str, pa.Table] | None = None,
) -> list[str]:
    """Writes a calibration into a release's folder.

    Args:
      folder: of the release. record: see `calibration_record`.
      thresholds: "distance" and one array a metric. further: those of further matchers, by their names.
      tables: of `CURVES`, `DISTRIBUTIONS`, `CUTPOINTS_BY`, by file name.

    Returns:
      Names of the files.
    """
    files.write_json(folder / CUTPOINTS_JSON, dict(record))
    written = {THRESHOLDS: _table(thresholds)}
    written |= {_THRESHOLDS_OF.format(name): _table(columns) for name, columns in (further or {}).items()}
    written |= tables or {}
    for name, table in written.items():
        with files.replacing(folder / name) as temporary:
            pq.write_table(table, temporary, compression="zstd")
    return [CUTPOINTS_JSON, *written]


def is_calibration(name: str) -> bool:
    """Whether a file of a release belongs to its calibration."""
    first, last = _THRESHOLDS_OF.split("{}")
    own = (CUTPOINTS_JSON, THRESHOLDS, CURVES, DISTRIBUTIONS, CUTPOINTS_BY)
    return name in own or (name.startswith(first) and name.endswith(last))


def read_thresholds(path: Path) -> dict[str, np.ndarray]:
    """`thresholds.parquet` after it was verified: "distance" and one array a metric."""
    table = pq.read_table(path)
    return {name: table.column(name).to_numpy() for name in table.column_names}


def _table(columns: Mapping[str, np.ndarray]) -> pa.Table:
    columns = dict(columns) or {"distance": np.empty(0, np.float32)}
    return pa.table({name: pa.array(values) for name, values in columns.items()})
