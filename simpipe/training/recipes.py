"""The model that a recipe trains: the encoder itself, or the encoder under a projector that sees two views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from simpipe.architectures import build_encoder
from simpipe.config import Config
from simpipe.config.models import SamplerConfig, TrainConfig
from simpipe.data.examples import InputSpec
from simpipe.losses import Barlow, SimCLRLoss, SimSiamLoss, VicReg
from simpipe.models import ContrastiveModel
from simpipe.models.projector import get_predictor, get_projector
from simpipe.training.losses import make_loss

# Losses of two views, by the recipe's kind; the kinds are ContrastiveModel's algorithms.
VIEW_LOSSES: dict[str, Callable[[Any], Any]] = {
    "simclr": lambda recipe: SimCLRLoss(recipe.temperature),
    "vicreg": lambda recipe: VicReg(lambda_=recipe.invariance, mu=recipe.variance, nu=recipe.covariance),
    "barlow": lambda recipe: Barlow(recipe.redundancy),
    "simsiam": lambda recipe: SimSiamLoss(),
}


@dataclass(frozen=True)
class Learner:
    """`model` is trained by `loss`; `encoder` is the part of it that is saved, raw example in, unit vector out."""

    model: Any
    encoder: Any
    loss: Any


def make_learner(config: Config, spec: InputSpec, *, num_classes: int) -> Learner:
    """A new model; see `Learner`."""
    settings = config.train
    encoder = build_encoder(spec, settings.encoder, seed=config.seed)
    recipe = settings.recipe
    if recipe.kind == "supervised":
        return Learner(encoder, encoder, make_loss(settings.loss, num_classes=num_classes, seed=config.seed))
    dim = recipe.projector_dim
    projector = get_projector(settings.encoder.dim, dim=dim, num_layers=recipe.projector_layers)
    predictor = get_predictor(dim, hidden_dim=recipe.predictor_dim) if recipe.kind == "simsiam" else None
    model = ContrastiveModel(encoder, projector, predictor, recipe.kind)
    return Learner(model, encoder, VIEW_LOSSES[recipe.kind](recipe))


def sampler_of(settings: TrainConfig) -> SamplerConfig:
    """The sampler's configuration: without labels, a batch of the same size is drawn from all examples as one class."""
    sampler = settings.sampler
    if settings.recipe.kind == "supervised":
        return sampler
    size = sampler.classes_per_batch * sampler.examples_per_class
    return sampler.model_copy(update={"ignore_labels": True, "classes_per_batch": 1, "examples_per_class": size})
