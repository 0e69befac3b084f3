"""Losses of labelled examples, by `kind`. What they compute: docs/losses.md; `simpipe.training.losses` makes them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from simpipe.config.base import Above0, Model, Positive

PairDistance = Literal["cosine", "euclidean", "squared_euclidean"]
Positives = Literal["hard", "easy"]
Negatives = Literal["hard", "semi-hard", "easy"]


class _MinedConfig(Model):
    """A positive and a negative of each anchor, chosen from the batch."""

    distance: PairDistance = "cosine"
    positive_mining: Positives = "hard"
    negative_mining: Negatives = "semi-hard"
    margin: float | None = None


class TripletConfig(_MinedConfig):
    kind: Literal["triplet"]


class PNConfig(_MinedConfig):
    """Triplets whose negative is to be far from the positive too."""

    kind: Literal["pn"]


class MultiSimilarityConfig(Model):
    kind: Literal["multi_similarity"]
    distance: Literal["cosine"] = "cosine"
    alpha: float = 2.0
    beta: float = 40.0
    epsilon: float = 0.1
    lmda: float = 0.5
    center: float = 1.0


class CircleConfig(Model):
    """`formula: paper` weighs with constants, as Sun et al. 2020 do."""

    kind: Literal["circle"]
    distance: Literal["cosine"] = "cosine"
    gamma: Above0 = 80.0
    margin: float = 0.4
    formula: Literal["tf_similarity", "paper"] = "tf_similarity"


class SoftNearestNeighborConfig(Model):
    kind: Literal["soft_nearest_neighbor"]
    distance: PairDistance = "squared_euclidean"
    temperature: Above0 = 1.0


class LiftedStructureConfig(Model):
    kind: Literal["lifted_structure"]
    distance: PairDistance = "cosine"
    positive_mining: Literal["hard", "easy", "all"] = "hard"
    margin: float = 1.0


class SupConConfig(Model):
    kind: Literal["supcon"]
    distance: Literal["cosine"] = "cosine"
    temperature: Above0 = 0.1


class ContrastiveConfig(Model):
    kind: Literal["contrastive"]
    distance: PairDistance = "euclidean"
    margin: float = 1.0
    positive_margin: float = 0.0


class ProxyAnchorConfig(Model):
    """A trainable proxy of each train class; `num_sampled` other classes a step (null: all)."""

    kind: Literal["proxy_anchor"]
    distance: Literal["cosine"] = "cosine"
    margin: float = 0.1
    alpha: Above0 = 32.0
    num_sampled: Positive | None = None


class ArcFaceConfig(Model):
    """As `proxy_anchor`; with `margin: 0` it is the normalised softmax."""

    kind: Literal["arcface"]
    distance: Literal["cosine"] = "cosine"
    margin: float = 0.5
    scale: Above0 = 64.0
    num_sampled: Positive | None = None


PairLossConfig = Annotated[
    TripletConfig
    | PNConfig
    | MultiSimilarityConfig
    | CircleConfig
    | SoftNearestNeighborConfig
    | LiftedStructureConfig
    | SupConConfig
    | ContrastiveConfig,
    Field(discriminator="kind"),
]


class XBMConfig(Model):
    """A pair loss that sees `memory_size` embeddings of earlier batches too, after `warmup_steps`."""

    kind: Literal["xbm"]
    loss: PairLossConfig = MultiSimilarityConfig(kind="multi_similarity")
    memory_size: Positive = 4096
    warmup_steps: Annotated[int, Field(ge=0)] = 1000

    @property
    def distance(self) -> str:
        return self.loss.distance


Loss = Annotated[
    TripletConfig
    | PNConfig
    | MultiSimilarityConfig
    | CircleConfig
    | SoftNearestNeighborConfig
    | LiftedStructureConfig
    | SupConConfig
    | ContrastiveConfig
    | ProxyAnchorConfig
    | ArcFaceConfig
    | XBMConfig,
    Field(discriminator="kind"),
]
