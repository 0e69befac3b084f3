"""The search profile: what each way to ask costs and finds, measured on sampled queries when the release is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simpipe import files
from simpipe.errors import QueryError, ReleaseError
from simpipe.index.measure import PartitionMeasure, Probe
from simpipe.index.merge import TopK, merge_topk
from simpipe.index.setting import SearchSetting

PROFILE_JSON = "profile.json"
FORMAT_VERSION = 1
_GRID = (0.5, 0.7, 0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995, 0.998, 1.0)


@dataclass(frozen=True)
class ProfilePoint:
    """One way to ask.

    Attributes:
      recall: measured recall@k. low: one standard error less; what may be promised.
      probes: partitions asked, mean a query. microseconds: CPU time a query.
      setting: how to ask so.
    """

    recall: float
    low: float
    probes: float
    microseconds: float
    setting: SearchSetting

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "setting": self.setting.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ProfilePoint:
        return cls(**{**data, "setting": SearchSetting.from_json(data["setting"])})


@dataclass(frozen=True)
class Profile:
    """Measured ways to ask, dearest last; none is both dearer and worse than another.

    Attributes:
      k: neighbors a query. queries: how many were measured. source: `queries` (held out) or `items`.
      targets: for each target recall the cheapest way to promise it; a target that none reaches is missing.
      curve: all of them.
    """

    k: int
    queries: int
    source: str
    targets: Mapping[float, ProfilePoint]
    curve: tuple[ProfilePoint, ...]

    def point_for(self, target: float) -> ProfilePoint:
        """The cheapest way whose recall may be promised.

        Raises:
          QueryError: none reaches the target; names the best.
        """
        for point in self.curve:
            if point.low >= target or (point.recall >= 1.0 and target < 1.0):
                return point
        best = self.best
        raise QueryError(
            f"target recall {target:g}: the release reaches {best.recall:.4f} at most "
            f"(recall@{self.k} on {self.queries} queries)",
            "ask for less, use exact=True, or build with a larger `reorder`, `leaves` or `m`",
        )

    def setting_for(self, target: float) -> SearchSetting:
        """How to ask for a target recall; errors as `point_for`."""
        return self.point_for(target).setting

    @property
    def best(self) -> ProfilePoint:
        return max(self.curve, key=lambda point: point.recall)

    def save(self, path: Path) -> None:
        files.write_json(
            path,
            {
                "format_version": FORMAT_VERSION,
                "k": self.k,
                "queries": self.queries,
                "source": self.source,
                "targets": {f"{target:g}": point.to_json() for target, point in self.targets.items()},
                "curve": [point.to_json() for point in self.curve],
            },
        )

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Raises ReleaseError where the file is no profile of this version."""
        data = files.read_json(path)
        try:
            if data["format_version"] != FORMAT_VERSION:
                found = data["format_version"]
                raise ReleaseError(f"{path}: format version {found}, this simpipe reads {FORMAT_VERSION}", "build again")
            targets = {float(name): ProfilePoint.from_json(point) for name, point in data["targets"].items()}
            curve = tuple(ProfilePoint.from_json(point) for point in data["curve"])
            return cls(data["k"], data["queries"], data["source"], targets, curve)
        except (KeyError, TypeError, ValueError) as error:
            raise ReleaseError(f"{path}: not a search profile ({error!r})", "restore the file, or build again") from None


