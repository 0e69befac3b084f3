"""Generalized mean pooling."""

from __future__ import annotations

import math
from typing import Any

import keras

from simpipe.errors import ConfigError

ops: Any = keras.ops  # Keras is not annotated: inferred types are wrong
_GEOMETRIC = 1e-5  # powers nearer to zero are the geometric mean


class _GeneralizedMeanPooling(keras.layers.Layer):
    """What the one- and two-dimensional layers share; `_RANK` is the number of pooled axes."""

    _RANK = 0

    def __init__(self, p: float = 3.0, data_format: str | None = None, keepdims: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.p = float(p)  # "inf" from a configuration is a float too
        if math.isnan(self.p):
            raise ConfigError(f"{type(self).__name__}: p is not a number", "give a number, inf or -inf")
        self.data_format = data_format or keras.config.image_data_format()
        if self.data_format not in ("channels_last", "channels_first"):
            raise ConfigError(
                f"{type(self).__name__}: data_format {data_format!r} is unknown", "use channels_last or channels_first"
            )
        self.keepdims = keepdims
        first = 1 if self.data_format == "channels_last" else 2
        self._axes = tuple(range(first, first + self._RANK))
        self.input_spec = keras.layers.InputSpec(ndim=self._RANK + 2)

    def call(self, inputs: Any) -> Any:
        x = ops.cast(inputs, "float32")  # powers leave half precision's range
        if math.isinf(self.p):
            pooled = (ops.max if self.p > 0 else ops.min)(x, axis=self._axes, keepdims=True)
        else:
            shift = ops.min(x, axis=self._axes, keepdims=True) - 1.0  # the mean is of values from 1 up
            pooled = self._mean(x - shift) + shift
        if not self.keepdims:
            pooled = ops.squeeze(pooled, axis=self._axes)
        return ops.cast(pooled, self.compute_dtype)

    def _mean(self, x: Any) -> Any:
        """The mean of order p of values of at least 1."""
        if abs(self.p) < _GEOMETRIC:
            return ops.exp(ops.mean(ops.log(x), axis=self._axes, keepdims=True))
        # The largest value is taken out, so that no power overflows. The mean is homogeneous: a constant in the gradient.
        scale = ops.stop_gradient(ops.max(x, axis=self._axes, keepdims=True)) if self.p > 0 else 1.0
        return scale * ops.power(ops.mean(ops.power(x / scale, self.p), axis=self._axes, keepdims=True), 1.0 / self.p)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        if self.keepdims:
            return tuple(1 if axis in self._axes else size for axis, size in enumerate(input_shape))
        return tuple(size for axis, size in enumerate(input_shape) if axis not in self._axes)

    def get_config(self) -> dict[str, Any]:
        p = self.p if math.isfinite(self.p) else str(self.p)  # JSON has no infinity
        return {**super().get_config(), "p": p, "data_format": self.data_format, "keepdims": self.keepdims}


@keras.saving.register_keras_serializable(package="simpipe")
class GeneralizedMeanPooling1D(_GeneralizedMeanPooling):
    """The generalized mean of each channel over the steps.

    Radenović et al. 2018, "Fine-tuning CNN Image Retrieval with No Human Annotation", equation 3, of values shifted so
    that the least of each channel is 1, and shifted back: `(mean x'^p)^(1/p) + min - 1` with `x' = x - min + 1`. `p = 1`
    is the average, `p = 0` the geometric mean, `inf` and `-inf` the maximum and the minimum. Computed in float32.

    Input: float[batch, steps, channels] ("channels_last") or float[batch, channels, steps] ("channels_first").
    Output: the layer's compute dtype, [batch, channels], or with `keepdims` the input's shape with 1 step.

    Args:
      p: the power; any number, `inf` or `-inf`.
      data_format: "channels_last", "channels_first", or None for Keras' setting.
      keepdims: whether the pooled axis stays, with length 1.
      **kwargs: of `keras.layers.Layer`.

    Raises:
      ConfigError: `p` is not a number, or the data format is unknown.
    """

    _RANK = 1


@keras.saving.register_keras_serializable(package="simpipe")
class GeneralizedMeanPooling2D(_GeneralizedMeanPooling):
    """The generalized mean of each channel over height and width; formula and arguments of `GeneralizedMeanPooling1D`.

    Input: float[batch, height, width, channels] ("channels_last") or float[batch, channels, height, width]
    ("channels_first"). Output: the layer's compute dtype, [batch, channels], or with `keepdims` the input's shape with
    height and width 1.

    Args:
      p: the power; any number, `inf` or `-inf`.
      data_format: "channels_last", "channels_first", or None for Keras' setting.
      keepdims: whether the pooled axes stay, with length 1.
      **kwargs: of `keras.layers.Layer`.

    Raises:
      ConfigError: `p` is not a number, or the data format is unknown.
    """

    _RANK = 2
