"""How an index is asked: which partitions, and how hard each one searches. What a search profile holds for each target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class SearchSetting:
    """One way to ask.

    Attributes:
      probes: partitions a query at most, nearest first; None: no limit.
      margin: only partitions whose nearest centroid is at most this much farther (squared euclidean distance) than the
        nearest of all; None: no limit.
      backend: settings of the backend for this search, such as `{"ef": 80}`; empty: the index's own.
    """

    probes: int | None = None
    margin: float | None = None
    backend: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"probes": self.probes, "margin": self.margin, "backend": dict(self.backend)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SearchSetting:
        return cls(data.get("probes"), data.get("margin"), {name: int(value) for name, value in data.get("backend", {}).items()})


ALL = SearchSetting()
