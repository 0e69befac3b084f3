"""Keras models."""

from simpipe.models.contrastive import ContrastiveModel, create_contrastive_model
from simpipe.models.projector import get_predictor, get_projector
from simpipe.models.saving import load_model
from simpipe.models.similarity_model import SimilarityModel

__all__ = [
    "ContrastiveModel",
    "SimilarityModel",
    "create_contrastive_model",
    "get_predictor",
    "get_projector",
    "load_model",
]
