"""Samplers over arrays: what batches hold, epochs, slices, labels, augmenters."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from simpipe.errors import ConfigError
from simpipe.samplers import (
    MultiShotMemorySampler,
    SamplerError,
    SingleShotMemorySampler,
    select_examples,
)
from simpipe.samplers.arguments import as_labels
from simpipe.samplers.step_plan import StepPlan


def numbered(counts: list[int], *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """x[n, 2] whose first value names the row, and labels 10, 20, ... in random order."""
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(1, len(counts) + 1) * 10, counts))
    return np.stack([np.arange(len(y)), y], axis=1).astype(np.float32), y


def rows_of(x: np.ndarray) -> list[int]:
    return np.asarray(x)[:, 0].astype(int).tolist()


@st.composite
def cases(draw: st.DrawFn) -> dict:
    counts = draw(st.lists(st.integers(1, 12), min_size=1, max_size=8))
    kept = sorted(draw(st.sets(st.integers(1, len(counts)), min_size=1)))
    return {
        "counts": counts,
        "class_list": draw(st.sampled_from([None, [place * 10 for place in kept]])),
        "k": draw(st.integers(1, 6)),
        "total": draw(st.sampled_from([None, 1, 3, 7])),
        "p": draw(st.integers(1, len(kept))),
        "steps": draw(st.integers(1, 9)),
        "seed": draw(st.integers(0, 2**31)),
    }


@settings(max_examples=80, deadline=None)
@given(cases())
def test_batches_hold_what_they_promise(case: dict) -> None:
    x, y = numbered(case["counts"])
    p, k = case["p"], case["k"]
    sampler = MultiShotMemorySampler(
        x,
        y,
        classes_per_batch=p,
        examples_per_class_per_batch=k,
        steps_per_epoch=case["steps"],
        class_list=case["class_list"],
        total_examples_per_class=case["total"],
        seed=case["seed"],
    )
    wanted = case["class_list"] or sorted(set(y.tolist()))
    sizes = {name: min(case["total"] or 99, int((y == name).sum())) for name in wanted}
    assert sampler.class_list == wanted
    assert sampler.num_examples == sum(sizes.values())
    pool = set(rows_of(sampler.get_slice()[0]))
    for _ in range(3):
        for batch in range(case["steps"]):
            inputs, labels = sampler[batch]
            rows = rows_of(inputs)
            assert (y[rows] == labels).all()
            assert set(rows) <= pool
            assert (labels.reshape(p, k) == labels.reshape(p, k)[:, :1]).all()
            assert len(set(labels.tolist())) == p
            for name in set(labels.tolist()):
                seen = Counter(row for row in rows if y[row] == name)
                assert len(seen) == min(k, sizes[name])  # duplicates only where the class is too small, and no more of them
                assert max(seen.values()) == -(-k // sizes[name])
        sampler.on_epoch_end()


def test_epochs_go_on_where_the_last_one_ended() -> None:
    """12 examples of one class, four a batch: three batches deal them all, over the ends of epochs too."""
    x, y = numbered([12, 12])
    sampler = MultiShotMemorySampler(x, y, classes_per_batch=2, examples_per_class_per_batch=4, steps_per_epoch=2, seed=3)
    epochs = []
    for _ in range(6):
        epochs.append([rows_of(sampler[batch][0]) for batch in range(2)])
        sampler.on_epoch_end()
    batches = [rows for epoch in epochs for rows in epoch]
    for three in range(0, 12, 3):
        assert sorted(row for rows in batches[three : three + 3] for row in rows) == list(range(24))
    groups = {frozenset(row for row in rows if y[row] == 10) for rows in batches}
    assert len(groups) >= 10  # of 495: the same examples do not meet again and again


def test_batches_follow_from_seed_epoch_and_number() -> None:
    x, y = numbered([30, 30, 30])

    def run(order: list[int], seed: int | None = 5) -> dict[int, list[int]]:
        sampler = MultiShotMemorySampler(x, y, steps_per_epoch=200, seed=seed)
        sampler.epoch = 1
        return {batch: rows_of(sampler[batch][0]) for batch in order}

    assert run(list(range(200))) == run([*reversed(range(200))])
    assert run([7, 3]) != run([7, 3], seed=6)
    assert run([7, 3], seed=None) != run([7, 3], seed=None)
    keras.utils.set_random_seed(1)
    first = run([7, 3], seed=None)
    keras.utils.set_random_seed(1)
    assert run([7, 3], seed=None) == first


def test_step_plan_forgets_and_plans_anew() -> None:
    labels = np.repeat(np.arange(3), 9)
    arguments = {"classes_per_batch": 2, "examples_per_class": 2, "seed": (4,)}
    whole = StepPlan(labels, **arguments)
    expected = [whole.rows(step).tolist() for step in range(300)]
    plan = StepPlan(labels, **arguments)
    plan.forget(200)
    assert plan.rows(250).tolist() == expected[250]
    assert plan.rows(3).tolist() == expected[3]
    assert plan.rows(299).tolist() == expected[299]


def test_small_classes_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    x, y = numbered([8, 2, 1])
    sampler = MultiShotMemorySampler(x, y, classes_per_batch=3, examples_per_class_per_batch=4, seed=1)
    for batch in range(20):
        sampler.generate_batch(batch)
    assert [record.getMessage() for record in caplog.records] == [
        "2 classes have fewer than 4 examples, and a batch repeats theirs: 20 (2), 30 (1)"
    ]


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    x, y = numbered([8, 8])
    MultiShotMemorySampler(x, y)[0]
    SingleShotMemorySampler(x, lambda x, y, n, warm: (x, x), 4)[0]
    assert capfd.readouterr().out == ""


def test_slices() -> None:
    x, y = numbered([20, 20])
    sampler = MultiShotMemorySampler(x, y, seed=2)
    everything, labels = sampler.get_slice()
    assert isinstance(everything, np.ndarray)
    assert sorted(rows_of(everything)) == list(range(40))
    assert rows_of(everything) != list(range(40))
    assert (y[rows_of(everything)] == labels).all()
    part, part_labels = sampler.get_slice(5, 10)
    assert (part == everything[5:15]).all()
    assert (part_labels == labels[5:15]).all()
    assert len(sampler.get_slice(35, 10)[0]) == 5  # fewer at the end
    assert len(sampler.get_slice(10)[0]) == 30
    assert len(sampler.get_slice(3, 0)[0]) == 0
    assert sampler.example_shape == (2,)
    for begin, size in ((-1, 2), (41, 2), (0, -2)):
        with pytest.raises(SamplerError, match="there are 40 examples"):
            sampler.get_slice(begin, size)


def test_examples_are_not_copied() -> None:
    x, y = numbered([20, 20])
    sampler = MultiShotMemorySampler(x, y, class_list=[10], classes_per_batch=1)
    before = sampler.get_slice(0, 1)[0].copy()
    x += 100
    assert (sampler.get_slice(0, 1)[0] == before + 100).all()


def test_string_labels() -> None:
    x, y = numbered([9, 9, 9])
    names = np.array(["ape", "bee", "cat"])[y // 10 - 1]
    sampler = MultiShotMemorySampler(x, names, class_list=["cat", "ape"], seed=1)
    assert sampler.class_list == ["ape", "cat"]
    sx, sy = sampler.get_slice()
    assert (names[rows_of(sx)] == sy).all()
    bx, by = sampler[0]
    assert by.dtype == np.int64
    assert [sampler.class_list[place] for place in by] == names[rows_of(bx)].tolist()
    with pytest.raises(SamplerError, match="class_list holds integers, the labels are strings"):
        MultiShotMemorySampler(x, names, class_list=[0, 1])
    bytes_too = MultiShotMemorySampler(x, [name.encode() for name in names])
    assert bytes_too.class_list == ["ape", "bee", "cat"]


def test_64_bit_labels() -> None:
    x, y = numbered([5, 5, 5])
    big = y.astype(np.int64) + 2**40
    sampler = MultiShotMemorySampler(x, big, class_list=[2**40 + 10, 2**40 + 30])
    assert set(sampler[0][1].tolist()) == {2**40 + 10, 2**40 + 30}
    assert sampler[0][1].dtype == np.int64


@pytest.mark.parametrize(
    ("given_labels", "expected"),
    [
        ([[1], [2]], [1, 2]),
        (np.array([1.0, 2.0]), [1, 2]),
        (np.array([1, 2], np.uint64), [1, 2]),
        ([True, False], [1, 0]),
        (tf.constant([3, 4]), [3, 4]),
        ([tf.constant(3), tf.constant(4)], [3, 4]),
        (np.array(["a", "b"], object), ["a", "b"]),
        (np.array([b"a", "é".encode()], object), ["a", "é"]),
    ],
)
def test_labels_of_many_kinds(given_labels: object, expected: list) -> None:
    labels = as_labels(given_labels)
    assert labels.tolist() == expected
    assert labels.dtype.kind == ("i" if isinstance(expected[0], int) else "U")


@pytest.mark.parametrize(
    "bad", [[[1, 0], [0, 1]], [0.5, 1.0], [float("nan")], [float("inf")], np.array([2**64 - 1], np.uint64), ["a", 1.5, None]]
)
def test_what_is_no_label(bad: object) -> None:
    with pytest.raises(SamplerError, match="y "):
        as_labels(np.array(bad, object) if isinstance(bad, list) and None in bad else bad)


def test_mistakes_are_named() -> None:
    x, y = numbered([6, 6])
    with pytest.raises(ValueError, match="a batch of 3 classes is asked for, but there are 2"):
        MultiShotMemorySampler(x, y, classes_per_batch=3)
    with pytest.raises(ConfigError, match="1 classes of class_list have no examples: 70"):
        MultiShotMemorySampler(x, y, class_list=[10, 70])
    with pytest.raises(SamplerError, match="class_list is empty"):
        MultiShotMemorySampler(x, y, class_list=[])
    with pytest.raises(SamplerError, match="12 examples, y has 11 labels"):
        MultiShotMemorySampler(x, y[:11])
    with pytest.raises(SamplerError, match="x has no examples"):
        MultiShotMemorySampler(x[:0], y[:0])
    with pytest.raises(SamplerError, match="steps_per_epoch=0"):
        MultiShotMemorySampler(x, y, steps_per_epoch=0)
    with pytest.raises(SamplerError, match="seed is -1"):
        MultiShotMemorySampler(x, y, seed=-1)
    with pytest.raises(TypeError, match="wokers"):
        MultiShotMemorySampler(x, y, wokers=2)


# --- select_examples ---------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.sampled_from([None, 1, 4]), st.integers(0, 99))
def test_select_examples(counts: list[int], per_class: int | None, seed: int) -> None:
    x, y = numbered(counts)
    kept = sorted(set(y.tolist()))[::2]
    sx, sy = select_examples(x, y, kept, per_class, seed=seed)
    rows = rows_of(sx)
    assert len(set(rows)) == len(rows)
    assert (y[rows] == sy).all()
    assert Counter(sy.tolist()) == {name: min(per_class or 99, int((y == name).sum())) for name in kept}
    again = select_examples(x, y, kept, per_class, seed=seed)
    assert (again[0] == sx).all()


def test_select_examples_draws_evenly_and_shuffles() -> None:
    x, y = numbered([40])
    drawn = Counter(row for seed in range(400) for row in rows_of(select_examples(x, y, None, 10, seed=seed)[0]))
    assert set(drawn) == set(range(40))
    assert max(drawn.values()) < 160  # expected 100, standard deviation 9
    assert min(drawn.values()) > 50
    assert rows_of(select_examples(x, y, seed=1)[0]) != list(range(40))
    with pytest.raises(SamplerError, match="no examples: 5"):
        select_examples(x, y, [5], 2)
    with pytest.raises(SamplerError, match="0 examples a class"):
        select_examples(x, y, None, 0)
    tensor, _ = select_examples(tf.constant(x), tf.constant(y), seed=1)
    assert isinstance(tensor, np.ndarray)


# --- augmenters, warm-up, single shot ----------------------------------------------------------------------------


def test_augmenter_and_warmup() -> None:
    x, y = numbered([8, 8])
    calls: list[tuple[int, bool]] = []

    def augmenter(x, y, num_augmentations_per_example, is_warmup):
        calls.append((num_augmentations_per_example, is_warmup))
        return (x, y) if is_warmup else (np.concatenate([x, x + 0.5]), np.concatenate([y, y]))

    sampler = MultiShotMemorySampler(x, y, augmenter=augmenter, warmup=2, seed=1)
    sizes = []
    for _ in range(4):
        sizes.append(len(sampler.generate_batch(0)[0]))
        sampler.on_epoch_end()
    assert sizes == [4, 4, 8, 8]
    assert calls == [(1, True), (1, True), (1, False), (1, False)]
    assert not MultiShotMemorySampler(x, y, augmenter=augmenter).is_warmup  # -1: none


@pytest.mark.parametrize("views", [1, 2, 3, 4])
def test_views(views: int) -> None:
    x = np.arange(20, dtype=np.float32)[:, None]

    def augmenter(x, y, num_augmentations_per_example, is_warmup):
        return [x + 100 * view for view in range(num_augmentations_per_example)]

    sampler = SingleShotMemorySampler(x, augmenter, 5, num_augmentations_per_example=views, seed=2)
    first, second = sampler[0]
    if views == 2:
        assert (second - first == 100).all()
        return
    made = (first,) if views == 1 else first
    assert len(made) == views
    assert all((view[:, 0] - 100 * place == second).all() for place, view in enumerate(made))
    with pytest.raises(SamplerError, match="augmenter returned a ndarray"):
        SingleShotMemorySampler(x, lambda x, y, n, warm: x, 5)[0]


def test_single_shot_deals_every_example() -> None:
    x = np.arange(23, dtype=np.float32)[:, None]
    sampler = SingleShotMemorySampler(x, lambda x, y, n, warm: (x, y), 5, steps_per_epoch=4, seed=3)
    dealt: list[int] = []
    for _ in range(23):
        for batch in range(4):
            inputs, places = sampler[batch]
            assert inputs[:, 0].tolist() == places.tolist()
            assert len(set(places.tolist())) == 5
            dealt += places.tolist()
        sampler.on_epoch_end()
    rounds = np.array(dealt).reshape(-1, 23)
    assert (np.sort(rounds, axis=1) == np.arange(23)).all()
    assert sampler.batch_size == 5
    inputs, places = sampler.get_slice(3, 4)
    assert places.tolist() == [3, 4, 5, 6]
    with pytest.raises(SamplerError, match="24 examples is asked for, but x has 23"):
        SingleShotMemorySampler(x, lambda x, y, n, warm: (x, y), 24)


def test_examples_are_loaded_when_needed() -> None:
    x, y = numbered([8, 8])
    sampler = MultiShotMemorySampler(x, y, load_example_fn=lambda example: tf.constant(example)[None] * 2, seed=1)
    plain = MultiShotMemorySampler(x, y, seed=1)
    assert (sampler[3][0] == plain[3][0][:, None] * 2).all()
    assert (sampler.get_slice(0, 3)[0] == plain.get_slice(0, 3)[0][:, None] * 2).all()
    assert sampler.example_shape == (1, 2)


def test_examples_of_different_shapes() -> None:
    x = [np.zeros((side, 3)) for side in (1, 2, 3, 4)]
    sampler = MultiShotMemorySampler(x, [0, 0, 1, 1], load_example_fn=lambda example: example.sum(axis=0))
    assert sampler[0][0].shape == (4, 3)
    with pytest.raises(SamplerError, match="different shapes"):
        MultiShotMemorySampler(x, [0, 0, 1, 1])[0]


# --- the package ---------------------------------------------------------------------------------------------------


def test_importing_the_plan_loads_numpy_only() -> None:
    code = "import sys, simpipe.samplers.plan, simpipe.samplers.step_plan, simpipe.samplers.arguments;"
    code += "print([m for m in ('tensorflow', 'keras', 'tensorflow_datasets') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_lazy_names_are_the_real_ones() -> None:
    import simpipe.samplers as samplers

    assert all(callable(getattr(samplers, name)) for name in samplers.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        samplers.nonsense  # noqa: B018
