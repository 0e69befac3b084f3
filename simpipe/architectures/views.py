"""An encoder that looks at each image several times."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from simpipe.augmenters.affine import affine_matrices
from simpipe.config.models import AugmentConfig
from simpipe.layers.affine_views import AffineViews, MeanOfViews
from simpipe.models import SimilarityModel

_STREAM = 0x71E3  # apart from the draws of training


def with_views(encoder: Any, augment: AugmentConfig, *, views: int, seed: int) -> SimilarityModel:
    """`encoder`, whose embedding is the mean over the image and `views` fixed affine changes of it, of length one.

    The changes are drawn once, within the bounds that training changed images by. Each costs as much as the image itself.

    Args:
      encoder: trained; its weights are shared with the result.
      augment: bounds of the changes.
      views: how many changes.
      seed: of their draw.
    """
    inputs = keras.Input(encoder.input_shape[1:], dtype=encoder.input.dtype, name="input")
    shape = tf.constant([views, *encoder.input_shape[1:]], tf.int32)
    matrices = affine_matrices(shape, augment, tf.constant([seed + _STREAM, 0], tf.int64)).numpy().tolist()
    embeddings = encoder(AffineViews(matrices, name="views")(inputs))
    return SimilarityModel(inputs, MeanOfViews(1 + views, name="mean_of_views")(embeddings), name="encoder_with_views")
