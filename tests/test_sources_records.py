"""Sources of records, TFRecord files and TFDS names, against what was put into them."""

from __future__ import annotations

import gzip
import io
import os

import numpy as np
import pytest
from PIL import Image
from source_data import images_of, read_all, source

from simpipe.data.sources import open_source, source_fingerprint
from simpipe.errors import SourceError


def write_records(path, records, compression=""):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path), options=compression) as writer:
        for record in records:
            writer.write(record)


def example(**features):
    import tensorflow as tf

    made = {}
    for name, value in features.items():
        value = value if isinstance(value, list) else [value]
        if isinstance(value[0], bytes):
            made[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=value))
        elif isinstance(value[0], float):
            made[name] = tf.train.Feature(float_list=tf.train.FloatList(value=value))
        else:
            made[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=value))
    return tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString()


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_tfrecord_raw_files_in_natural_order(tmp_path, digits, compression):
    for file in range(11):
        part = [example(pixels=digits[0][i].tobytes(), digit=int(digits[1][i])) for i in range(file * 3, file * 3 + 3)]
        write_records(tmp_path / f"part{file}.tfrecord", part, compression)
    write_records(tmp_path / "part11.tfrecord", [], compression)
    fields = {"input": "pixels", "label": "digit", "shape": [8, 8, 1], "encoding": "raw", "compression": compression}
    config = source("tfrecord", path=tmp_path / "part?.tfrecord", **fields)
    assert [block.name for block in open_source(config).blocks(1)] == [f"part{i}.tfrecord" for i in range(10)]
    config = source("tfrecord", path=tmp_path / "part*.tfrecord", **fields)
    opened, table, rejects = read_all(config)
    files = 11
    assert not rejects
    assert table["id"].to_pylist() == [f"part{f}-{r:06d}" for f in range(files) for r in range(3)]
    assert table["label"].to_pylist() == [str(label) for label in digits[1][: files * 3]]
    np.testing.assert_array_equal(images_of(table, opened.input.shape)[..., 0], digits[0][: files * 3])


def test_tfrecord_floats_and_bad_records(tmp_path):
    good = [example(v=[float(i), 0.5], name=f"n{i}".encode(), label=b"even" if i % 2 == 0 else b"odd") for i in range(6)]
    bad = [
        example(v=[1.0, 2.0, 3.0], name=b"long", label=b"odd"),
        example(v=[1.0, float("nan")], name=b"nan", label=b"odd"),
        example(name=b"none", label=b"odd"),
        example(v=[1.0, 2.0], name=b"\xff", label=b"odd"),
        example(v=[1, 2], name=b"ints", label=b"odd"),
        b"\xffnot a proto",
    ]
    write_records(tmp_path / "t.tfrecord", [*good[:3], *bad, *good[3:], example(v=[1.0, 1.0], name=b"free")])
    config = source("tfrecord", path=tmp_path, input="v", id="name", shape=[2], encoding="float")
    opened, table, rejects = read_all(config)
    assert opened.input.name == "vector"
    assert table["id"].to_pylist() == [f"n{i}" for i in range(6)] + ["free"]
    assert table["label"].to_pylist() == ["even", "odd"] * 3 + [None]
    codes = {r.source.rpartition(" ")[2]: r.code for r in rejects}
    assert codes == {
        "3": "wrong-shape",
        "4": "not-finite",
        "5": "wrong-shape",
        "6": "bad-text",
        "7": "bad-example",
        "8": "bad-example",
    }


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_tfrecord_cut_anywhere(tmp_path, compression):
    """Whatever is cut off, the whole records before are read and a reject names the next one."""
    path = tmp_path / "cut.tfrecord"
    records = [example(v=[float(i)], pad=os.urandom(50)) for i in range(20)]
    write_records(path, records, compression)
    whole = path.read_bytes()
    size = len(records[0]) + 16
    config = source("tfrecord", path=path, input="v", label=None, shape=[1], encoding="float", compression=compression)
    assert read_all(config)[2] == []
    for cut in (
        (len(whole) - 1, len(whole) - 9, size * 7 + 5, size * 7 + 40) if not compression else (len(whole) - 1, len(whole) // 2)
    ):
        path.write_bytes(whole[:cut])
        _, table, rejects = read_all(config)
        assert [(r.source, r.code) for r in rejects] == [(f"cut.tfrecord record {len(table)}", "corrupt-record")]
        assert [round(value[0]) for value in table["input"].to_pylist()] == list(range(len(table)))
        if not compression:
            assert len(table) == cut // size
    if not compression:
        flipped = bytearray(whole)
        flipped[size * 4 + 30] ^= 1
        path.write_bytes(flipped)
        _, table, rejects = read_all(config)
        assert (len(table), rejects[0].source) == (4, "cut.tfrecord record 4")
        path.write_bytes(gzip.compress(whole))
        with pytest.raises(SourceError, match=r"source\.compression"):
            read_all(config)


def test_tfrecord_names_a_missing_feature(tmp_path):
    write_records(tmp_path / "m.tfrecord", [example(v=[1.0])])
    with pytest.raises(SourceError, match=r"source.input: no record of m.tfrecord has feature 'image'[\s\S]*\['v'\]"):
        read_all(source("tfrecord", path=tmp_path, label=None, shape=[8, 8, 1]))


def test_tfds_without_network(tmp_path, digits):
    tfds = pytest.importorskip("tensorflow_datasets")

    class TinyDigits(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.2.3")
        url_infos = {}  # noqa: RUF012  nothing to download

        def _info(self):
            names = ["zero", *map(str, range(1, 10))]
            features = {"image": tfds.features.Image(shape=(8, 8, 1)), "label": tfds.features.ClassLabel(names=names)}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(range(30)), "test": self._generate_examples(range(30, 40))}

        def _generate_examples(self, rows):
            for i in rows:
                yield i, {"image": digits[0][i][..., None], "label": int(digits[1][i])}

    TinyDigits(data_dir=str(tmp_path)).download_and_prepare()
    config = source("tfds", name="tiny_digits", data_dir=tmp_path)
    opened, table, rejects = read_all(config, rows=8)
    assert not rejects
    assert opened.input.shape == (8, 8, 1)
    expected = [f"tiny_digits-{split}-{i:06d}" for split, count in (("train", 30), ("test", 10)) for i in range(count)]
    assert table["id"].to_pylist() == expected
    pixels = [np.asarray(Image.open(io.BytesIO(data))).tobytes() for data in table["input"].to_pylist()]
    seen = sorted(zip(table["label"].to_pylist(), pixels, strict=True))
    assert seen == sorted((str(digits[1][i]) if digits[1][i] else "zero", digits[0][i].tobytes()) for i in range(40))
    part = read_all(source("tfds", name="tiny_digits", data_dir=tmp_path, split="train[10:15]+test"))[1]
    assert part["id"][0].as_py() == "tiny_digits-train-000010"
    assert len(part) == 15
    assert source_fingerprint(config)["version"] == "1.2.3"
    for fields, message in (
        ({"split": "nope"}, "source.split: 'nope'"),
        ({"label": "class"}, "source.label: data set 'tiny_digits' has no feature 'class'"),
        ({"name": "no_such_set"}, "source.name: no TensorFlow data set 'no_such_set'"),
    ):
        with pytest.raises(SourceError, match=message):
            read_all(source("tfds", **{"name": "tiny_digits", "data_dir": tmp_path, **fields}))
