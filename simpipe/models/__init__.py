"""Keras models."""

from simpipe.models.saving import load_model
from simpipe.models.similarity_model import SimilarityModel

__all__ = ["SimilarityModel", "load_model"]
