"""Samplers in `model.fit`: every batch arrives, epochs and warm-up are counted right, copies deal the same."""

from __future__ import annotations

import copy

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_memory_samplers import numbered, rows_of

from simpipe.samplers import MultiShotMemorySampler, Sampler
from simpipe.samplers.step_plan import StepPlan


def tiny(**compile_arguments: object) -> keras.Model:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4), keras.layers.UnitNormalization()])

    def loss(y_true, y_pred):
        same = keras.ops.cast(keras.ops.equal(keras.ops.reshape(y_true, (-1, 1)), keras.ops.reshape(y_true, (1, -1))), "float32")
        return keras.ops.mean(-same * keras.ops.matmul(y_pred, keras.ops.transpose(y_pred)))

    model.compile("sgd", loss=loss, **compile_arguments)
    return model


@pytest.mark.parametrize("arguments", [{}, {"workers": 2, "max_queue_size": 3}])
@pytest.mark.parametrize("execution", [1, 3, 4])
def test_fit(arguments: dict, execution: int) -> None:
    x, y = numbered([20, 20, 20])
    seen: list[tuple[int, ...]] = []

    def spy(x, y, n, warm):
        seen.append(tuple(sorted(rows_of(x))))
        return x, y

    sampler = MultiShotMemorySampler(x, y, steps_per_epoch=8, augmenter=spy, seed=1, **arguments)
    validation = MultiShotMemorySampler(x, y, steps_per_epoch=3, seed=2)
    history = tiny(steps_per_execution=execution).fit(sampler, epochs=3, validation_data=validation, verbose=0)
    assert len(history.history["loss"]) == len(history.history["val_loss"]) == 3
    assert (sampler.epoch, validation.epoch) == (3, 3)
    planned = StepPlan(
        np.unique(sampler._y, return_inverse=True)[1],
        classes_per_batch=2,
        examples_per_class=2,
        seed=(sampler.seed, 1),
    )
    expected = {tuple(sorted(rows_of(x[sampler._rows[planned.rows(step)]]))) for step in range(24)}
    assert set(seen) == expected  # every batch of three epochs reached the model, and they differ
    assert len(expected) == 24


@pytest.mark.parametrize("workers", [1, 2])
def test_warmup_lasts_as_many_epochs_as_it_says(workers: int) -> None:
    """Keras tells of one epoch more than there are, before every fit and evaluate."""
    x, y = numbered([20, 20, 20])
    warm: list[bool] = []

    def augmenter(x, y, num_augmentations_per_example, is_warmup):
        warm.append(is_warmup)
        return x, y

    sampler = MultiShotMemorySampler(x, y, steps_per_epoch=5, augmenter=augmenter, warmup=3, workers=workers)
    epochs: list[tuple[int, bool]] = []
    note = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: epochs.append((sampler.epoch, sampler.is_warmup)))
    model = tiny()
    model.fit(sampler, epochs=2, verbose=0, callbacks=[note])
    model.fit(sampler, epochs=2, verbose=0, callbacks=[note])
    assert epochs == [(0, True), (1, True), (2, True), (3, False)]
    assert warm.count(False) >= 5
    model.evaluate(sampler, verbose=0)
    assert sampler.epoch == 5
    for _ in sampler:
        pass
    sampler.on_epoch_end()
    sampler.on_epoch_end()
    assert sampler.epoch == 7


def test_fit_under_a_strategy() -> None:
    x, y = numbered([20, 20, 20])
    sampler = MultiShotMemorySampler(x, y, steps_per_epoch=3, classes_per_batch=3, warmup=1)
    with tf.distribute.MirroredStrategy(["/cpu:0"]).scope():
        model = tiny()
    model.fit(sampler, epochs=2, verbose=0)
    assert sampler.epoch == 2


def test_copies_of_worker_processes_deal_the_same() -> None:
    x, y = numbered([20, 20, 20])
    sampler = MultiShotMemorySampler(x, y, steps_per_epoch=100, seed=1)
    sampler.on_epoch_end()
    again = copy.deepcopy(sampler)  # by the same means as a process gets it
    assert [rows_of(again[batch][0]) for batch in (70, 3)] == [rows_of(sampler[batch][0]) for batch in (70, 3)]


def test_own_samplers() -> None:
    class Constant(Sampler):
        def _get_examples(self, batch_id, num_classes, examples_per_class):
            return np.full((num_classes * examples_per_class, 2), batch_id, np.float32), np.arange(
                num_classes * examples_per_class
            )

    sampler = Constant(3, steps_per_epoch=4)
    assert len(sampler) == 4
    assert sampler.batch_size == 6
    assert sampler.generate_batch(2)[0].mean() == 2
    tiny().fit(sampler, epochs=1, verbose=0)
    with pytest.raises(TypeError, match="_get_examples"):
        Sampler(2)  # type: ignore[abstract]
