"""Class-balanced batches from TFRecord shards: composition on unequal shards, epochs, groups, seeds, damaged files."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from simpipe.errors import SourceError
from simpipe.samplers import SamplerError, TFRecordDatasetSampler
from simpipe.samplers.record_parser import RecordParser


def write(
    folder: Path,
    shards: Sequence[Sequence[tuple[int, int]]],
    *,
    compression: str = "",
    suffix: str = ".tfrec",
    text: bool = False,
) -> np.ndarray:
    """Shards of contiguous class blocks [(class, length), ...]; an example's x names it. Returns the class of each example."""
    folder.mkdir(exist_ok=True)
    classes: list[int] = []
    for number, blocks in enumerate(shards):
        path = str(folder / f"{number:03d}{suffix}")
        with tf.io.TFRecordWriter(path, tf.io.TFRecordOptions(compression_type=compression)) as writer:
            for name, length in blocks:
                for _ in range(length):
                    label = {"bytes_list": tf.train.BytesList(value=[b"c%d" % name])} if text else {}
                    features = {
                        "x": tf.train.Feature(float_list=tf.train.FloatList(value=[len(classes), name])),
                        "y": tf.train.Feature(**(label or {"int64_list": tf.train.Int64List(value=[name])})),
                    }
                    writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
                    classes.append(name)
    return np.array(classes)


