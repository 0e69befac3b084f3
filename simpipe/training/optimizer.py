"""The optimizer of a run: schedule, weight decay, clipping and loss scaling, exact under any number of replicas."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from simpipe.config.models import TrainConfig
from simpipe.errors import ConfigError, SimpipeError
from simpipe.schedules import WarmupCosineDecay

_OPTIMIZERS: dict[str, Any] = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW, "sgd": keras.optimizers.SGD}


def make_optimizer(settings: TrainConfig, *, total_steps: int, replicas: int) -> Any:
    """An optimizer that is not built yet; build it by `build_optimizer`, inside the strategy's scope.

    Raises:
      ConfigError: the warm-up is longer than the run.
    """
    # Keras sums the replicas' gradients after clipping, and looks for infinities in each replica's own. `_Shared` sums
    # before: every replica then hands in the mean, and Keras' sum of those is the sum again. So is the bound on the norm.
    shared = replicas > 1 and (settings.clip_norm is not None or settings.precision == "mixed_float16")
    options: dict[str, Any] = {}
    if settings.clip_norm is not None:
        options["global_clipnorm"] = settings.clip_norm / replicas
    if settings.optimizer == "sgd":
        options["momentum"] = settings.momentum
    if settings.optimizer != "adam" and settings.weight_decay:
        options["weight_decay"] = settings.weight_decay
    elif settings.optimizer == "adamw":
        options["weight_decay"] = 0.0
    scaled = settings.precision == "mixed_float16"
    make = _OPTIMIZERS[settings.optimizer]
    optimizer = (_shared(make) if shared and not scaled else make)(learning_rate(settings, total_steps), **options)
    if not scaled:
        return optimizer
    outer: Any = keras.optimizers.LossScaleOptimizer
    return (_shared(outer) if shared else outer)(optimizer)


def build_optimizer(model: Any) -> None:
    """Makes the optimizer's variables; only matrices and kernels of the network decay."""
    optimizer = model.optimizer
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    variables = model.trainable_variables
    losses = {id(variable) for variable in model.loss_variables}
    spared = [variable for variable in variables if len(variable.shape) < 2 or id(variable) in losses]
    if inner.weight_decay is not None:
        inner.exclude_from_weight_decay(var_list=spared)
    optimizer.build(variables)


def learning_rate(settings: TrainConfig, total_steps: int) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The rate, or its schedule over `total_steps`."""
    if settings.warmup_steps >= total_steps:
        raise ConfigError(
            f"train.warmup_steps: {settings.warmup_steps} steps of warm-up, but the run has {total_steps}",
            "lower train.warmup_steps, or train longer",
        )
    if settings.warmup_steps:
        last = 1.0 if settings.schedule == "constant" else 0.0
        return WarmupCosineDecay(settings.learning_rate, total_steps, settings.warmup_steps, last)
    if settings.schedule == "constant":
        return settings.learning_rate
    return keras.optimizers.schedules.CosineDecay(settings.learning_rate, total_steps)


def check_scale(optimizer: Any, *, step: int) -> None:
    """Raises SimpipeError where float16 gradients overflow however little the loss is scaled: no step is taken any more."""
    scale = getattr(optimizer, "dynamic_scale", None)
    if scale is not None and float(np.asarray(scale)) < 1.0:
        raise SimpipeError(
            f"training: float16 gradients are not finite, step after step (up to step {step})",
            "use `train.precision: mixed_bfloat16`, whose numbers reach as far as float32's, or lower train.learning_rate",
        )


@contextlib.contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Layers made inside compute in `precision`, and keep float32 weights."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


class _Shared:
    """Mixin before an optimizer: takes the replicas' gradients to their mean before anything else is done with them."""

    def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
        base: Any = super()
        base.apply(_mean(grads), trainable_variables)


def _shared(optimizer: type) -> Any:
    return type(f"Shared{optimizer.__name__}", (_Shared, optimizer), {})


def _mean(grads: Sequence[Any]) -> list[Any]:
    context = tf.distribute.get_replica_context()
    there = [place for place, grad in enumerate(grads) if grad is not None]
    summed = context.all_reduce(tf.distribute.ReduceOp.SUM, [tf.convert_to_tensor(grads[place]) for place in there])
    found: list[Any] = [None] * len(grads)
    for place, grad in zip(there, summed, strict=True):
        found[place] = grad / context.num_replicas_in_sync
    return found
