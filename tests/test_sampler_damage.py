"""What the shard sampler says of damaged data sets, and what it makes of them where damage may be skipped."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from make_examples import make_examples
from sampler_data import CONFIG, WHOLE, dataset, row_of

from simpipe.config.models import SamplerConfig
from simpipe.data.examples import DatasetInfo
from simpipe.errors import ContractError, SourceError
from simpipe.samplers.shard_sampler import ShardSampler


def first_shard(folder: Path) -> Path:
    return folder / DatasetInfo.load(folder).splits["train"].shards[0].path


def drain(folder: Path, **changes: Any) -> ShardSampler:
    """A whole pass over everything."""
    sampler = ShardSampler(folder, WHOLE.model_copy(update=changes), seed=5)
    for _ in sampler.batches(steps=sampler.steps_per_pass):
        pass
    return sampler


@pytest.mark.parametrize("compression", ["", "gzip"])
@pytest.mark.parametrize("extra", [0, 5, 50])
def test_truncated_shard(tmp_path: Path, compression: str, extra: int) -> None:
    dataset(tmp_path, num_shards=2, compression=compression)
    path = first_shard(tmp_path)
    os.truncate(path, path.stat().st_size * 2 // 3 + extra)
    with pytest.raises(ContractError, match=rf"{path.name}: record \d+: .*(?s:.)*cure: .*simpipe shard"):
        drain(tmp_path)


@pytest.mark.parametrize("where", [3, 10, 30, -2])
def test_flipped_byte_names_the_record(tmp_path: Path, where: int) -> None:
    """In the length, its checksum, the data, or the data's checksum of record 10."""
    dataset(tmp_path, num_shards=2, compression="")
    path = first_shard(tmp_path)
    data = bytearray(path.read_bytes())
    size = len(data) // 132
    data[size * (10 if where > 0 else 11) + where] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ContractError, match=f"{path.name}: record 10: length or data differ from their checksum"):
        drain(tmp_path)


@pytest.mark.parametrize("at", [0.02, 0.5, 0.9])
def test_flipped_byte_in_gzip(tmp_path: Path, at: float) -> None:
    dataset(tmp_path, num_shards=2)
    path = first_shard(tmp_path)
    data = bytearray(path.read_bytes())
    data[10 + int(at * len(data))] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ContractError, match=rf"{path.name}: record \d+: "):
        drain(tmp_path)


