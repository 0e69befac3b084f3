"""The shard sampler on files: exact batches, whole passes, resume, replicas, object storage."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_gcs import serving
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from make_examples import make_examples
from sampler_data import CONFIG, WHOLE, dataset, pixels, row_of, rows_of

from simpipe.config.models import SamplerConfig
from simpipe.errors import ConfigError, ContractError, SourceError
from simpipe.samplers import shard_sampler
from simpipe.samplers.class_reader import read_classes
from simpipe.samplers.shard_sampler import ShardSampler


@st.composite
def data_sets(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int, dict[str, Any]]:
    """Labels, the shard of each example, number of shards, and settings: classes and shards of any size."""
    sizes = draw(st.lists(st.integers(1, 24), min_size=1, max_size=8))
    num_shards = draw(st.integers(1, 12))
    labels = np.repeat(np.arange(len(sizes)), sizes)
    spread = draw(st.sampled_from(["rows", "classes"]))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    shard_of = rng.integers(0, num_shards, len(labels)) if spread == "rows" else rng.integers(0, num_shards, len(sizes))[labels]
    config = {
        "classes_per_batch": draw(st.integers(1, 5)),
        "examples_per_class": draw(st.integers(1, 6)),
        "weighting": draw(st.sampled_from(["uniform", "sqrt", "proportional"])),
        "small_classes": draw(st.sampled_from(["skip", "repeat"])),
        "open_blocks": draw(st.sampled_from([2, 4, 8, 1000])),
        "block_examples": draw(st.sampled_from([1, 6, 30])),
    }
    return labels, shard_of, num_shards, config


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much]
)
@given(data_sets(), st.sampled_from(["", "gzip"]))
def test_any_data_set(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[np.ndarray, np.ndarray, int, dict[str, Any]], compression: str
) -> None:
    labels, shard_of, num_shards, raw = case
    folder = tmp_path_factory.mktemp("any")
    make_examples(folder, pixels(len(labels)), labels, num_shards=num_shards, shard_of=shard_of, compression=compression)
    config = SamplerConfig.model_validate(raw)
    try:
        sampler = ShardSampler(folder, config, seed=7)
        sampler.check_groups(1)
    except ConfigError:  # fewer classes than P, or no group that holds P of them
        assume(False)
        raise
    p, k = config.classes_per_batch, config.examples_per_class
    steps = sampler.steps_per_pass
    sizes = np.bincount(labels)
    seen: Counter[int] = Counter()
    found = list(sampler.batches(steps=steps + 3))
    for step, (inputs, classes) in enumerate(found):
        rows = row_of(inputs)
        assert (labels[rows] == classes).all()
        assert sorted(Counter(classes.tolist()).values()) == [k] * p
        times = Counter(rows.tolist())
        assert all(many == 1 or sizes[labels[row]] < k for row, many in times.items())
        if step < steps:
            seen += times
    assert len(found) == steps + 3
    if config.weighting == "proportional":
        left_out = sampler._plan(0).left_out(k)
        assert len(seen) == int(sampler._planner.sizes.sum()) - left_out
        assert all(many == 1 or sizes[labels[row]] < k for row, many in seen.items())
    again = [row_of(inputs) for inputs, _ in ShardSampler(folder, config, seed=7).batches(1, steps=steps)]
    assert all((row_of(one[0]) == other).all() for one, other in zip(found[1:], again, strict=False))


def test_every_example_once_a_pass_and_passes_differ(tmp_path: Path) -> None:
    """24 classes of 16 examples over 11 unequal shards, few blocks open: nothing is left out, nothing comes twice."""
    labels = np.repeat(np.arange(24), 16)
    shard_of = np.repeat(np.random.default_rng(0).integers(0, 11, 24), 16)
    make_examples(tmp_path, pixels(len(labels)), labels, num_shards=11, shard_of=shard_of)
    config = SamplerConfig(classes_per_batch=1, examples_per_class=4, weighting="proportional", open_blocks=4, block_examples=32)
    sampler = ShardSampler(tmp_path, config, seed=1)
    assert sampler.summary()["left_out"] == 0
    assert sampler.steps_per_pass == 96
    passes = rows_of(sampler, 3 * 96).reshape(3, -1)
    for one in passes:
        assert sorted(one.tolist()) == list(range(len(labels)))
    assert len({tuple(one) for one in passes}) == 3
    # Within a class too: not the same four together each time.
    fours = [{frozenset(four.tolist()) for four in one.reshape(-1, 4)} for one in passes]
    assert len(fours[0] & fours[1]) < 10
    other = rows_of(ShardSampler(tmp_path, config, seed=2), 96)
    assert (other.ravel() != passes[0]).any()


def test_memory_is_bounded_by_open_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more than `open_blocks` blocks between being read and being dropped."""
    dataset(tmp_path)
    alive: list[int] = []
    most: list[int] = []

    class Counted(shard_sampler._Loaded):
        def __init__(self, inputs: np.ndarray, labels: np.ndarray, owners: np.ndarray) -> None:
            super().__init__(inputs, labels, owners)
            alive.append(len(inputs))
            most.append(sum(alive))

        def __del__(self) -> None:
            alive.remove(len(self.inputs))

    monkeypatch.setattr(shard_sampler, "_Loaded", Counted)
    sampler = ShardSampler(tmp_path, CONFIG, seed=5)
    rows = rows_of(sampler, 60)
    assert max(most) <= 12 * 12
    assert len(np.unique(rows)) > 0.95 * 264