def make_profile(measures: Sequence[PartitionMeasure], probe: Probe, *, targets: Sequence[float]) -> Profile | None:
    """Puts the partitions' measures together.

    A true neighbor is found under (margin, setting) if a partition within the margin holds it and finds it. So each has, for each
    setting, the least margin that finds it, and the recall of all margins is the distribution of these. The same with
    ranks of partitions gives the recall of each number of probes.

    Args:
      measures: of all partitions, in order. probe: what they were asked. targets: recalls to list.

    Returns:
      None where no query has a neighbor.
    """
    nearness, truth = probe.nearness, _Truth.of(measures, probe.k)
    if not truth.there.any():
        return None
    orders = {"margin": nearness}
    if nearness.any():  # else all partitions are equally near: all are asked
        orders["probes"] = np.argsort(np.argsort(nearness, axis=1, kind="stable"), axis=1).astype(np.float32) + 1
    points: list[ProfilePoint] = []
    for row, backend in enumerate(probe.settings):
        cost = np.array([measure.cost[row] for measure in measures])
        for rule, order in orders.items():
            least = truth.least(measures, order, row)
            points += _points(rule, order, least, truth.there, cost, backend, probe.routing)
    curve = _front(points)
    named = {target: point for target in targets if (point := _cheapest(curve, target)) is not None}
    return Profile(probe.k, len(nearness), probe.source, named, curve)


def _cheapest(curve: Sequence[ProfilePoint], target: float) -> ProfilePoint | None:
    return next((point for point in curve if point.low >= target), None)


@dataclass(frozen=True)
class _Truth:
    """The exact neighbors over all partitions: `tie` uint64[q, k] and `there` bool[q, k]."""

    tie: np.ndarray
    there: np.ndarray

    @classmethod
    def of(cls, measures: Sequence[PartitionMeasure], k: int) -> _Truth:
        # Where an item lies is of no interest here, only whether there is one: its hash tells copies of it.
        parts = [TopK(each.distances, each.tie, np.where(np.isfinite(each.distances), 0, -1)) for each in measures]
        top = merge_topk(parts, k)
        return cls(top.tie, np.isfinite(top.distances))

    def least(self, measures: Sequence[PartitionMeasure], order: np.ndarray, row: int) -> np.ndarray:
        """float32[q, k]: the least `order` (nearness or rank) of a partition that finds each neighbor with setting `row`."""
        least = np.full(self.tie.shape, np.inf, np.float32)
        for number, measure in enumerate(measures):
            asked = measure.asked
            same = self.tie[asked][:, :, None] == measure.tie[asked][:, None, :]
            found = (same & measure.found[row][:, None, :]).any(axis=2)
            reached = np.where(found, order[asked, number][:, None], np.float32(np.inf))
            least[asked] = np.minimum(least[asked], reached)
        return least


def _points(
    rule: str,
    order: np.ndarray,
    least: np.ndarray,
    there: np.ndarray,
    cost: np.ndarray,
    backend: Mapping[str, int],
    routing_seconds: float,
) -> list[ProfilePoint]:
    values = np.sort(least[there])
    most = float(np.isfinite(values).mean())
    limits = {float(values[max(0, min(len(values) - 1, int(np.ceil(share * most * len(values))) - 1))]) for share in _GRID}
    points = []
    for limit in sorted(value for value in limits if np.isfinite(value)):
        if rule == "margin":
            limit = float(np.float32(limit * 1.0001 + 1e-6))  # so that rounding does not leave out the last one
        asked = order <= limit
        hits = ((least <= limit) & there).sum(axis=1)
        recall = hits / np.maximum(there.sum(axis=1), 1)
        recall = recall[there.any(axis=1)]
        mean = float(recall.mean())
        error = float(recall.std() / np.sqrt(len(recall)))
        seconds = routing_seconds + float((asked.sum(axis=0) * cost).sum()) / len(order)
        setting = SearchSetting(
            probes=int(limit) if rule == "probes" else None, margin=limit if rule == "margin" else None, backend=dict(backend)
        )
        low = mean - error if mean < 1.0 else 1.0
        points.append(ProfilePoint(mean, low, float(asked.sum() / len(order)), seconds * 1e6, setting))
    return points


def _front(points: list[ProfilePoint]) -> tuple[ProfilePoint, ...]:
    """Cheapest first, each better than all before it."""
    front: list[ProfilePoint] = []
    for point in sorted(points, key=lambda point: (point.microseconds, -point.recall)):
        if not front or point.low > front[-1].low:
            front.append(point)
    return tuple(front)
