"""Class-balanced batches of a `tf.data.Dataset`: composition, shuffling, seeds, augmenters."""

from __future__ import annotations

import itertools
from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from simpipe.samplers import SamplerError, TFDataSampler


def numbered(counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """x[n, 2] whose first value names the row, and labels 10, 20, ... in random order."""
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(1, len(counts) + 1) * 10, counts))
    return np.stack([np.arange(len(y)), y], axis=1).astype(np.float32), y


def take(ds: tf.data.Dataset, steps: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(itertools.islice(ds.as_numpy_iterator(), steps))


def rows_of(batches: list) -> list[list[int]]:
    return [batch[0][:, 0].astype(int).tolist() for batch in batches]


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=6),
    st.integers(1, 5),
    st.sampled_from([None, 1, 3]),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_batches_hold_what_they_promise(counts: list[int], k: int, total: int | None, subset: bool, seed: int) -> None:
    x, y = numbered(counts)
    wanted = sorted(set(y.tolist()))[:: 2 if subset else 1]
    p = max(1, len(wanted) - 1)
    ds = TFDataSampler(
        tf.data.Dataset.from_tensor_slices((x, y)), p, k, wanted if subset else None, total_examples_per_class=total, seed=seed
    )
    sizes = {name: min(total or 99, int((y == name).sum())) for name in wanted}
    for inputs, labels in take(ds, 12):
        rows = inputs[:, 0].astype(int)
        assert (y[rows] == labels).all()
        assert (labels.reshape(p, k) == labels.reshape(p, k)[:, :1]).all()
        assert len(set(labels.tolist())) == p
        assert set(labels.tolist()) <= set(wanted)
        for name in set(labels.tolist()):
            assert len(set(rows[labels == name].tolist())) == min(k, sizes[name])


def test_groups_vary_within_the_class() -> None:
    x, y = numbered([20, 20])
    batches = rows_of(take(TFDataSampler(tf.data.Dataset.from_tensor_slices((x, y)), 2, 4, seed=1), 40))
    groups = Counter(frozenset(row for row in rows if y[row] == 10) for rows in batches)
    assert max(groups.values()) <= 2  # of 4,845
    assert len(groups) >= 38
    for five in range(0, 40, 5):  # five batches deal all 20 of a class
        assert sorted(row for rows in batches[five : five + 5] for row in rows) == list(range(40))


def test_seeds_and_iterations() -> None:
    x, y = numbered([20, 20, 20])
    ds = tf.data.Dataset.from_tensor_slices((x, y))

    def twice(seed: int | None) -> list:
        sampler = TFDataSampler(ds, seed=seed)
        return [rows_of(take(sampler, 70)), rows_of(take(sampler, 70))]

    first, second = twice(4)
    assert first != second  # the next iteration goes on with other batches
    assert twice(4) == [first, second]
    assert twice(5)[0] != first
    assert twice(None)[0] != twice(None)[0]


def test_structures_and_label_output() -> None:
    x, y = numbered([6, 6])
    names = np.array(["ape", "bee"])[y // 10 - 1]
    as_dictionary = tf.data.Dataset.from_tensor_slices((x, {"id": y, "name": names}))
    for label_output in ("id", "name"):
        inputs, labels = take(TFDataSampler(as_dictionary, 2, 3, label_output=label_output), 1)[0]
        rows = inputs[:, 0].astype(int)
        assert (labels["id"] == y[rows]).all()
        assert (labels["name"].astype(str) == names[rows]).all()
        assert Counter(labels["id"].tolist()) == {10: 3, 20: 3}
    as_tuple = tf.data.Dataset.from_tensor_slices((x, (names, y), np.arange(12)))
    _, labels, extra = take(TFDataSampler(as_tuple, 2, 3, class_list=[10, 20], label_output=1), 1)[0]
    assert (labels[1] == y[extra]).all()
    strings = tf.data.Dataset.from_tensor_slices((x, names))
    assert set(take(TFDataSampler(strings, 1, 3, class_list=["bee"]), 1)[0][1].tolist()) == {b"bee"}
    big = tf.data.Dataset.from_tensor_slices((x, y.astype(np.int64) + 2**40))
    assert set(take(TFDataSampler(big, 1, 3, class_list=[2**40 + 20]), 1)[0][1].tolist()) == {2**40 + 20}


def test_load_fn_augmenter_and_warmup() -> None:
    x, y = numbered([20, 20])
    ds = tf.data.Dataset.from_tensor_slices((x, y))
    plain = take(TFDataSampler(ds, 2, 3, seed=1), 6)
    loaded = take(TFDataSampler(ds, 2, 3, seed=1, load_fn=lambda x, y: (x * 2, y)), 6)
    assert all((a[0] * 2 == b[0]).all() for a, b in zip(plain, loaded, strict=True))
    augmented = take(
        TFDataSampler(ds, 2, 3, seed=1, load_fn=lambda x, y: (x * 2, y), augmenter=lambda x, y: (x + 100, y), warmup=8), 6
    )
    change = np.concatenate([b[0] - a[0] * 2 for a, b in zip(plain, augmented, strict=True)])
    assert (change[:8] == 0).all()  # so many examples, not batches
    assert (change[8:] == 100).all()
    from_the_first = take(TFDataSampler(ds, 2, 3, seed=1, augmenter=lambda x, y: (x + 100, y)), 6)
    assert all((b[0] - a[0] == 100).all() for a, b in zip(plain, from_the_first, strict=True))


def test_small_classes_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    x, y = numbered([6, 1])
    take(TFDataSampler(tf.data.Dataset.from_tensor_slices((x, y)), 2, 3), 5)
    assert [record.getMessage() for record in caplog.records if record.name.startswith("simpipe")] == [
        "1 classes have fewer than 3 examples, and a batch repeats theirs: 20 (1)"
    ]


def test_mistakes_are_named() -> None:
    x, y = numbered([6, 6])
    ds = tf.data.Dataset.from_tensor_slices((x, y))
    with pytest.raises(ValueError, match="the data set is infinite"):
        TFDataSampler(ds.repeat())
    with pytest.raises(ValueError, match="number of elements of the data set is unknown"):
        TFDataSampler(ds.filter(lambda x, y: y > 10))
    with pytest.raises(SamplerError, match="a batch of 3 classes is asked for, but there are 2"):
        TFDataSampler(ds, 3)
    with pytest.raises(SamplerError, match="have no examples: 70"):
        TFDataSampler(ds, class_list=[10, 70])
    with pytest.raises(SamplerError, match="y has no part 'id'"):
        TFDataSampler(ds, label_output="id")
    with pytest.raises(SamplerError, match=r"not a tuple \(x, y\)"):
        TFDataSampler(ds.map(lambda x, y: x))
    with pytest.raises(SamplerError, match=r"the label has shape \(12, 2\)"):
        TFDataSampler(tf.data.Dataset.from_tensor_slices((x, x)))
    with pytest.raises(SamplerError, match="holds a RaggedTensor"):
        TFDataSampler(tf.data.Dataset.from_tensor_slices((tf.ragged.constant([[1], [2, 3]]), [0, 1])))
    with pytest.raises(SamplerError, match="a batch of 0 classes"):
        TFDataSampler(ds, 0)


def test_fit() -> None:
    x, y = numbered([20, 20, 20])
    ds = TFDataSampler(tf.data.Dataset.from_tensor_slices((x, y // 10 - 1)), 3, 4, seed=1)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(1 / 30), keras.layers.Dense(3)])
    model.compile(
        keras.optimizers.Adam(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True), steps_per_execution=5
    )
    losses = model.fit(ds, epochs=4, steps_per_epoch=30, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
