"""The loss that a configuration names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simpipe.config import losses as config
from simpipe.losses import (
    XBM,
    ArcFaceLoss,
    CircleLoss,
    ContrastiveLoss,
    LiftedStructLoss,
    MultiSimilarityLoss,
    PNLoss,
    ProxyAnchorLoss,
    SoftNearestNeighborLoss,
    SupConLoss,
    TripletLoss,
)

# (configuration, number of classes, seed) -> loss
MAKERS: dict[str, Callable[[Any, int, int], Any]] = {
    "triplet": lambda c, *_: TripletLoss(c.distance, c.positive_mining, c.negative_mining, c.margin),
    "pn": lambda c, *_: PNLoss(c.distance, c.positive_mining, c.negative_mining, c.margin),
    "multi_similarity": lambda c, *_: MultiSimilarityLoss(c.distance, c.alpha, c.beta, c.epsilon, c.lmda, c.center),
    "circle": lambda c, *_: CircleLoss(c.distance, c.gamma, c.margin, formula=c.formula),
    "soft_nearest_neighbor": lambda c, *_: SoftNearestNeighborLoss(c.distance, c.temperature),
    "lifted_structure": lambda c, *_: LiftedStructLoss(c.distance, c.positive_mining, c.margin),
    "supcon": lambda c, *_: SupConLoss(c.temperature, c.distance),
    "contrastive": lambda c, *_: ContrastiveLoss(c.margin, c.positive_margin, c.distance),
    "proxy_anchor": lambda c, classes, seed: ProxyAnchorLoss(
        classes, c.margin, c.alpha, num_sampled=_sampled(c, classes), seed=seed
    ),
    "arcface": lambda c, classes, seed: ArcFaceLoss(classes, c.margin, c.scale, num_sampled=_sampled(c, classes), seed=seed),
    "xbm": lambda c, classes, seed: XBM(make_loss(c.loss, num_classes=classes, seed=seed), c.memory_size, c.warmup_steps),
}


def make_loss(settings: config.Loss | config.PairLossConfig, *, num_classes: int, seed: int) -> Any:
    """A Keras loss of (labels, embeddings).

    Args:
      settings: which loss.
      num_classes: labels are 0 to num_classes - 1; for losses with proxies.
      seed: of proxies.
    """
    return MAKERS[settings.kind](settings, num_classes, seed)


def _sampled(settings: Any, num_classes: int) -> int | None:
    few = settings.num_sampled is not None and settings.num_sampled < num_classes
    return settings.num_sampled if few else None
