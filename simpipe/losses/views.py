"""What the losses of two views share: unit rows, the global batch, the mean over rows."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any

import keras

from simpipe.errors import ConfigError
from simpipe.losses.gather import gather_replicas
from simpipe.losses.pairs import masked_logsumexp
from simpipe.losses.shares import loss_options, num_replicas, reduce_rows

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong
Tensor = Any
_EPSILON = 1e-12


def unit_rows(x: Tensor) -> Tensor:
    """Rows scaled to length one, float[n, dim]; a zero row stays zero and has gradient zero, not one of 1e6."""
    squares = ops.sum(ops.square(x), axis=-1, keepdims=True)
    return x * ops.where(squares > _EPSILON, ops.rsqrt(ops.maximum(squares, _EPSILON)), ops.zeros_like(squares))


@dataclass(frozen=True)
class Views:
    """Two views of this replica's B examples, and of the M examples of all replicas.

    Attributes:
      a, b: float32[B, dim].
      all_a, all_b: float32[M, dim].
      own: int32[B], the row of each of this replica's examples in `all_a` and `all_b`.
    """

    a: Tensor
    b: Tensor
    all_a: Tensor
    all_b: Tensor
    own: Tensor


def gather_views(a: Tensor, b: Tensor) -> Views:
    """The views of all replicas: one exchange for both.

    Raises:
      ConfigError: the views differ in shape.
    """
    if a.shape[-1] != b.shape[-1]:
        raise ConfigError(f"the two views have {a.shape[-1]} and {b.shape[-1]} dimensions", "give embeddings of one size")
    joined, begin = gather_replicas(ops.stack([a, b], axis=1))
    both = ops.reshape(joined, (-1, 2, a.shape[-1]))  # joined batches of unequal length have lost the size
    all_a, all_b = both[:, 0], both[:, 1]
    return Views(a=a, b=b, all_a=all_a, all_b=all_b, own=ops.arange(ops.shape(a)[0]) + begin)


def other_columns(views: Views) -> Tensor:
    """bool[B, M], where a column is not the row's own example."""
    return ops.not_equal(views.own[:, None], ops.arange(ops.shape(views.all_a)[0])[None, :])


def cross_entropy(target: Tensor, logits: Tensor, others: Tensor) -> Tensor:
    """Cross-entropy of the target against the other logits: `log(exp t + Σ exp x) - t` over the others x.

    Args:
      target: float32[n], t.
      logits: float32[n, m], x.
      others: bool[n, m], the columns to tell it from; not its own.

    Returns:
      float32[n], with a relative error of some 1e-6 also where it is tiny: `softplus(log Σ exp x - t)` never takes
      the small difference of two large numbers.
    """
    return ops.softplus(masked_logsumexp(logits, others) - target)


class ViewLoss(keras.losses.Loss, abc.ABC):
    """A loss `loss(a, b)` between two embeddings of the same examples; row i of `a` belongs to row i of `b`.

    Computed in float32 whatever the dtype of the embeddings. Under `tf.distribute` the rows of all replicas are seen
    where the formula asks for other rows, and the replicas' losses add up to the loss of the global batch.

    Args:
      name: of the loss.
      reduction: "sum_over_batch_size" (also "mean", "auto": the mean over rows), "sum", "mean_with_sample_weight", or
        None for the values of each row.
    """

    def __init__(self, *, name: str, reduction: str | None = "sum_over_batch_size") -> None:
        super().__init__(name=name, **loss_options(reduction))

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Values of this replica's rows.

        Args:
          y_true: float[B, dim], the first view (a tower's or projector's embeddings, not labels).
          y_pred: float[B, dim], the second view.

        Returns:
          float32[B], or float32[] where the loss is one of the whole batch.
        """
        return self.view_values(ops.cast(y_true, "float32"), ops.cast(y_pred, "float32"))

    @abc.abstractmethod
    def view_values(self, a: Tensor, b: Tensor) -> Tensor:
        """float32[B], or the global batch's float32[]."""

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        # Not the parent's: its mean divides by this replica's rows.
        with keras.name_scope(self.name):
            values = self.call(y_true, y_pred)
            if len(values.shape):
                return reduce_rows(values, sample_weight, self.reduction)
            if sample_weight is not None:
                raise ConfigError(f"{self.name} is a loss of the whole batch", "leave sample_weight out")
            return values / num_replicas()
