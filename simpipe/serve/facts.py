"""What a server says of a release."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from simpipe import files
from simpipe.errors import ReleaseError, SimpipeError
from simpipe.index.searcher import Searcher
from simpipe.item_pictures import example_sets

MOST_THRESHOLDS = 512
_CURVES = ("distance", "precision", "recall", "f1", "binary_accuracy", "recall_all")
_THRESHOLDS, _METRICS = "thresholds.parquet", "metrics.json"


def facts_of(searcher: Searcher, root: Path) -> dict[str, Any]:
    """Facts of a release, as JSON holds them: see `Engine.about`.

    Args:
      root: of the release and of the examples that its pictures come from.
    """
    manifest = searcher.manifest
    cutpoints: list[dict[str, Any]] = []
    calibration: dict[str, Any] = {}
    with contextlib.suppress(ReleaseError):
        record = searcher.calibration()
        cutpoints = [{"name": name, **_flat(point)} for name, point in record["cutpoints"].items()]
        matchers = [searcher.rules.rule(None).name, *(record.get("matchers") or {})]
        calibration = {"matcher": matchers[0], "matchers": matchers, "depth": searcher.rules.depth}
        calibration["by"] = (record.get("by") or {}).get("column")
    metrics = files.read_json(searcher.file(_METRICS))["metrics"] if manifest.has(_METRICS) else {}
    profile = searcher.profile
    return {
        "release": manifest.release,
        "created_at": manifest.created_at,
        "items": manifest.items,
        "dim": manifest.dim,
        "distance": manifest.distance,
        "encoder": manifest.encoder.model_dump(),
        "metadata": list(manifest.metadata),
        "partitions": len(manifest.partitions),
        "router": manifest.router.get("kind"),
        "backend": manifest.backend.get("kind"),
        "parents": list(manifest.parents),
        "target_recalls": sorted(profile.targets) if profile is not None else [],
        "calibration": calibration or None,
        "cutpoints": cutpoints,
        "thresholds": _thresholds(searcher, [point["distance"] for point in cutpoints]),
        "metrics": {name: value for name, value in metrics.items() if isinstance(value, int | float)},
        "pictures": has_pictures(searcher, root),
    }


def _flat(point: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in point.items() if name != "name"}


def has_pictures(searcher: Searcher, root: Path) -> bool:
    """Whether the examples of the items are there, and are pictures."""
    try:
        return bool(example_sets(root, searcher.manifest))
    except (SimpipeError, OSError):  # a release answers without pictures too
        return False


def _thresholds(searcher: Searcher, keep: Sequence[float]) -> dict[str, list[float | None]] | None:
    """Curves over the distance, thinned; None where nothing was calibrated."""
    if not searcher.manifest.has(_THRESHOLDS):
        return None
    path = searcher.file(_THRESHOLDS)
    names = [name for name in _CURVES if name in pq.read_schema(path).names]
    table = pq.read_table(path, columns=names)
    columns = {name: table.column(name).to_numpy().astype(np.float64) for name in names}
    rows = thinned(columns["distance"], keep, most=MOST_THRESHOLDS)
    return {name: [value if np.isfinite(value) else None for value in values[rows].tolist()] for name, values in columns.items()}


def thinned(distance: np.ndarray, keep: Sequence[float], *, most: int) -> np.ndarray:
    """Which thresholds are kept: at most `most`, by distance, even in rank and in distance, those nearest to `keep` among them.

    Args:
      distance: float64[n]. keep: distances of cutpoints.

    Returns:
      int64[m] rows, by distance.
    """
    order = np.argsort(distance, kind="stable")
    order = order[np.isfinite(distance[order])]
    n = len(order)
    if n <= most:
        return order
    ordered = distance[order]
    wanted = np.array([value for value in keep if value is not None and np.isfinite(value)], np.float64)[: most // 4]
    right = np.clip(np.searchsorted(ordered, wanted), 1, n - 1)
    near = np.where(wanted - ordered[right - 1] <= ordered[right] - wanted, right - 1, right)
    share = (most - len(near)) // 2
    by_rank = np.linspace(0, n - 1, share).round().astype(np.int64)
    by_distance = np.searchsorted(ordered, np.linspace(ordered[0], ordered[-1], share)).clip(max=n - 1)
    return order[np.unique(np.concatenate([by_rank, by_distance, near]))]
