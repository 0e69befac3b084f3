"""Keras layers of encoders."""

from simpipe.layers.activation_std import ActivationStdLoggingLayer
from simpipe.layers.metric_embedding import MetricEmbedding
from simpipe.layers.pooling import GeneralizedMeanPooling1D, GeneralizedMeanPooling2D

__all__ = ["ActivationStdLoggingLayer", "GeneralizedMeanPooling1D", "GeneralizedMeanPooling2D", "MetricEmbedding"]
