"""The output layer of an encoder."""

from __future__ import annotations

from typing import Any

import keras

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong
_EPSILON = 1e-12
_SERIALIZE: dict[str, Any] = {
    "activation": keras.activations.serialize,
    "kernel_initializer": keras.initializers.serialize,
    "bias_initializer": keras.initializers.serialize,
    "kernel_regularizer": keras.regularizers.serialize,
    "bias_regularizer": keras.regularizers.serialize,
    "kernel_constraint": keras.constraints.serialize,
    "bias_constraint": keras.constraints.serialize,
}


@keras.saving.register_keras_serializable(package="simpipe")
class MetricEmbedding(keras.layers.Layer):
    """A dense layer whose rows are scaled to length one; a zero row stays zero.

    Input: float[batch, ..., features]. Output: float32[batch, ..., units], also under mixed precision.

    Args:
      units: length of the embedding.
      activation: of the dense layer, before the scaling; None for none.
      use_bias: whether the dense layer has a bias.
      kernel_initializer: of the dense layer, as are the next five.
      bias_initializer: see above.
      kernel_regularizer: see above.
      bias_regularizer: see above.
      kernel_constraint: see above.
      bias_constraint: see above.
      **kwargs: of `keras.layers.Layer` (`name`, `dtype`, `trainable`, `activity_regularizer`).
    """

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        *,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.use_bias = use_bias
        # A layer inside, not a parent class: the weights' names in saved encoders stay as they are.
        self.dense = keras.layers.Dense(
            units,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            dtype=self.dtype_policy,
            name="dense",
        )

    @property
    def kernel(self) -> Any:
        """The dense layer's weights, [features, units]."""
        return self.dense.kernel

    @property
    def bias(self) -> Any:
        """The dense layer's bias, [units]; None without one."""
        return self.dense.bias

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
        parts = {name: serialize(getattr(self.dense, name)) for name, serialize in _SERIALIZE.items()}
        return {**super().get_config(), "units": self.units, "use_bias": self.use_bias, **parts}
