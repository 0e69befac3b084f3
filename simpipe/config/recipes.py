"""How an encoder is trained: with labels, or from two views of each example; and when training stops."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from simpipe.config.base import Above0, Model, Positive


class SupervisedRecipe(Model):
    """`train.loss` of labelled examples."""

    kind: Literal["supervised"]


class ViewsRecipe(Model):
    """Two views of each example and no labels; a projector on the encoder, which only training uses.

    `views`: `affine` draws two changes by `train.augment`; `simclr` crops and resizes by 8 to 100 % of the area, flips
    with `flip`, and changes the colours by `jitter` (0: not at all).
    """

    views: Literal["affine", "simclr"] = "affine"
    flip: bool = True
    jitter: Annotated[float, Field(ge=0, le=2.5)] = 1.0
    projector_dim: Positive = 256
    projector_layers: Positive = 2


class SimCLRRecipe(ViewsRecipe):
    kind: Literal["simclr"]
    temperature: Above0 = 0.1


class VicRegRecipe(ViewsRecipe):
    kind: Literal["vicreg"]
    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0


class BarlowRecipe(ViewsRecipe):
    kind: Literal["barlow"]
    redundancy: float = 5e-3


class SimSiamRecipe(ViewsRecipe):
    kind: Literal["simsiam"]
    predictor_dim: Positive = 64


def _kind_of(value: Any) -> Any:
    """`recipe: simclr` is short for `recipe: {kind: simclr}`."""
    return {"kind": value} if isinstance(value, str) else value


Recipe = Annotated[
    Annotated[SupervisedRecipe | SimCLRRecipe | VicRegRecipe | BarlowRecipe | SimSiamRecipe, Field(discriminator="kind")],
    BeforeValidator(_kind_of),
]


class EarlyStopping(Model):
    """Measures the encoder on train classes that it does not learn from, and keeps its best weights.

    `held_out`: a share of the train classes (at least two are chosen by `seed`), or their names or ranges of names.
    After each `every` epochs up to `at_most` examples of each are compared, all with all. Training stops once
    `patience` measurements in a row were no better than the best (null: never).
    """

    metric: Literal["recall_at_1", "recall_at_5", "r_precision", "map_at_r"] = "recall_at_1"
    held_out: Annotated[float, Field(gt=0, lt=1)] | tuple[str, ...] = 0.1
    every: Positive = 1
    patience: Positive | None = 5
    at_most: Annotated[int, Field(ge=2)] = 20