def parse(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    spec = {"x": tf.io.FixedLenFeature([2], tf.float32), "y": tf.io.FixedLenFeature([], tf.int64)}
    example = tf.io.parse_single_example(serialized, spec)
    return example["x"], example["y"]


def take(ds: tf.data.Dataset, steps: int | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(itertools.islice(ds.as_numpy_iterator(), steps))


def rows_of(batches: list) -> list[list[int]]:
    return [batch[0][:, 0].astype(int).tolist() for batch in batches]


def check(batches: list, classes: np.ndarray, p: int, k: int) -> None:
    for (_, y), rows in zip(batches, rows_of(batches), strict=True):
        assert (classes[rows] == y).all()
        assert len(set(rows)) == p * k
        assert sorted(Counter(y.tolist()).values()) == [k] * p


UNEQUAL = [[(0, 7), (1, 31)], [(2, 12)], [(3, 5), (4, 9), (5, 40)], [(6, 8), (1, 3)], [(7, 21)], [(8, 6), (9, 6)], []]


@pytest.mark.parametrize("arguments", [{}, {"shards_per_cycle": 3}, {"shards_per_cycle": 3, "async_cycle": True}])
def test_unequal_shards_give_equal_batches(tmp_path: Path, arguments: dict) -> None:
    classes = write(tmp_path, UNEQUAL)
    ds = TFRecordDatasetSampler(tmp_path, parse, example_per_class=4, batch_size=8, seed=1, **arguments)
    batches = take(ds, 200)
    check(batches, classes, 2, 4)
    assert {row for rows in rows_of(batches) for row in rows} == set(range(len(classes)))
    assert ds.element_spec[0].shape == (8, 2)


def test_groups_vary_within_the_class(tmp_path: Path) -> None:
    """One shard a class, as in the library's own layout, where the same four always met."""
    classes = write(tmp_path, [[(shard, 20)] for shard in range(3)])
    batches = rows_of(take(TFRecordDatasetSampler(tmp_path, parse, 4, 12, seed=2), 60))
    groups = Counter(frozenset(row for row in rows if classes[row] == 1) for rows in batches)
    assert len(groups) >= 57  # of 4,845
    for five in range(0, 60, 5):
        assert sorted(row for rows in batches[five : five + 5] for row in rows) == list(range(60))


def test_passes_and_iterations(tmp_path: Path) -> None:
    classes = write(tmp_path, [[(2 * shard, 10), (2 * shard + 1, 10)] for shard in range(4)])

    def epochs(seed: int | None, **arguments: int) -> list[list[list[int]]]:
        ds = TFRecordDatasetSampler(str(tmp_path), parse, 2, 8, num_repeat=1, seed=seed, **arguments)  # type: ignore[arg-type]
        return [rows_of(take(ds)) for _ in range(3)]

    for arguments in ({}, {"shards_per_cycle": 2}):
        first, second, third = epochs(3, **arguments)
        assert len(first) == len(second) == len(third) == 10  # 80 records, 8 a batch
        assert first != second != third
        assert epochs(3, **arguments) == [first, second, third]
        assert epochs(4, **arguments)[0] != first
        assert epochs(None, **arguments)[0] != epochs(None, **arguments)[0]
    twice = TFRecordDatasetSampler(tmp_path, parse, 2, 8, num_repeat=2, shards_per_cycle=2)
    assert len(take(twice)) == 20
    assert not take(TFRecordDatasetSampler(tmp_path, parse, 2, 8, num_repeat=0, shards_per_cycle=2))
    assert not take(TFRecordDatasetSampler(tmp_path, parse, 2, 8, num_repeat=0))
    assert len(classes) == 80


def test_few_shards_are_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from simpipe.samplers import record_batches, tfrecords_samplers

    write(tmp_path, [[(shard, 10)] for shard in range(9)])
    groups: list[list[str]] = []
    read = record_batches.read_group
    monkeypatch.setattr(record_batches, "read_group", lambda paths, *rest: groups.append(paths) or read(paths, *rest))
    take(TFRecordDatasetSampler(tmp_path, parse, 2, 6, shards_per_cycle=3, num_repeat=4, seed=1))
    assert len(groups) == 12  # each pass reads each shard once; the group read at first is used
    assert all(len(group) == 3 for group in groups)
    passes = [sorted(path for group in groups[i : i + 3] for path in group) for i in range(0, 12, 3)]
    assert passes == [sorted(str(path) for path in tmp_path.iterdir())] * 4
    assert len({tuple(map(tuple, groups[i : i + 3])) for i in range(0, 12, 3)}) == 4

    groups.clear()  # a group of too few classes goes together with the next one
    take(TFRecordDatasetSampler(tmp_path, parse, 2, 8, shards_per_cycle=3, num_repeat=2, seed=1))
    assert {len(group) for group in groups} == {3, 6}

    groups.clear()
    monkeypatch.setattr(tfrecords_samplers, "_OPEN_BYTES", 5 * (tmp_path / "000.tfrec").stat().st_size)
    TFRecordDatasetSampler(tmp_path, parse, 2, 6)
    assert [len(group) for group in groups] == [5]


@pytest.mark.parametrize("compression", [None, "GZIP", "ZLIB"])
def test_compression_and_suffix(tmp_path: Path, compression: str | None) -> None:
    classes = write(tmp_path, [[(0, 8)], [(1, 8)]], compression=compression or "", suffix=".records")
    ds = TFRecordDatasetSampler(tmp_path, parse, 4, 8, compression=compression, shard_suffix="*.records")
    check(take(ds, 3), classes, 2, 4)


def test_functions_that_cannot_be_vectorised(tmp_path: Path) -> None:
    classes = write(tmp_path, UNEQUAL[:3], text=True)

    def python(serialized: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        spec = {"x": tf.io.FixedLenFeature([2], tf.float32), "y": tf.io.FixedLenFeature([], tf.string)}
        example = tf.io.parse_single_example(serialized, spec)
        x = tf.ensure_shape(tf.py_function(lambda values: values, [example["x"]], tf.float32), (2,))
        return x, {"name": example["y"]}

    ds = TFRecordDatasetSampler(tmp_path, python, 4, 8, label_output="name", shards_per_cycle=2, seed=1)
    for x, y in take(ds, 20):
        rows = x[:, 0].astype(int)
        assert [f"c{name}".encode() for name in classes[rows]] == y["name"].tolist()
        assert sorted(Counter(y["name"].tolist()).values()) == [4, 4]


def test_what_is_vectorised(tmp_path: Path) -> None:
    write(tmp_path, [[(0, 8)], [(1, 8)]])
    sample = np.array(list(tf.data.TFRecordDataset(str(tmp_path / "000.tfrec")).take(4).as_numpy_iterator()), object)

    def parser(function: object) -> RecordParser:
        return RecordParser(function, label_of=lambda example: example[1], sample=sample, parallelism=1)  # type: ignore[arg-type]

    assert parser(parse)._vectorised
    # Draws of its own for each record: one by one, as the function is written.
    assert not parser(lambda record: (parse(record)[0] + tf.random.uniform(()), parse(record)[1]))._vectorised
    random = parser(lambda record: (tf.random.uniform(()), parse(record)[1]))
    assert random.labels(tf.constant(sample)).tolist() == [0, 0, 0, 0]


def test_images(tmp_path: Path) -> None:
    """Decoding cannot be vectorised; labels can, without decoding."""
    with tf.io.TFRecordWriter(str(tmp_path / "a.tfrec")) as writer:
        for row in range(24):
            image = tf.io.encode_png(np.full((5, 4, 1), row, np.uint8)).numpy()
            feature = {
                "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[row // 8])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())

    def decode(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        spec = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
        example = tf.io.parse_single_example(serialized, spec)
        return tf.io.decode_png(example["image"], channels=1), example["label"]

    for x, y in take(TFRecordDatasetSampler(tmp_path, decode, 3, 9), 10):
        assert x.shape == (9, 5, 4, 1)
        assert (x[:, 0, 0, 0] // 8 == y).all()
        assert len(set(x[:, 0, 0, 0].tolist())) == 9


def test_fit(tmp_path: Path) -> None:
    write(tmp_path, UNEQUAL)
    ds = TFRecordDatasetSampler(tmp_path, parse, 2, 20, seed=1)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(0.1), keras.layers.Dense(10)])
    model.compile(keras.optimizers.Adam(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    losses = model.fit(ds, epochs=3, steps_per_epoch=20, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_batch_size_is_rounded_down(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    classes = write(tmp_path, UNEQUAL)
    check(take(TFRecordDatasetSampler(tmp_path, parse, 3, 11), 5), classes, 3, 3)
    assert "batch_size 11 is no multiple of 3: batches hold 9 examples" in caplog.text


def test_mistakes_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, [[(0, 3), (1, 8)], [(2, 8)], [(3, 1), (4, 8)]])
    with pytest.raises(SourceError, match=r"no shards match .*\*\.tfrecord"):
        TFRecordDatasetSampler(tmp_path, parse, shard_suffix="*.tfrecord")
    with pytest.raises(SourceError, match=r"2 classes have fewer than example_per_class = 4 examples: 0 \(3\), 3 \(1\)"):
        TFRecordDatasetSampler(tmp_path, parse, 4, 8)
    with pytest.raises(SourceError, match="y of deserialization_fn must be the label"):
        TFRecordDatasetSampler(tmp_path, lambda record: (parse(record)[1], parse(record)[0][0]), 4, 8)
    for together in (None, 1, 2):
        with pytest.raises(SamplerError, match="all 3 shards hold 1 examples of fewer than 8 classes"):
            TFRecordDatasetSampler(tmp_path, parse, 1, 8, shards_per_cycle=together)
    with pytest.raises(SamplerError, match=r"not a tuple \(x, y\)"):
        TFRecordDatasetSampler(tmp_path, lambda record: {"x": parse(record)[0]})
    for arguments in ({"example_per_class": 0}, {"batch_size": 1}, {"shards_per_cycle": 0}):
        with pytest.raises(SamplerError, match="give 1 or more"):
            TFRecordDatasetSampler(tmp_path, parse, **arguments)
    # With shards in turn a class may lie in other groups too: it is left out here, and told once.
    take(TFRecordDatasetSampler(tmp_path, parse, 4, 4, shards_per_cycle=1, num_repeat=5))
    assert caplog.text.count("in 1 shards read together, and are left out there: 0") == 1
    assert caplog.text.count("in 1 shards read together, and are left out there: 3") == 1
    write(tmp_path / "empty", [[], []])
    with pytest.raises(SourceError, match="2 shards hold no records"):
        TFRecordDatasetSampler(tmp_path / "empty", parse)


def test_damaged_shards(tmp_path: Path) -> None:
    write(tmp_path, [[(0, 8)], [(1, 8)], [(2, 8)]])
    good = (tmp_path / "001.tfrec").read_bytes()
    (tmp_path / "001.tfrec").write_bytes(good[:-7])
    with pytest.raises(SourceError, match=r"001\.tfrec: "):
        TFRecordDatasetSampler(tmp_path, parse, 2, 4)
    with tf.io.TFRecordWriter(str(tmp_path / "001.tfrec")) as writer:
        writer.write(b"no example")
    with pytest.raises(SourceError, match=r"001\.tfrec: .*(?s:.)*correct deserialization_fn"):
        TFRecordDatasetSampler(tmp_path, parse, 2, 4)
    (tmp_path / "001.tfrec").write_bytes(good)
    with pytest.raises(SourceError, match=r"000\.tfrec: (?s:.)*compression"):
        TFRecordDatasetSampler(tmp_path, parse, 2, 4, compression="GZIP")
