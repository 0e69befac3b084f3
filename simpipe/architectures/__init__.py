"""Encoder architectures by name."""

from __future__ import annotations

from simpipe.architectures.conv4 import conv4
from simpipe.architectures.efficientnet import EfficientNetSim
from simpipe.architectures.mlp import mlp
from simpipe.architectures.resnet8 import resnet8
from simpipe.architectures.resnet18 import ResNet18Sim
from simpipe.architectures.resnet50 import ResNet50Sim
from simpipe.config.models import EncoderConfig
from simpipe.data.examples import InputSpec
from simpipe.errors import ConfigError
from simpipe.models import SimilarityModel

_FIELD = "train.encoder.architecture"


def build_encoder(spec: InputSpec, config: EncoderConfig, *, seed: int) -> SimilarityModel:
    """A new encoder: raw example in, unit vector out.

    Args:
      spec: the input; uint8 or float32 images [height, width, channels] or float32 vectors [features].
      config: architecture, width and length of the embedding.
      seed: of the initial weights; the same seed gives the same weights.

    Returns:
      A model from `spec.dtype` [batch, *spec.shape] to float32 [batch, config.dim].

    Raises:
      ConfigError: the architecture does not take such an input.
    """
    rank, builder, wanted = {
        "conv4": (3, conv4, "images"),
        "resnet8": (3, resnet8, "images"),
        "mlp": (1, mlp, "vectors"),
    }[config.architecture]
    if len(spec.shape) != rank:
        other = {3: "conv4", 1: "mlp"}.get(len(spec.shape))
        cure = f"set {_FIELD}: {other}" if other else "give images of shape [height, width, channels] or plain vectors"
        raise ConfigError(
            f"{_FIELD}: {config.architecture} takes {wanted}; input {spec.name!r} has shape {list(spec.shape)}", cure
        )
    return builder(spec, config, seed=seed)


__all__ = ["EfficientNetSim", "ResNet18Sim", "ResNet50Sim", "build_encoder", "conv4", "mlp", "resnet8"]
