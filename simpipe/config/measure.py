"""Configuration of what is measured on a release: calibration, evaluation, near duplicates."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from simpipe.config.base import Above0, Fraction, Model, Positive
from simpipe.config.index import RejectLimit

Matcher = Literal["match_nearest", "match_majority_vote"]
ClassificationMetric = Literal[
    "f1", "f1_all", "precision", "recall", "recall_all", "binary_accuracy", "fpr", "npv", "open_set_fpr"
]
_FLOORS = ("fpr", "open_set_fpr")  # the smaller the better: a target is a ceiling
_TARGET = re.compile(r"^\s*([a-z0-9_]+)\s*(>=|<=)\s*([0-9.eE+-]+)\s*$")


class MatcherConfig(Model):
    """A matcher and how many neighbors it looks at."""

    matcher: Matcher = "match_nearest"
    k: Positive = 1


class CalibrateConfig(Model):
    """Cutpoint `optimal` maximises `metric`; `optimal` lists further metrics, each gives `optimal_METRIC`.

    `targets`: one cutpoint for each wanted value, as a list (`precision>=0.99`, `fpr<=0.01`) or by metric. `matchers` are
    calibrated beside the first one, in the same pass. `queries`: the held-out ones, or the indexed items themselves, each
    without its own entry; about `max_queries` of them, drawn by the hash of the id. `by`: cutpoints of each value as well:
    `label` (of the match) or a metadata column (of the query); values with fewer than `by_min_queries` have none.
    `probability`: how distances become probabilities. `max_distinct`: counts are exact up to so many distinct distances,
    beyond that thresholds are rounded up as stated in `cutpoints.json`. `bootstrap`: replicates for intervals of
    `confidence`; 0: none.
    """

    k: Positive = 1
    matcher: Matcher = "match_nearest"
    metric: ClassificationMetric = "f1"
    optimal: tuple[ClassificationMetric, ...] = ()
    targets: dict[ClassificationMetric, tuple[Fraction, ...]] = Field(default={"precision": (0.99,), "recall": (0.95,)})
    matchers: tuple[MatcherConfig, ...] = ()
    queries: Literal["held_out", "items"] = "held_out"
    max_queries: Positive | None = None
    by: str | None = None
    by_min_queries: Positive = 50
    probability: Literal["isotonic", "logistic", "none"] = "isotonic"
    max_distinct: Annotated[int, Field(ge=1024)] = 1 << 22
    bootstrap: Annotated[int, Field(ge=0, le=10_000)] = 200
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    rejects: RejectLimit = RejectLimit()

    @field_validator("targets", mode="before")
    @classmethod
    def _targets(cls, value: Any) -> Any:
        """`["precision>=0.99"]` as `{"precision": (0.99,)}`."""
        if not isinstance(value, list | tuple):
            return value
        found: dict[str, tuple[float, ...]] = {}
        for text in value:
            parts = _TARGET.match(str(text))
            if parts is None:
                raise ValueError(f"{text!r} is no target: write such as `precision>=0.99` or `fpr<=0.01`")
            metric, sign, wanted = parts.groups()
            right = "<=" if metric in _FLOORS else ">="
            if sign != right:
                raise ValueError(f"{text!r}: a target of {metric} is written `{metric}{right}{wanted}`")
            found[metric] = (*found.get(metric, ()), float(wanted))
        return found

    @property
    def depth(self) -> int:
        """Neighbors that are searched, so that all matchers see enough."""
        return max(self.k, *(each.k for each in self.matchers)) if self.matchers else self.k


class OneShotConfig(Model):
    """Few-shot protocol: within each group of classes, one support and one query drawing a class."""

    groups: dict[str, tuple[str, ...]]
    ways: Annotated[int, Field(ge=2)] = 20
    runs: Positive = 400


class EvaluateConfig(Model):
    """Depths of ANN recall, precision, MAP and NDCG (`k`) and of label recall (`recall_at`).

    `queries`, `max_queries`: as of calibration. About `exact_queries` of them (null: all), drawn by the hash of the id, are also
    searched exactly, for ANN recall.
    `map_at_r`: a search of its own, as deep as the largest class, at most `max_r`. `slices`: metadata columns whose values
    get metrics of their own. `worst`: classes that are listed. `latency_queries`: asked one by one, for latency; 0: none.
    """

    k: Positive = 10
    recall_at: tuple[Positive, ...] = (1, 5, 10)
    queries: Literal["held_out", "items"] = "held_out"
    max_queries: Positive | None = None
    exact_queries: Positive | None = 10_000
    map_at_r: bool = True
    max_r: Positive = 100
    slices: tuple[str, ...] = ()
    worst: Annotated[int, Field(ge=0)] = 20
    latency_queries: Annotated[int, Field(ge=0)] = 200
    one_shot: OneShotConfig | None = None
    rejects: RejectLimit = RejectLimit()


class DedupeConfig(Model):
    """Pairs of items within a distance, given as such or as the name of a cutpoint, make groups of near duplicates.

    `k`: neighbors of each item that are looked at.
    """

    k: Positive = 10
    distance: Above0 | None = None
    cutpoint: str | None = None
    rejects: RejectLimit = RejectLimit()

    @model_validator(mode="after")
    def _one(self) -> DedupeConfig:
        if self.distance is not None and self.cutpoint is not None:
            raise ValueError("give `distance` or `cutpoint`, not both")
        return self