@pytest.mark.parametrize("config", [CONFIG, WHOLE])
@pytest.mark.parametrize("weighting", ["uniform", "proportional"])
def test_resumes_at_a_step(tmp_path: Path, config: SamplerConfig, weighting: str) -> None:
    dataset(tmp_path)
    config = config.model_copy(update={"weighting": weighting})
    whole = list(ShardSampler(tmp_path, config, seed=5).batches(steps=40))
    for start in (1, 7, 22):
        rest = ShardSampler(tmp_path, config, seed=5).batches(start)
        for (a, b), (c, d) in zip(whole[start:], rest, strict=False):
            assert (a == c).all()
            assert (b == d).all()
    other = next(ShardSampler(tmp_path, config, seed=6).batches())
    assert (row_of(other[0]) != row_of(whole[0][0])).any()


def test_dataset_equals_batches(tmp_path: Path) -> None:
    dataset(tmp_path)
    sampler = ShardSampler(tmp_path, CONFIG, seed=5)
    for (a, b), (c, d) in zip(sampler.dataset(2).take(20).as_numpy_iterator(), sampler.batches(2), strict=False):
        assert (a == c).all()
        assert (b == d).all()
    assert len(list(sampler.dataset(3, steps=7))) == 7


@pytest.mark.parametrize("replicas", [2, 4])
def test_replicas_share_the_stream_of_one(tmp_path: Path, replicas: int) -> None:
    dataset(tmp_path)
    config = CONFIG.model_copy(update={"classes_per_batch": 4})
    sampler = ShardSampler(tmp_path, config, seed=5)
    one = list(sampler.batches(steps=30))
    parts = [
        list(ShardSampler(tmp_path, config, seed=5).dataset(steps=30, replica=replica, replicas=replicas).as_numpy_iterator())
        for replica in range(replicas)
    ]
    for step, (inputs, labels) in enumerate(one):
        shares = [parts[replica][step] for replica in range(replicas)]
        assert (np.concatenate([share[0] for share in shares]) == inputs).all()
        assert (np.concatenate([share[1] for share in shares]) == labels).all()
        rows = [set(row_of(share[0]).tolist()) for share in shares]
        assert sum(map(len, rows)) == len(set.union(*rows)) == 16
        assert all(sorted(Counter(share[1].tolist()).values()) == [4] * (4 // replicas) for share in shares)
    with pytest.raises(ValueError, match="replica 0 of 3"):
        next(sampler.batches(replicas=3))


@pytest.mark.parametrize("replicas", [2, 4])
def test_devices_of_a_strategy_share_the_stream_of_one(tmp_path: Path, replicas: int) -> None:
    """`MirroredStrategy` on logical devices, in a process of its own."""
    dataset(tmp_path / "examples")
    out = tmp_path / "rows.npz"
    program = Path(__file__).with_name("sampler_replicas.py")
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path / "examples"), str(out), str(replicas), "25"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    shares = np.load(out)["rows"]
    assert shares.shape == (25, replicas, 16 // replicas)
    config = CONFIG.model_copy(update={"classes_per_batch": 4})
    assert (shares.reshape(25, 16) == rows_of(ShardSampler(tmp_path / "examples", config, seed=5), 25)).all()
    assert all(len(np.unique(step)) == 16 for step in shares)


def test_unlabelled_examples_as_one_class(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(3), 20)
    make_examples(tmp_path, pixels(60), labels, num_shards=3, unlabelled=np.arange(60) % 2 == 0)
    config = SamplerConfig(
        classes_per_batch=1, examples_per_class=12, ignore_labels=True, weighting="proportional", open_blocks=64
    )
    sampler = ShardSampler(tmp_path, config, seed=0)
    batches = list(sampler.batches(steps=5))
    assert sorted(np.concatenate([row_of(inputs) for inputs, _ in batches]).tolist()) == list(range(60))
    for inputs, classes in batches:
        rows = row_of(inputs)
        assert (classes == np.where(rows % 2 == 0, -1, labels[rows])).all()
    labelled = ShardSampler(tmp_path, config.model_copy(update={"ignore_labels": False, "examples_per_class": 5}), seed=0)
    assert all((classes >= 0).all() for _, classes in labelled.batches(steps=10))
    with pytest.raises(ConfigError, match="set classes_per_batch: 1"):
        ShardSampler(tmp_path, config.model_copy(update={"classes_per_batch": 2}), seed=0)


def test_held_out_classes_are_never_drawn(tmp_path: Path) -> None:
    dataset(tmp_path)
    sampler = ShardSampler(tmp_path, CONFIG, seed=0, held_out=["1", "4"])
    assert {int(name) for _, labels in sampler.batches(steps=60) for name in labels} == set(range(12)) - {1, 4}
    with pytest.raises(ConfigError, match="held-out class 'x' is not a train class"):
        ShardSampler(tmp_path, CONFIG, seed=0, held_out=["x"])


def test_near_classes_from_a_step_on(tmp_path: Path) -> None:
    """Pairs of classes that are neighbors meet in nearly every batch after the step, and resume gives the same."""
    dataset(tmp_path, classes=24, each=8)
    hard = {"share": 1.0, "bundle": 2}
    config = SamplerConfig.model_validate({"classes_per_batch": 4, "examples_per_class": 2, "hard_classes": hard})
    near = (np.arange(24) ^ 1)[:, None].astype(np.int32)

    def together(batches: list[tuple[np.ndarray, np.ndarray]]) -> float:
        names = [set(labels.tolist()) for _, labels in batches]
        return sum(len(batch & {name ^ 1 for name in batch}) for batch in names) / (4 * len(names))

    sampler = ShardSampler(tmp_path, config, seed=0)
    steps = sampler.steps_per_pass
    sampler.set_neighbors(near, from_step=steps)
    batches = list(sampler.batches(steps=3 * steps))
    assert together(batches[:steps]) < 0.35
    assert together(batches[steps:]) > 0.7
    again = ShardSampler(tmp_path, config, seed=0)
    again.set_neighbors(near, from_step=steps)
    for (a, _), (b, _) in zip(batches[steps + 5 :], again.batches(steps + 5), strict=False):
        assert (a == b).all()


def test_from_object_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset(tmp_path / "bucket" / "examples")
    with serving(tmp_path) as gcs:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.url)
        gcs.fail_every = 7
        remote = ShardSampler("gs://bucket/examples", CONFIG, seed=5)
        local = ShardSampler(tmp_path / "bucket" / "examples", CONFIG, seed=5)
        for (a, b), (c, d) in zip(remote.batches(steps=20), local.batches(steps=20), strict=True):
            assert (a == c).all()
            assert (b == d).all()
        (tmp_path / "bucket" / "examples" / "train-00003-of-00011.tfrecord.gz").unlink()
        with pytest.raises(ContractError, match=r"gs://bucket/examples/train-00003-of-00011\.tfrecord\.gz: .*missing"):
            ShardSampler("gs://bucket/examples", CONFIG, seed=5)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 9), st.integers(1, 12), st.integers(0, 9))
