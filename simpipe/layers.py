"""Keras layers of encoders."""

from __future__ import annotations

from typing import Any

import keras

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong
_EPSILON = 1e-12


@keras.saving.register_keras_serializable(package="simpipe")
class MetricEmbedding(keras.layers.Layer):
    """A dense layer whose rows are scaled to length one; a zero row stays zero.

    Input: float[batch, features]. Output: float32[batch, units], also under mixed precision.

    Args:
      units: length of the embedding.
      use_bias: whether the dense layer has a bias.
      kernel_initializer: of the dense layer.
      **kwargs: of `keras.layers.Layer` (`name`, `dtype`, `trainable`).
    """

    def __init__(
        self,
        units: int,
        *,
        use_bias: bool = True,
        kernel_initializer: str | dict[str, Any] | keras.initializers.Initializer = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.use_bias = use_bias
        self.kernel_initializer: Any = keras.initializers.get(kernel_initializer)
        self.dense = keras.layers.Dense(
            units, use_bias=use_bias, kernel_initializer=self.kernel_initializer, dtype=self.dtype_policy, name="dense"
        )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.dense.build(input_shape)
        self.built = True

    def call(self, inputs: Any) -> Any:
        # Half precision cannot hold the squares: the norm is taken in float32.
        x = ops.cast(self.dense(inputs), "float32")
        return x * ops.rsqrt(ops.maximum(ops.sum(ops.square(x), axis=-1, keepdims=True), _EPSILON))

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        return keras.KerasTensor((*inputs.shape[:-1], self.units), dtype="float32")

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "units": self.units,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
