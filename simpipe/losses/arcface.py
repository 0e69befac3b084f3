"""ArcFace: softmax over proxies with an angular margin."""

from __future__ import annotations

import math
from typing import Any

import keras

from simpipe.losses.gather import gather_replicas
from simpipe.losses.proxies import ProxyLoss
from simpipe.losses.shares import reduce_rows
from simpipe.losses.views import cross_entropy, unit_rows

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong
Tensor = Any


@keras.saving.register_keras_serializable(package="simpipe")
class ArcFaceLoss(ProxyLoss):
    """Deng et al. 2019, "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", equation 3.

    The cross-entropy of each example over `scale cos θ_j` of its angles to all proxies, with `scale cos(θ_y + margin)` for
    its own. Beyond `θ_y = π - margin`, where that cosine would rise again, it goes on as `cos θ_y - margin sin margin`, as
    in the authors' code.

    Args:
      num_classes: labels are 0 to num_classes - 1.
      margin: angle in radians, from 0 up to π.
      scale: length of the sphere.
      num_sampled: see `ProxyLoss`; the cross-entropy is then over the classes looked at.
      seed: see `ProxyLoss`.
      name: of the loss.
      reduction: "sum_over_batch_size" (the mean over examples), "sum", or None for the values of each example.

    Raises:
      ConfigError: a number is out of range.
    """

    def __init__(
        self,
        num_classes: int,
        margin: float = 0.5,
        scale: float = 64,
        *,
        num_sampled: int | None = None,
        seed: int = 0,
        name: str = "arcface_loss",
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(num_classes=num_classes, num_sampled=num_sampled, seed=seed, name=name, reduction=reduction)
        self.margin, self.scale = margin, scale

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Values of this replica's examples.

        Args:
          y_true: int[B] or int[B, 1], labels.
          y_pred: float[B, dim], embeddings.

        Returns:
          float32[B].
        """
        labels = self.class_labels(y_true)
        all_labels = labels if self.num_sampled is None else gather_replicas(labels)[0]
        numbers, proxies, meant = self.classes(all_labels)
        cosines = ops.matmul(unit_rows(ops.cast(y_pred, "float32")), ops.transpose(proxies))
        own = ops.equal(labels[:, None], numbers[None, :])
        own_cosine = ops.sum(ops.where(own, cosines, 0.0), axis=1)
        others = ops.logical_and(ops.logical_not(own), meant[None, :])
        values = cross_entropy(self.scale * self._with_margin(own_cosine), self.scale * cosines, others)
        return self.nan_unless_known(values, labels)

    def _with_margin(self, cosine: Tensor) -> Tensor:
        """cos(θ + margin) of cos θ: float32[B]."""
        sine = ops.sqrt(ops.maximum(1.0 - ops.square(cosine), 1e-12))  # the floor keeps the gradient finite
        turned = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        beyond = cosine - self.margin * math.sin(self.margin)
        return ops.where(cosine > math.cos(math.pi - self.margin), turned, beyond)

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        with keras.name_scope(self.name):
            return reduce_rows(self.call(y_true, y_pred), sample_weight, self.reduction)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "margin": self.margin, "scale": self.scale}