def test_read_classes(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], num_shards: int, at_most: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("classes")
    labels = np.repeat(np.arange(len(sizes)), sizes)
    info = make_examples(folder, pixels(len(labels)), labels, num_shards=num_shards)
    wanted = list(range(0, len(sizes), 2))
    inputs, found = read_classes(folder, info, wanted, at_most=at_most, seed=seed)
    rows = row_of(inputs)
    assert (labels[rows] == found).all()
    assert len(set(rows.tolist())) == len(rows)
    assert Counter(found.tolist()) == {name: min(at_most, sizes[name]) for name in wanted}


def test_vectors(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    y = np.repeat(np.arange(4), 10)
    make_examples(tmp_path, x, y)
    inputs, labels = next(ShardSampler(tmp_path, CONFIG, seed=1).batches())
    assert all((x[y == label] == row).all(axis=1).any() for row, label in zip(inputs, labels, strict=True))


# --- what cannot be sampled ----------------------------------------------------------------------------------------


def test_too_few_classes_or_examples(tmp_path: Path) -> None:
    dataset(tmp_path, num_shards=2, classes=3, each=5)
    with pytest.raises(ConfigError, match=r"train\.sampler\.classes_per_batch: 4 classes a batch.* has 3"):
        ShardSampler(tmp_path, SamplerConfig(classes_per_batch=4, examples_per_class=2), seed=0)
    with pytest.raises(SourceError, match=r"(?s)0 \(5\), 1 \(5\), 2 \(5\).*set train\.sampler\.small_classes"):
        ShardSampler(tmp_path, SamplerConfig(classes_per_batch=3, examples_per_class=6), seed=0)


def test_small_classes_repeat_or_are_skipped(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(5), [3, 12, 12, 12, 12])
    make_examples(tmp_path, pixels(len(labels)), labels)
    config = SamplerConfig(classes_per_batch=3, examples_per_class=4, small_classes="repeat")
    small = [inputs[classes == 0] for inputs, classes in ShardSampler(tmp_path, config, seed=0).batches(steps=40)]
    for four in (part for part in small if len(part)):
        assert sorted(Counter(row_of(four).tolist()).values()) == [1, 1, 2]
    assert sum(map(len, small)) > 20
    config = config.model_copy(update={"small_classes": "skip"})
    assert all((classes > 0).all() for _, classes in ShardSampler(tmp_path, config, seed=0).batches(steps=40))


def test_groups_too_small_are_told_before_training(tmp_path: Path) -> None:
    dataset(tmp_path, num_shards=11, classes=6)
    config = CONFIG.model_copy(update={"open_blocks": 4})
    sampler = ShardSampler(tmp_path, config, seed=5)
    with pytest.raises(ConfigError, match=r"(?s)train\.sampler\.open_blocks: the 2 blocks .*there are 12 blocks"):
        sampler.check_groups(100)
    with pytest.raises(ConfigError, match=r"train\.sampler\.open_blocks"):
        next(sampler.batches())


def test_classes_never_drawn_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Class 4 lies thinly over twelve shards: three blocks never hold four examples of it."""
    y = np.repeat(np.arange(5), [72, 72, 72, 72, 12])
    make_examples(tmp_path, pixels(len(y)), y, num_shards=12, shard_of=np.arange(len(y)) % 12)
    thin = CONFIG.model_copy(update={"block_examples": 28, "open_blocks": 6})
    ShardSampler(tmp_path, thin, seed=5).check_groups(100)
    assert "1 train classes are never drawn: raise train.sampler.open_blocks" in caplog.text
    caplog.clear()
    ShardSampler(tmp_path, WHOLE, seed=5).check_groups(100)
    assert not caplog.text
