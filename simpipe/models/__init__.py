"""Keras models."""

from simpipe.models.similarity_model import SimilarityModel

__all__ = ["SimilarityModel"]
