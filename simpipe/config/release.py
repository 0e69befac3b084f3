"""Configuration of re-indexing, and of the gates before a release goes live."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from simpipe.config.base import Above0, Fraction, Model, Positive

Balance = Annotated[float, Field(gt=1.0, allow_inf_nan=False)]


class ReindexConfig(Model):
    """How a release is brought up to date.

    `encoder`: folder of the encoder that embeds (null: the live release's own; another one re-embeds everything).
    `max_hidden`: share of a partition's rows that may be hidden (deleted or replaced since) before it is rebuilt; 0: it is
    rebuilt at once. `split_above`: a partition with more than so many times the mean rows is split; `merge_below`: one with
    less is merged into its nearest. The router is trained anew, from the vectors in the release, where the largest partition
    still holds more than `retrain_balance` times the mean, or queries ask more than `retrain_probes` times the partitions
    for the target recall that they asked when it was trained.
    """

    encoder: str | None = None
    max_hidden: Annotated[float, Field(ge=0, lt=1)] = 0.02
    split_above: Balance = 1.25
    merge_below: Annotated[float, Field(ge=0, lt=1)] = 0.4
    retrain_balance: Balance = 1.6
    retrain_probes: Balance = 1.5


class Limit(Model):
    """Limits of a value: `min`, `max`, and against the live release `max_drop` and `max_rise`, all absolute. Null: none."""

    min: float | None = None
    max: float | None = None
    max_drop: Annotated[float, Field(ge=0)] | None = None
    max_rise: Annotated[float, Field(ge=0)] | None = None


class CutpointGate(Model):
    """Largest change of a cutpoint's distance against the live release, as a share of the live distance."""

    name: str = "optimal"
    max_change: Annotated[float, Field(ge=0)] = 0.2


class ItemsGate(Model):
    """How many items there are: at least `min`; against the live release at most so large a share less or more."""

    min: Annotated[int, Field(ge=0)] = 1
    max_drop: Fraction | None = 0.4
    max_growth: Annotated[float, Field(ge=0)] | None = None


class DriftGate(Model):
    """Drift of the indexed vectors against the live release, measured on `sample` items of each. Null: no limit.

    `centroid_cosine`: of the two mean vectors, at least. `norm`: change of the mean norm (under cosine of the length of the mean
    vector) as a share, at most. `psi`: population stability index on the live release's main axes, at most.
    """

    sample: Positive = 10_000
    centroid_cosine: Annotated[float, Field(ge=-1, le=1)] | None = None
    norm: Above0 | None = None
    psi: Above0 | None = None


class CanaryGate(Model):
    """Queries with expected answers, one JSON object a line; at least `min_share` of them must be answered as expected."""

    path: str
    min_share: Fraction = 1.0


class GatesConfig(Model):
    """What a release must hold before it goes live. `metrics` are those of `metrics.json`, by name."""

    files: bool = True
    encoder: Literal["any", "same"] = "any"
    ann_recall: Limit = Limit(max_drop=0.1)
    metrics: dict[str, Limit] = Field(default={})
    cutpoints: tuple[CutpointGate, ...] = ()
    items: ItemsGate = ItemsGate()
    rejected: Fraction | None = None
    drift: DriftGate = DriftGate()
    canaries: CanaryGate | None = None
