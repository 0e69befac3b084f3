"""ResNet-18 encoders for small images."""

from __future__ import annotations

from typing import Any

import keras

from simpipe.architectures.heads import check_head, check_input_shape, pool_and_embed
from simpipe.models import SimilarityModel

layers: Any = keras.layers  # Keras is not annotated: inferred types are wrong
STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))  # filters and stride
BLOCKS = 2


def ResNet18Sim(
    input_shape: tuple[int | None, int | None, int],
    embedding_size: int = 128,
    l2_norm: bool = True,
    include_top: bool = True,
    pooling: str | None = "gem",
    gem_p: float = 3.0,
) -> SimilarityModel:
    """An encoder on ResNet-18 (He et al. 2016) with the stem for small images: one 3x3 convolution of stride 1.

    The last map is an eighth of the input's side. All weights are random at first and trained: none are published for
    this form. Batch norms are synchronised across replicas.

    Input: float images [batch, height, width, channels]; meant for values 0 to 1. Nothing is scaled inside: train and
    query with the same range. Output: float32[batch, embedding_size]; see `include_top` and `pooling`.

    Args:
      input_shape: (height, width, channels), sides of at least 8; None for any side.
      embedding_size: length of the embedding.
      l2_norm: embeddings of length one, for cosine distance.
      include_top: False leaves the embedding layer out: the output is the pooled features.
      pooling: "gem", "avg", "max", or without a top None: the output is the last feature map.
      gem_p: power of the generalized mean.

    Raises:
      ConfigError: an argument is unknown, or the images are too small.
    """
    of = "ResNet18Sim"
    check_input_shape(input_shape, least=8, channels=None, of=of)
    check_head(include_top=include_top, pooling=pooling, of=of)
    image = keras.Input(input_shape, name="image")
    x = _convolve(image, STAGES[0][0], 3, name="stem")
    x = layers.ReLU(name="stem_relu")(x)
    for stage, (filters, stride) in enumerate(STAGES):
        for block in range(BLOCKS):
            x = _residual(x, filters, stride=stride if block == 0 else 1, name=f"stage{stage + 1}_block{block + 1}")
    backbone = keras.Model(image, x, name="resnet18")
    inputs = keras.Input(input_shape, name="input")
    outputs = pool_and_embed(
        backbone(inputs),
        embedding_size=embedding_size,
        l2_norm=l2_norm,
        include_top=include_top,
        pooling=pooling,
        gem_p=gem_p,
    )
    return SimilarityModel(inputs, outputs, name="resnet18_sim")


def _residual(x: Any, filters: int, *, stride: int, name: str) -> Any:
    """The basic block of the paper's figure 5 (left), with a projection (option B) where the shape changes."""
    shortcut = x
    if stride != 1 or x.shape[-1] != filters:
        shortcut = _convolve(x, filters, 1, stride=stride, name=f"{name}_shortcut")
    x = layers.ReLU(name=f"{name}_relu1")(_convolve(x, filters, 3, stride=stride, name=f"{name}_conv1"))
    x = _convolve(x, filters, 3, name=f"{name}_conv2")
    return layers.ReLU(name=f"{name}_relu2")(layers.Add(name=f"{name}_add")([x, shortcut]))


def _convolve(x: Any, filters: int, side: int, *, stride: int = 1, name: str) -> Any:
    # The norm follows: a bias would be subtracted again.
    x = layers.Conv2D(filters, side, strides=stride, padding="same", use_bias=False, kernel_initializer="he_normal", name=name)(x)
    return layers.BatchNormalization(synchronized=True, name=f"{name}_norm")(x)
