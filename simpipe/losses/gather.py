"""All replicas' tensors on each replica, with gradient."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def gather_replicas(tensor: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """Joins the batches of all replicas.

    Args:
      tensor: [batch, ...]; the last batch of an epoch may have other lengths on other replicas.

    Returns:
      [sum of the replicas' batches, ...] in the order of the replicas, and the row at which this replica's part
      begins. Outside a replica context of several replicas: the tensor itself and 0.
    """
    (joined,), begin = gather_together(tensor)
    return joined, begin


def gather_together(*tensors: tf.Tensor) -> tuple[tuple[tf.Tensor, ...], Any]:
    """`gather_replicas` of several tensors with the same number of rows, which is exchanged once."""
    context = _context()
    if context is None:
        return tensors, 0
    begin, total = _layout(context, tensors[0])
    return tuple(_join(context, tensor, begin, total) for tensor in tensors), begin


def sum_replicas(tensor: tf.Tensor) -> tf.Tensor:
    """The sum of a tensor over the replicas, on each of them, with gradient; the tensor itself where there is one."""
    context = _context()
    return tensor if context is None else context.all_reduce(tf.distribute.ReduceOp.SUM, tensor)


def in_replica() -> bool:
    """Whether this is the code of one of several replicas."""
    return _context() is not None


def _context() -> Any:
    context = tf.distribute.get_replica_context()
    return None if context is None or context.num_replicas_in_sync == 1 else context


def _layout(context: Any, tensor: tf.Tensor) -> tuple[Any, Any]:
    """The row where this replica's part begins, and the number of rows of all."""
    replicas, replica = context.num_replicas_in_sync, tf.convert_to_tensor(context.replica_id_in_sync_group)
    rows: int | None = tensor.shape[0]
    if rows is not None:  # a fixed batch size is everybody's
        return replica * rows, replicas * rows
    # float32: all devices can add it, and it is exact up to 16 million rows.
    mine = tf.one_hot(replica, replicas) * tf.cast(tf.shape(tensor)[0], tf.float32)
    sizes = tf.cast(context.all_reduce(tf.distribute.ReduceOp.SUM, mine), tf.int32)
    return tf.reduce_sum(sizes[:replica]), tf.reduce_sum(sizes)


def _join(context: Any, tensor: tf.Tensor, begin: Any, total: Any) -> tf.Tensor:
    # The sum over replicas of a tensor that is zero outside one's own rows is a gather whose gradient is right: the
    # gradient of a sum is the sum of the replicas' gradients.
    after = total - begin - tf.shape(tensor)[0]
    rest = [[0, 0]] * (tensor.shape.rank - 1)
    padded = tf.pad(tensor, tf.concat([[[begin, after]], tf.zeros((len(rest), 2), tf.int32)], axis=0))
    return context.all_reduce(tf.distribute.ReduceOp.SUM, padded)
