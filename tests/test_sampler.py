"""The shard sampler: its plan against plain statements of what a batch is, and damaged shards."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_examples import make_examples

from simpipe.config.models import SamplerConfig
from simpipe.data.examples import DatasetInfo
from simpipe.errors import ConfigError, ContractError, SourceError
from simpipe.samplers import shard_sampler
from simpipe.samplers.plan import VisitPlan, plan_pass
from simpipe.samplers.shard_sampler import ShardSampler


@st.composite
def groups(draw: st.DrawFn) -> tuple[np.ndarray, int, int, int]:
    """(labels in random order, P, K, seed) with at least P classes of K examples, and some smaller ones."""
    k = draw(st.integers(2, 5))
    counts = draw(st.lists(st.integers(1, 17), min_size=1, max_size=9).filter(lambda c: max(c) >= k))
    p = draw(st.integers(1, sum(count >= k for count in counts)))
    seed = draw(st.integers(0, 2**31))
    labels = np.repeat(np.arange(len(counts)) * 7, counts)
    return np.random.default_rng(seed).permutation(labels), p, k, seed


def batches_of(labels: np.ndarray, p: int, k: int, *seed: int, steps: int = 150) -> np.ndarray:
    plan = VisitPlan(labels, classes_per_batch=p, examples_per_class=k, seed=seed)
    return np.stack(list(itertools.islice(plan.batches(), steps)))


@settings(max_examples=60, deadline=None)
@given(groups())
def test_plan_batches_are_exact(group: tuple[np.ndarray, int, int, int]) -> None:
    labels, p, k, seed = group
    for rows in batches_of(labels, p, k, seed):
        assert len(set(rows.tolist())) == p * k
        assert sorted(Counter(labels[rows].tolist()).values()) == [k] * p
        assert (labels[rows].reshape(p, k) == labels[rows].reshape(p, k)[:, :1]).all()


@settings(max_examples=60, deadline=None)
@given(groups())
def test_plan_repeats_no_example_before_all_were_seen(group: tuple[np.ndarray, int, int, int]) -> None:
    labels, p, k, seed = group
    dealt = batches_of(labels, p, k, seed).ravel()
    for name, count in zip(*np.unique(labels, return_counts=True), strict=True):
        stream = dealt[labels[dealt] == name]
        assert len(stream) == 0 or count >= k
        rounds = len(stream) // count
        assert all(len(set(part.tolist())) == count for part in np.split(stream[: rounds * count], rounds or 1) if rounds)


@settings(max_examples=30, deadline=None)
@given(groups())
def test_plan_follows_from_its_seed(group: tuple[np.ndarray, int, int, int]) -> None:
    labels, p, k, seed = group
    assert (batches_of(labels, p, k, seed) == batches_of(labels, p, k, seed)).all()


def test_plan_shuffles_anew_and_other_seeds_differ() -> None:
    labels = np.repeat(np.arange(4), 12)
    rows = batches_of(labels, 4, 4, 1, steps=30)  # every class deals 12 examples in three batches
    rounds = [tuple(np.concatenate([r[labels[r] == 0] for r in rows[i : i + 3]])) for i in range(0, 30, 3)]
    assert len(set(rounds)) == 10
    assert {tuple(sorted(r)) for r in rounds} == {tuple(range(12))}
    assert (batches_of(labels, 4, 4, 2, steps=30) != rows).any()


def test_plan_draws_classes_uniformly() -> None:
    labels = np.repeat(np.arange(10), [4, 40, 4, 4, 4, 4, 4, 4, 4, 4])
    drawn = Counter(labels[batches_of(labels, 2, 4, 5, steps=2000)].ravel().tolist())
    expected = 2000 * 2 * 4 / 10
    assert all(abs(count - expected) < 0.15 * expected for count in drawn.values())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.integers(1, 8), st.integers(0, 5))
def test_pass_covers_every_shard_once(lengths: list[int], open_shards: int, number: int) -> None:
    visits = plan_pass(lengths, open_shards=open_shards, batch=8, seed=3, number=number)
    assert visits == plan_pass(lengths, open_shards=open_shards, batch=8, seed=3, number=number)
    shards = [shard for visit in visits for shard in visit.shards]
    assert sorted(shards) == [shard for shard, length in enumerate(lengths) if length]
    assert all(len(visit.shards) <= open_shards for visit in visits)
    if len(visits) > 1:
        for visit in visits:
            assert visit.steps == max(1, round(sum(lengths[shard] for shard in visit.shards) / 8))
    else:
        assert visits[0].steps is None


def test_passes_group_shards_anew() -> None:
    passes = {tuple(v.shards for v in plan_pass([10] * 11, open_shards=3, batch=8, seed=3, number=n)) for n in range(5)}
    assert len(passes) == 5


# --- on files ----------------------------------------------------------------------------------------------------


def dataset(
    folder: Path, *, classes: int = 6, each: int = 22, num_shards: int = 11, compression: str = "gzip"
) -> tuple[np.ndarray, np.ndarray]:
    """Images whose pixels name their row, so that a batch tells which examples it holds."""
    y = np.repeat(np.arange(classes), each)
    x = np.zeros((len(y), 4, 4, 1), np.uint8)
    x[:, 0, 0, 0], x[:, 0, 1, 0] = np.arange(len(y)) % 256, np.arange(len(y)) // 256
    make_examples(folder, x, y, num_shards=num_shards, compression=compression)
    return x, y


def row_of(inputs: np.ndarray) -> np.ndarray:
    pixels = inputs.astype(np.int64)
    return pixels[:, 0, 0, 0] + 256 * pixels[:, 0, 1, 0]


CONFIG = SamplerConfig(classes_per_batch=3, examples_per_class=4, open_shards=3)


def test_many_shards_few_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, y = dataset(tmp_path)
    opened: list[int] = []
    read = shard_sampler.read_shards
    monkeypatch.setattr(shard_sampler, "read_shards", lambda shards, info: opened.append(len(shards)) or read(shards, info))
    sampler = ShardSampler(tmp_path, CONFIG, seed=5)
    sampler.check_visits(60)
    batches = list(itertools.islice(sampler.batches(), 60))
    assert max(opened) <= 3
    assert len(opened) >= 4
    seen = set()
    for inputs, labels in batches:
        rows = row_of(inputs)
        seen |= set(rows.tolist())
        assert inputs.dtype == np.uint8
        assert labels.dtype == np.int64
        assert (y[rows] == labels).all()
        assert len(set(rows.tolist())) == 12
        assert sorted(Counter(labels.tolist()).values()) == [4, 4, 4]
    assert len(seen) > 0.95 * len(y)


@pytest.mark.parametrize("open_shards", [3, 64])
def test_resumes_at_a_step(tmp_path: Path, open_shards: int) -> None:
    dataset(tmp_path)
    config = CONFIG.model_copy(update={"open_shards": open_shards})
    whole = list(itertools.islice(ShardSampler(tmp_path, config, seed=5).batches(), 30))
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


def first_shard(folder: Path) -> Path:
    return folder / DatasetInfo.load(folder).splits["train"].shards[0].path


def drain(folder: Path) -> None:
    sampler = ShardSampler(folder, CONFIG.model_copy(update={"open_shards": 64}), seed=5)
    next(sampler.batches())


@pytest.mark.parametrize("compression", ["", "gzip"])
@pytest.mark.parametrize("extra", [0, 5, 50])
def test_truncated_shard(tmp_path: Path, compression: str, extra: int) -> None:
    dataset(tmp_path, num_shards=2, compression=compression)
    path = first_shard(tmp_path)
    os.truncate(path, path.stat().st_size * 2 // 3 + extra)
    with pytest.raises(ContractError, match=rf"{path.name}: record \d+: .*(?s:.)*cure: .*simpipe shard"):
        drain(tmp_path)


def test_flipped_byte_names_the_record(tmp_path: Path) -> None:
    dataset(tmp_path, num_shards=2, compression="")
    path = first_shard(tmp_path)
    data = bytearray(path.read_bytes())
    size = len(data) // 66
    data[size * 10 + 30] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ContractError, match=f"{path.name}: record 10: "):
        drain(tmp_path)


def test_error_passes_through_the_data_set(tmp_path: Path) -> None:
    dataset(tmp_path, num_shards=2, compression="")
    os.truncate(first_shard(tmp_path), 100)
    sampler = ShardSampler(tmp_path, CONFIG, seed=5)
    with pytest.raises(ContractError, match="record 1"), sampler.raising():
        next(iter(sampler.dataset()))


def edit(folder: Path, **change: object) -> None:
    info = DatasetInfo.load(folder)
    train = info.splits["train"]
    shards = (train.shards[0].model_copy(update=change), *train.shards[1:])
    lengths = tuple(shard.num_examples for shard in shards)
    train = train.model_copy(update={"shards": shards, "shard_lengths": lengths, "num_examples": sum(lengths)})
    blocks = [block for shard in shards for block in shard.class_blocks]
    counts = {name: sum(n for c, n in blocks if c == i) for i, name in enumerate(info.class_names)}
    splits = {**info.splits, "train": train}
    info.model_copy(update={"splits": splits, "class_counts": {**info.class_counts, "train": counts}}).save(folder)


def test_wrong_number_of_records(tmp_path: Path) -> None:
    dataset(tmp_path, num_shards=2)
    blocks = DatasetInfo.load(tmp_path).splits["train"].shards[0].class_blocks
    for extra, message in ((1, "record 66: the file ends there.* says 67"), (-1, "66 records.* says 65")):
        changed = (*blocks[:-1], (blocks[-1][0], blocks[-1][1] + extra))
        edit(tmp_path, class_blocks=changed, num_examples=sum(n for _, n in changed))
        with pytest.raises(ContractError, match=f"{first_shard(tmp_path).name}: {message}"):
            drain(tmp_path)


def test_wrong_class_blocks(tmp_path: Path) -> None:
    dataset(tmp_path, num_shards=2)
    blocks = DatasetInfo.load(tmp_path).splits["train"].shards[0].class_blocks
    edit(tmp_path, class_blocks=(blocks[1], blocks[0], *blocks[2:]))
    with pytest.raises(ContractError, match=f"{first_shard(tmp_path).name}: class blocks differ"):
        drain(tmp_path)


def test_missing_shard(tmp_path: Path) -> None:
    dataset(tmp_path, num_shards=2)
    first_shard(tmp_path).unlink()
    with pytest.raises(ContractError, match="missing"):
        ShardSampler(tmp_path, CONFIG, seed=5)


def test_too_few_classes_or_examples(tmp_path: Path) -> None:
    dataset(tmp_path, num_shards=2, classes=3, each=5)
    with pytest.raises(ConfigError, match=r"train\.sampler\.classes_per_batch: 4 classes a batch.* has 3"):
        ShardSampler(tmp_path, SamplerConfig(classes_per_batch=4, examples_per_class=2), seed=0)
    with pytest.raises(SourceError, match=r"(?s)0 \(5\), 1 \(5\), 2 \(5\).*lower train\.sampler\.examples_per_class"):
        ShardSampler(tmp_path, SamplerConfig(classes_per_batch=3, examples_per_class=6), seed=0)


def test_groups_too_small_are_told_before_training(tmp_path: Path) -> None:
    dataset(tmp_path, num_shards=11, classes=6, each=11)
    sampler = ShardSampler(tmp_path, CONFIG, seed=5)
    with pytest.raises(ConfigError, match=r"train\.sampler\.open_shards"):
        sampler.check_visits(100)


def test_classes_never_drawn_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Class 4 lies thinly over twelve shards: three of them never hold four examples of it."""
    y = np.repeat(np.arange(5), [36, 36, 36, 36, 12])
    x = np.zeros((len(y), 4, 4, 1), np.uint8)
    make_examples(tmp_path, x, y, num_shards=12, shard_of=np.arange(len(y)) % 12)
    ShardSampler(tmp_path, CONFIG, seed=5).check_visits(100)
    assert "1 train classes are never drawn: raise train.sampler.open_shards" in caplog.text
    caplog.clear()
    ShardSampler(tmp_path, CONFIG.model_copy(update={"open_shards": 12}), seed=5).check_visits(100)
    assert not caplog.text


def test_vectors_and_nan(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    y = np.repeat(np.arange(4), 10)
    make_examples(tmp_path / "good", x, y)
    inputs, labels = next(ShardSampler(tmp_path / "good", CONFIG, seed=1).batches())
    assert all((x[y == label] == row).all(axis=1).any() for row, label in zip(inputs, labels, strict=True))
    x[17, 1] = np.nan
    make_examples(tmp_path / "bad", x, y)
    with pytest.raises(SourceError, match="id-000017"):
        drain(tmp_path / "bad")
