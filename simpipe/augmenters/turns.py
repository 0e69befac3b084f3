"""Quarter turns of whole classes: a class turned by 90, 180 or 270 degrees is a class of its own (Vinyals et al. 2016).

Four times as many classes to tell apart, from the same drawings; for things whose turned form is another thing, such as
characters, not for photographs of things that may lie on their side.
"""

from __future__ import annotations

import tensorflow as tf

_STREAM = 0x7A31  # apart from the draws of `random_affine`


def turn_classes(images: tf.Tensor, labels: tf.Tensor, *, seed: int, step: tf.Tensor | int) -> tuple[tf.Tensor, tf.Tensor]:
    """Turns all images of each class in a batch by one drawn multiple of 90 degrees.

    Args:
      images: [batch, side, side, channels].
      labels: integers [batch].
      seed: of the run.
      step: int64[], the number of the batch; the same (seed, step) turns a batch in the same way.

    Returns:
      Images of the same shape and dtype; labels `4 * label + turn`, so that turned classes never mix.
    """
    images, labels = tf.convert_to_tensor(images), tf.convert_to_tensor(labels)
    classes, place = tf.unique(labels)
    draw = tf.stack([tf.cast(seed, tf.int64) + _STREAM, tf.cast(step, tf.int64)])
    turns = tf.gather(tf.random.stateless_uniform(tf.shape(classes), draw, 0, 4, tf.int32), place)
    turned = tf.stack([tf.image.rot90(images, quarter) for quarter in range(4)], axis=1)
    return tf.gather(turned, turns, axis=1, batch_dims=1), labels * 4 + tf.cast(turns, labels.dtype)
