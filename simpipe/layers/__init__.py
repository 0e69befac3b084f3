"""Keras layers of encoders."""

from simpipe.layers.activation_std import ActivationStdLoggingLayer
from simpipe.layers.affine_views import AffineViews, MeanOfViews
from simpipe.layers.metric_embedding import MetricEmbedding
from simpipe.layers.pooling import GeneralizedMeanPooling1D, GeneralizedMeanPooling2D

__all__ = [
    "ActivationStdLoggingLayer",
    "AffineViews",
    "GeneralizedMeanPooling1D",
    "GeneralizedMeanPooling2D",
    "MeanOfViews",
    "MetricEmbedding",
]
