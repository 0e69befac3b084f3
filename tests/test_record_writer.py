"""The writer of shards: what other readers make of its files, and every entry into them."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from simpipe.data.examples import InputSpec
from simpipe.data.record_writer import RecordWriter, finish_shard, offsets_path, statistics_of
from simpipe.data.serialize import CLASS_INDEX, write_rows
from simpipe.data.sources.base import as_binary
from simpipe.files import sha256_file

READER = """
import json, sys
from tfrecord.reader import tfrecord_iterator
name, compression = sys.argv[1:]
print(json.dumps([bytes(record).hex() for record in tfrecord_iterator(name, compression_type=compression or None)]))
assert "tensorflow" not in sys.modules
"""


def write(path, records, compression, boundaries=()):
    with RecordWriter(path, compression) as writer:
        for number, record in enumerate(records):
            if number in boundaries:
                writer.class_boundary()
            writer.write(record)
    return writer


def write_all(writer, records):
    for record in records:
        writer.write(record)


def framed(records):
    """TensorFlow's own bytes of the same records."""
    with tempfile.TemporaryDirectory() as folder:
        with tf.io.TFRecordWriter(f"{folder}/plain") as writer:
            for record in records:
                writer.write(record)
        return Path(f"{folder}/plain").read_bytes()


def some_records(sizes, seed=0):
    """Half noise, half compressible."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256 if number % 2 else 3, size, np.uint8).tobytes() for number, size in enumerate(sizes)]


@pytest.mark.parametrize("compression", ["", "gzip"])
def test_other_readers_agree(tmp_path, compression):
    records = some_records([0, 1, 300_000, *range(0, 4000, 7), 64 << 10])
    path = tmp_path / "shard"
    write(path, records, compression)
    assert list(tf.data.TFRecordDataset(str(path), compression.upper()).as_numpy_iterator()) == records
    command = [sys.executable, "-c", READER, str(path), compression]
    told = subprocess.run(command, check=True, capture_output=True, timeout=120).stdout
    assert json.loads(told) == [record.hex() for record in records]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.one_of(st.integers(0, 50), st.integers(0, 9000), st.sampled_from([65_520, 131_056, 200_000])), max_size=60),
    st.sets(st.integers(0, 60), max_size=10),
    st.integers(0, 3),
)
def test_every_entry_starts_a_decompression_that_gives_the_right_bytes(sizes, boundaries, seed):
    records = some_records(sizes, seed)
    plain = framed(records)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard"
        writer = write(path, records, "gzip", boundaries)
        data = path.read_bytes()
        bare = write(Path(folder) / "plain", records, "")
        assert bare.path.read_bytes() == plain
    assert gzip.decompress(data) == plain
    assert bare.entries == ()
    assert bare.offsets.tolist() == writer.offsets.tolist() == np.cumsum([0, *(size + 16 for size in sizes)]).tolist()
    assert writer.size == len(data)
    assert data[4:8] == bytes(4), "no time in the file"
    assert writer.entries[0] == (0, 10)
    begins = [int(writer.offsets[record]) for record, _ in writer.entries]
    for place, (_, offset) in enumerate(writer.entries):
        assert zlib.decompressobj(-15).decompress(data[offset:]) == plain[begins[place] :]
        if place + 1 < len(writer.entries):
            stop = writer.entries[place + 1][1]
            assert zlib.decompressobj(-15).decompress(data[offset:stop]) == plain[begins[place] : begins[place + 1]]
    steps, longest = np.diff([*begins, len(plain)]), max(sizes, default=0) + 16
    assert (steps < 128 * 1024 + longest).all()
    assert (steps[:-1] >= 64 * 1024).all()
    early = [record for step, (record, _) in zip(steps, writer.entries[1:], strict=False) if step < 128 * 1024]
    assert set(early) <= boundaries


@pytest.mark.parametrize("compression", ["", "gzip"])
def test_a_shard_is_described_as_it_lies_on_disk(tmp_path, compression):
    records = some_records([5, 100, 30, 30])
    info = finish_shard(write(tmp_path / "shard", records, compression), tmp_path, [(3, 1), (-1, 2), (0, 1)])
    assert (info.path, info.num_examples, info.offsets.path) == ("shard", 4, "shard.offsets.npy")
    for entry in (info, info.offsets):
        path = tmp_path / entry.path
        assert (entry.size, entry.sha256) == (path.stat().st_size, sha256_file(path))
    offsets = np.load(offsets_path(tmp_path / "shard"))
    assert offsets.dtype == np.dtype("<u8")
    assert offsets.tolist() == [0, 21, 137, 183, 229]
    assert tuple(info.statistics.model_dump().values()) == (2, 1, 1, 5, 100, 165)


@pytest.mark.parametrize("compression", ["", "gzip"])
def test_an_empty_shard(tmp_path, compression):
    info = finish_shard(write(tmp_path / "shard", [], compression), tmp_path, [])
    assert np.load(tmp_path / "shard.offsets.npy").tolist() == [0]
    assert list(tf.data.TFRecordDataset(str(tmp_path / "shard"), compression.upper())) == []
    assert set(info.statistics.model_dump().values()) == {0}


def test_statistics_of_one_class_of_rows_without_a_label():
    assert statistics_of(np.array([0, 20, 50], np.uint64), [(-1, 2)]).num_classes == 0


def test_an_error_leaves_nothing(tmp_path):
    path = tmp_path / "shard"
    path.write_bytes(b"older")
    with pytest.raises(TypeError), RecordWriter(path, "gzip") as writer:
        write_all(writer, [b"x" * 200_000, None])
    assert [file.name for file in tmp_path.iterdir()] == ["shard"]
    assert path.read_bytes() == b"older"


def test_a_large_run_begins_at_an_entry(tmp_path):
    """Runs of 60 records of over 1 KiB are longer than 64 KiB, those of 3 are not."""
    runs = [(4, 60), (-1, 60), (7, 3), (2, 60), (0, 200)]
    classes = np.repeat([index for index, _ in runs], [count for _, count in runs])
    pixels = np.random.default_rng(0).integers(0, 256, (len(classes), 32, 32, 1), np.uint8)
    columns = {"id": pa.array([f"i{i}" for i in range(len(classes))]), CLASS_INDEX: pa.array(classes), "input": as_binary(pixels)}
    spec = InputSpec(name="image", shape=(32, 32, 1), dtype="uint8", encoding="raw")
    info = write_rows(tmp_path / "shard", pa.table(columns), input=spec, compression="gzip", folder=tmp_path)
    assert info.class_blocks == tuple(runs)
    assert [record for record, _ in info.entries][:4] == [0, 60, 120, 183]
    assert 5 <= len(info.entries) <= 6, "and the last run has one inside"
    parsed = [
        tf.train.Example.FromString(record).features.feature
        for record in tf.data.TFRecordDataset(str(tmp_path / "shard"), "GZIP").as_numpy_iterator()
    ]
    assert [feature["label"].int64_list.value[0] for feature in parsed] == classes.tolist()
    assert [feature["image"].bytes_list.value[0] for feature in parsed] == [value.tobytes() for value in pixels]
