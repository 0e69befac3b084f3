"""ResNet-50 encoders."""

from __future__ import annotations

from typing import Any

import keras

from simpipe.architectures.heads import check_head, check_input_shape, pool_and_embed
from simpipe.architectures.pretrained import Weights, pretrained_backbone
from simpipe.models import SimilarityModel

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong
_MEAN_BGR = (103.939, 116.779, 123.68)  # of ImageNet's channels, as subtracted when the weights were trained


@keras.saving.register_keras_serializable(package="simpipe")
class ImageNetCentering(keras.layers.Layer):
    """RGB images 0 to 255 -> BGR less ImageNet's mean, what the published ResNet weights expect: the same shape."""

    def call(self, inputs: Any) -> Any:
        centred = ops.flip(ops.cast(inputs, "float32"), axis=-1) - ops.convert_to_tensor(_MEAN_BGR, "float32")
        return ops.cast(centred, self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape


def ResNet50Sim(
    input_shape: tuple[int | None, int | None, int],
    embedding_size: int = 128,
    weights: Weights = "imagenet",
    trainable: str = "frozen",
    l2_norm: bool = True,
    include_top: bool = True,
    pooling: str | None = "gem",
    gem_p: float = 3.0,
) -> SimilarityModel:
    """An encoder on ResNet-50 (He et al. 2016, "Deep Residual Learning for Image Recognition").

    Input: RGB images [batch, height, width, 3] with values 0 to 255 (float or uint8); the model centres them itself.
    The published weights were trained at sides of 224.
    Output: float32[batch, embedding_size]; see `include_top` and `pooling`.

    Args:
      input_shape: (height, width, 3), sides of at least 32; None for any side.
      embedding_size: length of the embedding.
      weights: "imagenet" (downloaded by Keras, or from its cache), the path of a weights file without the classifier,
        or None for random values.
      trainable: "frozen" (only the embedding learns), "partial" (also the last stage, conv5) or "full". Batch norms
        stay frozen where weights are loaded.
      l2_norm: embeddings of length one, for cosine distance.
      include_top: False leaves the embedding layer out: the output is the pooled features.
      pooling: "gem", "avg", "max", or without a top None: the output is the last feature map.
      gem_p: power of the generalized mean.

    Raises:
      ConfigError: an argument is unknown, or the weights file is missing or does not fit.
      SourceError: the ImageNet weights can be neither downloaded nor found in the cache.
    """
    of = "ResNet50Sim"
    check_input_shape(input_shape, least=32, channels=3, of=of)
    check_head(include_top=include_top, pooling=pooling, of=of)
    backbone = pretrained_backbone(
        keras.applications.ResNet50, input_shape, weights=weights, trainable=trainable, partial="conv5", of=of
    )
    inputs = keras.Input(input_shape, name="input")
    outputs = pool_and_embed(
        backbone(ImageNetCentering(name="centering")(inputs)),
        embedding_size=embedding_size,
        l2_norm=l2_norm,
        include_top=include_top,
        pooling=pooling,
        gem_p=gem_p,
    )
    return SimilarityModel(inputs, outputs, name="resnet50_sim")
