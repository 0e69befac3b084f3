"""Losses of rows become this replica's share of the loss of the global batch.

Keras adds up the replicas' losses and gradients and scales nothing in a loss with its own `__call__`: so each replica
returns a share, and the shares add up to what one replica would return for the whole batch.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from simpipe.losses.gather import sum_replicas

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong
Tensor = Any


def loss_options(reduction: str | None) -> dict[str, Any]:
    """`reduction` and `dtype` of a Keras loss that computes in float32; "auto" is what Keras 2 called the mean."""
    return {"reduction": "sum_over_batch_size" if reduction == "auto" else reduction, "dtype": "float32"}


def num_replicas() -> int:
    """Replicas that train together; 1 outside a replica context, where nothing is summed."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def reduce_rows(values: Tensor, sample_weight: Tensor | None, reduction: str | None) -> Tensor:
    """This replica's share of the mean (or the sum) over the rows of all replicas.

    Args:
      values: float32[batch], one value a row of this replica.
      sample_weight: [batch] or [batch, 1], factors of the rows, or None.
      reduction: of a Keras loss; None or "none" gives the weighted values themselves.

    Returns:
      float32[], or float32[batch] without a reduction. "mean_with_sample_weight" divides by the sum of the weights.
    """
    weights = None if sample_weight is None else ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
    if weights is not None:
        values = values * weights
    if reduction in (None, "none"):
        return values
    total = ops.sum(values)
    if reduction == "sum":
        return total
    if weights is not None and reduction == "mean_with_sample_weight":
        return ops.divide_no_nan(total, sum_replicas(ops.sum(weights)))
    rows = values.shape[0]
    if rows is not None:  # a fixed batch size is everybody's
        return total / max(rows * num_replicas(), 1)
    return ops.divide_no_nan(total, sum_replicas(ops.cast(ops.shape(values)[0], "float32")))