def replace_record(folder: Path, number: int, change: dict[str, Any]) -> None:
    """Writes another example as record `number` of the first shard, with offsets, sums and sizes as a writer would."""
    path = first_shard(folder)
    records = [bytes(record.numpy()) for record in tf.data.TFRecordDataset(str(path))]
    example = tf.train.Example.FromString(records[number])
    for name, feature in change.items():
        if feature is None:
            del example.features.feature[name]
        else:
            example.features.feature[name].CopyFrom(feature)
    records[number] = example.SerializeToString()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    offsets = np.cumsum([0, *(len(record) + 16 for record in records)]).astype(np.uint64)
    np.save(path.with_name(path.name + ".offsets.npy"), offsets)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": None}, "image"),
        ({"image": tf.train.Feature(float_list=tf.train.FloatList(value=[1.0] * 16))}, "image"),
        ({"image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[bytes(64)]))}, "16 bytes of uint8"),
        ({"id": None}, "id"),
        ({"label": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"1"]))}, "label"),
    ],
)
def test_wrong_feature_or_dtype(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    dataset(tmp_path, num_shards=2, compression="")
    replace_record(tmp_path, 17, change)
    with pytest.raises(ContractError, match=rf"{first_shard(tmp_path).name}: record 17: .*{message}"):
        drain(tmp_path)


def test_missing_and_surplus_files(tmp_path: Path) -> None:
    dataset(tmp_path, num_shards=2)
    path = first_shard(tmp_path)
    surplus = path.with_name("train-00002-of-00003.tfrecord.gz")
    surplus.write_bytes(path.read_bytes())
    with pytest.raises(ContractError, match=rf"(?s){surplus.name}: not listed.*cure: remove the file"):
        ShardSampler(tmp_path, CONFIG, seed=5)
    surplus.unlink()
    sidecar = path.with_name(path.name + ".offsets.npy")
    kept = sidecar.read_bytes()
    sidecar.unlink()
    with pytest.raises(ContractError, match=f"{sidecar.name}: .*missing"):
        ShardSampler(tmp_path, CONFIG, seed=5)
    sidecar.write_bytes(kept[:-9])
    with pytest.raises(ContractError, match=f"{sidecar.name}: the file ends early"):
        drain(tmp_path)
    sidecar.write_bytes(kept)
    path.unlink()
    with pytest.raises(ContractError, match=f"{path.name}: .*missing"):
        ShardSampler(tmp_path, CONFIG, seed=5)


def test_labels_that_differ_from_the_plan(tmp_path: Path) -> None:
    dataset(tmp_path, num_shards=2, compression="")
    replace_record(tmp_path, 17, {"label": tf.train.Feature(int64_list=tf.train.Int64List(value=[5]))})
    for skip in (0.0, 0.5):
        with pytest.raises(ContractError, match=rf"{first_shard(tmp_path).name}: class blocks differ .* from record 17 on"):
            drain(tmp_path, skip_corrupt=skip)


def test_not_a_number(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    x[17, 1] = np.nan
    make_examples(tmp_path, x, np.repeat(np.arange(4), 10))
    with pytest.raises(SourceError, match="id-000017"):
        drain(tmp_path)
    assert drain(tmp_path, skip_corrupt=0.05).summary()["corrupt_skipped"] == 1


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing", "wrong feature"])
@pytest.mark.parametrize("config", [CONFIG, WHOLE])
def test_skips_damaged_records_up_to_a_share(tmp_path: Path, damage: str, config: SamplerConfig) -> None:
    y = dataset(tmp_path, num_shards=12, compression="")
    path = first_shard(tmp_path)
    data = bytearray(path.read_bytes())
    size = len(data) // 22
    bad = {"flipped": 2, "truncated": 6, "missing": 22, "wrong feature": 1}[damage]
    if damage == "flipped":
        data[size * 3 + 20] ^= 1
        data[size * 9 + 20] ^= 1
        path.write_bytes(data)
    elif damage == "truncated":
        path.write_bytes(data[: size * 16 + 5])
    elif damage == "missing":
        path.unlink()
    else:
        replace_record(tmp_path, 8, {"image": None})
    config = config.model_copy(update={"skip_corrupt": 22 / 264, "weighting": "proportional"})
    sampler = ShardSampler(tmp_path, config, seed=5)
    steps = sampler.steps_per_pass
    for inputs, labels in sampler.batches(steps=3 * steps):
        rows = row_of(inputs)
        assert (y[rows] == labels).all()
        assert len(set(rows.tolist())) == 12
        assert sorted(Counter(labels.tolist()).values()) == [4] * 3
    assert sampler.summary()["corrupt_skipped"] == bad
    less = config.model_copy(update={"skip_corrupt": (bad - 1) / 264 + 1e-9})
    beyond = rf": record \d+: .*with it {bad} records are damaged.*allows {bad - 1}" if bad > 1 else ""
    with pytest.raises(ContractError, match=path.name + beyond):
        list(ShardSampler(tmp_path, less, seed=5).batches(steps=3 * steps))


def test_error_passes_through_the_data_set(tmp_path: Path) -> None:
    dataset(tmp_path, num_shards=2, compression="")
    os.truncate(first_shard(tmp_path), 100)
    sampler = ShardSampler(tmp_path, WHOLE, seed=5)
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
    for extra in (1, -1):
        changed = (*blocks[:-1], (blocks[-1][0], blocks[-1][1] + extra))
        edit(tmp_path, class_blocks=changed, num_examples=sum(n for _, n in changed))
        with pytest.raises(
            ContractError, match=rf"{first_shard(tmp_path).name}.offsets.npy: .*shape \(133,\), expected .*\({133 + extra},\)"
        ):
            drain(tmp_path)


def test_wrong_class_blocks(tmp_path: Path) -> None:
    dataset(tmp_path, num_shards=2)
    blocks = DatasetInfo.load(tmp_path).splits["train"].shards[0].class_blocks
    edit(tmp_path, class_blocks=(blocks[1], blocks[0], *blocks[2:]))
    with pytest.raises(ContractError, match=f"{first_shard(tmp_path).name}: class blocks differ"):
        drain(tmp_path)


def test_a_record_that_is_no_example(tmp_path: Path) -> None:
    """Bytes that are no text: TensorFlow repeats them in its message, which cannot be decoded."""
    dataset(tmp_path, num_shards=2, compression="")
    path = first_shard(tmp_path)
    records = [bytes(record.numpy()) for record in tf.data.TFRecordDataset(str(path))]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number, record in enumerate(records):
            writer.write(bytes([0xFF, 0xFE] * 4) if number == 17 else record)
    sizes = [8 if number == 17 else len(record) for number, record in enumerate(records)]
    np.save(path.with_name(path.name + ".offsets.npy"), np.cumsum([0, *(size + 16 for size in sizes)]).astype(np.uint64))
    with pytest.raises(ContractError, match=rf"{path.name}: record 17: "):
        drain(tmp_path)
