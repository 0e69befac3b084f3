"""Proxy-anchor loss."""

from __future__ import annotations

from typing import Any

import keras

from simpipe.errors import ConfigError
from simpipe.losses.gather import gather_together
from simpipe.losses.pairs import masked_logsumexp
from simpipe.losses.proxies import ProxyLoss
from simpipe.losses.views import unit_rows

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong
Tensor = Any


@keras.saving.register_keras_serializable(package="simpipe")
class ProxyAnchorLoss(ProxyLoss):
    """Kim et al. 2020, "Proxy Anchor Loss for Deep Metric Learning", equation 4: each proxy pulls and pushes the batch.

    With s the cosine of embedding and proxy, P all proxies and P+ those whose class is in the global batch:
    `Σ_{p∈P+} log(1 + Σ_{x of class p} exp(-alpha (s - margin))) / |P+|` plus
    `Σ_{p∈P} log(1 + Σ_{x of others} exp(alpha (s + margin))) / |P|`, one value of the whole batch. Under several
    replicas each computes a part of the proxies against the global batch.

    Args:
      num_classes: labels are 0 to num_classes - 1.
      margin: the paper's delta.
      alpha: the paper's scale.
      num_sampled: see `ProxyLoss`; |P| is then the number of classes looked at.
      seed: see `ProxyLoss`.
      name: of the loss.
      reduction: has no effect, the loss is one value; it is there because every Keras loss has it.

    Raises:
      ConfigError: a number is out of range.
    """

    def __init__(
        self,
        num_classes: int,
        margin: float = 0.1,
        alpha: float = 32,
        *,
        num_sampled: int | None = None,
        seed: int = 0,
        name: str = "proxy_anchor_loss",
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(num_classes=num_classes, num_sampled=num_sampled, seed=seed, name=name, reduction=reduction)
        self.margin, self.alpha = margin, alpha

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """This replica's share of the loss.

        Args:
          y_true: int[B] or int[B, 1], labels.
          y_pred: float[B, dim], embeddings.

        Returns:
          float32[].
        """
        own_embeddings = unit_rows(ops.cast(y_pred, "float32"))
        (labels, embeddings), _ = gather_together(self.class_labels(y_true), own_embeddings)
        classes = self.classes(labels)
        looked_at = ops.sum(ops.cast(classes[2], "float32"))
        in_batch = ops.sum(ops.cast(self.present(labels), "float32"))
        numbers, proxies, meant = self.own_part(classes)
        s = ops.matmul(proxies, ops.transpose(embeddings))
        own = ops.equal(numbers[:, None], labels[None, :])
        # A proxy without an example of its class has an empty sum: log 1 = 0.
        pull = _log1p_sum_exp(-self.alpha * (s - self.margin), own)
        push = _log1p_sum_exp(self.alpha * (s + self.margin), ops.logical_not(own))
        meant = ops.cast(meant, "float32")
        value = ops.sum(pull * meant) / in_batch + ops.sum(push * meant) / looked_at
        return self.nan_unless_known(value, labels)

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        if sample_weight is not None:
            raise ConfigError(f"{self.name} is a loss of the whole batch", "leave sample_weight out")
        with keras.name_scope(self.name):
            return self.call(y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "margin": self.margin, "alpha": self.alpha}


def _log1p_sum_exp(x: Tensor, mask: Tensor) -> Tensor:
    """`log(1 + Σ exp x)` over the row's masked values: float32[n, m] -> float32[n]."""
    return ops.softplus(masked_logsumexp(x, mask))
