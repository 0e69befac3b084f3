"""All replicas' tensors on each replica, with gradient."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def gather_replicas(tensor: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """Joins the batches of all replicas.

    Args:
      tensor: [batch, ...], the same shape on every replica.

    Returns:
      [replicas * batch, ...], and the row at which this replica's part begins. Outside a replica context of
      several replicas: the tensor itself and 0.

    A sum over replicas of a tensor that is zero outside one's own slot is a gather whose gradient is right: the
    gradient of a sum is the sum of the replicas' gradients.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return tensor, 0
    replicas = context.num_replicas_in_sync
    replica = tf.convert_to_tensor(context.replica_id_in_sync_group)
    shape = tf.shape(tensor)
    slots = tf.scatter_nd(tf.reshape(replica, (1, 1)), tensor[None], tf.concat([[replicas], shape], axis=0))
    slots = context.all_reduce(tf.distribute.ReduceOp.SUM, slots)
    joined = tf.reshape(slots, tf.concat([[replicas * shape[0]], shape[1:]], axis=0))
    return joined, replica * shape[0]
