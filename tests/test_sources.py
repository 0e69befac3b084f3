"""Every source against what was put into it; damaged rows become rejects, never disappear."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from source_data import images_of, png, read_all, source

from simpipe.data.sources import open_source, source_fingerprint
from simpipe.data.sources.base import as_text
from simpipe.data.sources.images import area_resize
from simpipe.data.sources.listing import natural
from simpipe.errors import SourceError

OMNIGLOT = Path(__file__).parents[2] / "shared" / "data" / "omniglot" / "images_background.npz"


def test_digits(digits):
    opened, table, rejects = read_all(source("digits"))
    assert not rejects
    assert table["id"].to_pylist() == [f"digits-{i:05d}" for i in range(1797)]
    assert table["label"].to_pylist() == [str(label) for label in digits[1]]
    np.testing.assert_array_equal(images_of(table, opened.input.shape)[..., 0], digits[0])
    assert table["source"][1700].as_py() == "digits row 1700"
    assert len(source_fingerprint(source("digits"))["sha256"]) == 64


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int32, bool])
def test_npz_one_label_each(tmp_path, digits, dtype):
    images = digits[0][:50]
    values = {bool: images > 127, np.float32: images / np.float32(255)}.get(dtype, images).astype(dtype)
    np.savez(tmp_path / "some.npz", x=values, y=digits[1][:50])
    opened, table, rejects = read_all(source("npz", path=tmp_path / "some.npz"), rows=7)
    assert not rejects
    assert opened.input.shape == (8, 8, 1)
    assert table["id"][33].as_py() == "some-000033"
    np.testing.assert_array_equal(images_of(table, (8, 8)), (images > 127) * 255 if dtype is bool else images)


def test_npz_classes_by_examples(tmp_path, digits):
    by_class = np.stack([digits[0][digits[1] == label][:6] for label in range(10)])
    ids = np.array([[f"c{c}e{e}" for e in range(6)] for c in range(10)])
    np.savez_compressed(tmp_path / "a.npz", images=by_class, labels=np.repeat(np.arange(10)[:, None], 6, 1), ids=ids)
    config = source("npz", path=tmp_path / "a.npz", x="images", y="labels", ids="ids", resize=[4, 4], invert=True)
    opened, table, _ = read_all(config, rows=11)
    assert opened.input.shape == (4, 4, 1)
    assert table["id"].to_pylist() == ids.reshape(-1).tolist()
    assert table["label"].to_pylist() == [str(c) for c in range(10) for _ in range(6)]
    expected = 255 - np.rint(by_class.reshape(60, 4, 2, 4, 2).mean((2, 4)))
    np.testing.assert_array_equal(images_of(table, (4, 4)), expected)


def test_npz_vectors_and_bad_rows(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 5))
    x[3, 2], x[7, 0], x[9, 4] = np.nan, np.inf, 1e300
    np.savez(tmp_path / "v.npz", x=x, y=np.arange(20) % 3)
    opened, table, rejects = read_all(source("npz", path=tmp_path / "v.npz"), rows=8)
    assert (opened.input.encoding, opened.input.shape) == ("float", (5,))
    assert [(r.id, r.source, r.code) for r in rejects] == [(f"v-{i:06d}", f"v.npz row {i}", "not-finite") for i in (3, 7, 9)]
    assert rejects[0].reason == "value 2 is nan"
    np.testing.assert_array_equal(np.array(table["input"].to_pylist(), np.float32), np.delete(x, [3, 7, 9], 0).astype(np.float32))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": np.zeros(3)}, "no array 'x'"),
        ({"x": np.zeros((4, 2, 2)), "y": np.zeros(3)}, r"'y' has shape \[3\], 'x' has \[4, 2, 2\]"),
        ({"x": np.full((3, 2, 2), -1.0), "y": np.zeros(3)}, "values from -1.0"),
        ({"x": np.array([{}, {}]), "y": np.zeros(2)}, "cannot be read"),
        ({"x": np.zeros((3, 2, 2, 2, 2)), "y": np.zeros(3)}, r"\[2, 2, 2, 2\] each"),
    ],
)
def test_npz_that_does_not_fit(tmp_path, arrays, message):
    np.savez(tmp_path / "odd.npz", **arrays)
    with pytest.raises(SourceError, match=message) as error:
        open_source(source("npz", path=tmp_path / "odd.npz"))
    assert "odd.npz" in str(error.value)
    assert error.value.cure


def test_npz_is_read_again_when_it_changes(tmp_path):
    path = tmp_path / "n.npz"
    for step in (1, 2):
        np.savez(path, x=np.full((step, 2, 2), step, np.uint8), y=np.zeros(step))
        os.utime(path, ns=(step, step))
        assert len(read_all(source("npz", path=path))[1]) == step


def test_omniglot():
    if not OMNIGLOT.exists():
        pytest.skip("../shared/data/omniglot is no part of the project and not here; npz is tested with digits above anyway")
    opened = open_source(source("npz", path=OMNIGLOT, x="images", y="labels", resize=[28, 28], invert=True))
    blocks = opened.blocks(4096)
    assert sum(block.rows for block in blocks) == 19280
    table, rejects = opened.read(blocks[-1])
    assert not rejects
    images = images_of(table, (28, 28))
    assert table["label"][-1].as_py() == "963"
    assert 5 < images.mean() < 40, "ink is bright on black"
    with np.load(OMNIGLOT) as data:
        fine = np.float64(255) * ~data["images"][963, 19].repeat(4, 0).repeat(4, 1)
    assert np.abs(images[-1] - fine.reshape(28, 15, 28, 15).mean((1, 3))).max() <= 0.51


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]), st.integers(0, 99))
def test_area_resize_against_brute_force(height, width, new_height, new_width, channels, seed):
    """Oracle: repeat every pixel so that both grids divide the image, then take plain means."""
    image = np.random.default_rng(seed).integers(0, 256, (2, height, width, channels), np.uint8)
    fine = image.repeat(new_height, 1).repeat(new_width, 2).astype(float)
    means = fine.reshape(2, new_height, height, new_width, width, channels).mean((2, 4))
    assert np.abs(area_resize(image, (new_height, new_width)) - means).max() <= 0.51


def test_folder(tmp_path, digits):
    for i in range(30):
        place = tmp_path / "set" / str(digits[1][i])
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i}.png").write_bytes(png(digits[0][i]))
    (tmp_path / "set" / "free.png").write_bytes(png(digits[0][0]))
    (tmp_path / "set" / "0" / "notes.txt").write_text("no image")
    (tmp_path / "set" / "0" / "half.png").write_bytes(png(digits[0][0])[:60])
    (tmp_path / "set" / "0" / "empty.jpg").write_bytes(b"")
    (tmp_path / "set" / "0" / "text.png").write_bytes(b"not an image at all")
    Image.fromarray(digits[0][0]).save(tmp_path / "set" / "0" / "old.bmp")
    config = source("folder", path=tmp_path / "set", resize=[8, 8], channels=1)
    _, table, rejects = read_all(config, rows=9)
    assert {(r.id, r.code) for r in rejects} == {(f"0/{n}", "bad-image") for n in ("half.png", "empty.jpg", "text.png")}
    assert all(r.source == r.id and r.reason for r in rejects)
    assert table["id"].to_pylist() == sorted(table["id"].to_pylist(), key=natural)
    rows = dict(
        zip(table["id"].to_pylist(), zip(table["label"].to_pylist(), table["input"].to_pylist(), strict=True), strict=True)
    )
    assert rows.pop("free.png")[0] is None
    assert rows.pop("0/old.bmp")[1].startswith(b"\x89PNG"), "formats that TensorFlow cannot read with any channels are made PNG"
    assert rows == {f"{digits[1][i]}/{i}.png": (str(digits[1][i]), png(digits[0][i])) for i in range(30)}
    before = source_fingerprint(config)
    (tmp_path / "set" / "0" / "half.png").unlink()
    assert source_fingerprint(config) != before


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_that_passes_is_one_that_the_parser_decodes(tmp_path, digits, channels):
    """Modes and formats in which PIL and TensorFlow differ: what `check_image` lets pass must decode later."""
    import tensorflow as tf

    from simpipe.data.parsing import decode_inputs

    gray = Image.fromarray(digits[0][3])
    made = [(mode, "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")]
    made += [(mode, "JPEG") for mode in ("L", "RGB", "CMYK")]
    made += [(mode, form) for form in ("BMP", "GIF", "TIFF", "WEBP") for mode in ("L", "RGB")]
    for mode, form in made:
        (tmp_path / "a").mkdir(exist_ok=True)
        name = f"{mode}-{form}.{form.lower()}".replace(";", "")
        gray.convert("RGB" if mode == "P" else "L").convert(mode).save(tmp_path / "a" / name, form)
    opened, table, rejects = read_all(source("folder", path=tmp_path, resize=[8, 8], channels=channels))
    assert (len(table), rejects) == (len(made), [])
    decoded = decode_inputs(tf.constant(table["input"].to_pylist()), opened.input).numpy()
    assert decoded.shape == (len(made), 8, 8, channels)
    for name, image in zip(table["id"].to_pylist(), decoded, strict=True):
        lossy = 80 if any(word in name for word in ("JPEG", "WEBP", "a/P-")) else 1  # PIL's palette is coarse
        if not name.startswith(("a/I16", "a/1-")):  # PIL makes other values of these when it writes them
            assert np.abs(image.astype(int) - digits[0][3][..., None]).max() <= lossy, name


def test_parquet_numbers(tmp_path):
    n = 40
    data = {
        "key": pa.array([None if i == 3 else "" if i == 4 else f"k{i}" for i in range(n)]),
        "a": pa.array([None if i == 5 else i for i in range(n)], pa.int32()),
        "b": pa.array([float("nan") if i == 6 else i / 2 for i in range(n)]),
        "class": pa.array([None if i % 7 == 0 else float(i % 3) for i in range(n)]),
        "name": pa.array([f"name {i}" for i in range(n)]).dictionary_encode(),
        "year": pa.array(range(1900, 1900 + n), pa.int16()),
        "price": pa.array(np.arange(n) / 3),
        "unused": pa.array(range(n)),
    }
    for part in range(2):
        pq.write_table(pa.table(data).slice(part * 20, 20), tmp_path / f"p{part}.parquet", row_group_size=6)
    config = source("parquet", path=tmp_path, id="key", label="class", columns=["b", "a"], metadata=["name", "year", "price"])
    opened, table, rejects = read_all(config)
    assert len(opened.blocks(1)) == 8
    assert sorted((r.id, r.source, r.code) for r in rejects) == [
        ("", "p0.parquet row 3", "null-id"),
        ("", "p0.parquet row 4", "empty-id"),
        ("k5", "p0.parquet row 5", "not-finite"),
        ("k6", "p0.parquet row 6", "not-finite"),
    ]
    assert {r.reason for r in rejects if r.code == "not-finite"} == {"column 'a' is null", "column 'b' is nan"}
    good = [i for i in range(n) if i not in (3, 4, 5, 6)]
    assert table["id"].to_pylist() == [f"k{i}" for i in good]
    assert table["label"].to_pylist() == [None if i % 7 == 0 else str(i % 3) for i in good]
    assert table["input"].to_pylist() == [[i / 2, i] for i in good]
    assert table["year"].to_pylist() == [1900 + i for i in good]
    assert [str(field.type) for field in opened.metadata] == ["string", "int64", "float"]


def test_parquet_images(tmp_path, digits):
    images = [png(image) for image in digits[0][:10]]
    plain: list[bytes | None] = [*images[:8], None, b"junk"]
    nested = [{"bytes": image, "path": "x"} for image in plain]
    for name, column in (("plain", pa.array(plain)), ("nested", pa.array(nested))):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"id": range(10), "label": digits[1][:10], "pixels": column}), path)
        _, table, rejects = read_all(source("parquet", path=path, image="pixels", resize=[8, 8]))
        assert table["id"].to_pylist() == [str(i) for i in range(8)]
        assert table["input"].to_pylist() == images[:8]
        assert [(r.id, r.code) for r in rejects] == [("8", "bad-image"), ("9", "bad-image")]


def test_parquet_names_what_is_missing(tmp_path):
    pq.write_table(pa.table({"id": ["a"], "x": [1.0], "text": ["t"]}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=r"source.label: a.parquet has no column 'label'[\s\S]*'id', 'x', 'text'"):
        open_source(source("parquet", path=tmp_path / "a.parquet", columns=["x"]))
    with pytest.raises(SourceError, match=r"'text' of a\.parquet is string, no number"):
        open_source(source("parquet", path=tmp_path / "a.parquet", columns=["text"], label=None))
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(SourceError, match=r"b\.parquet: cannot be read as Parquet"):
        open_source(source("parquet", path=tmp_path / "b.parquet", columns=["x"]))


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "npz"},
        {"kind": "folder", "resize": [8, 8]},
        {"kind": "parquet", "columns": ["a"]},
        {"kind": "tfrecord", "shape": [8, 8, 1]},
        {"kind": "vectors"},
    ],
)
def test_a_missing_path_is_named(tmp_path, fields):
    config = source(fields["kind"], path=tmp_path / "nowhere", **{k: v for k, v in fields.items() if k != "kind"})
    with pytest.raises(SourceError, match=r"source\.path: .*nowhere does not exist") as error:
        source_fingerprint(config)
    assert error.value.cure
    if fields["kind"] != "vectors":
        with pytest.raises(SourceError, match=r"source\.path"):
            open_source(config).blocks(10)


def test_vectors_fingerprint_covers_all_files(tmp_path):
    for name in ("v.npy", "ids.npy", "labels.txt"):
        (tmp_path / name).write_bytes(b"1\n")
    config = source("vectors", path=tmp_path / "v.npy", ids=str(tmp_path / "ids.npy"), labels=str(tmp_path / "labels.txt"))
    first = source_fingerprint(config)
    for name in ("ids.npy", "labels.txt", "v.npy"):
        (tmp_path / name).write_bytes(b"11\n")
        second = source_fingerprint(config)
        assert second != first
        first = second
    with pytest.raises(SourceError, match="vectors has no examples"):
        open_source(config)


def test_sources_that_need_no_tensorflow_do_not_load_it(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 4, 4), np.uint8), y=np.arange(3))
    code = (
        "import sys; from simpipe.config.models import *; from simpipe.data.sources import *; import simpipe.beam.shard\n"
        f"c = [DigitsSource(kind='digits'), NpzSource(kind='npz', path={str(tmp_path / 'a.npz')!r})]\n"
        "[s.read(s.blocks(9)[0]) for s in map(open_source, c)]; [source_fingerprint(x) for x in c]\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([1.0, float("nan"), None, 3.0], ["1", None, None, "3"]),
        ([1.5, 2.0], ["1.5", "2"]),
        ([float("inf"), 2.0], ["inf", "2"]),
        ([True, None], ["true", None]),
        ([b"a", b"\xff", None], ["a", None, None]),
        ([None, None], [None, None]),
    ],
)
def test_text_of_plain_values(values, texts):
    found, odd = as_text(pa.array(values, from_pandas=False), "here")
    assert found.to_pylist() == texts
    assert odd.tolist() == [value == b"\xff" for value in values]


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "part-"]), st.integers(0, 10**6))))
def test_natural_order(pairs):
    names = [f"{word}{number}" for word, number in pairs]
    assert sorted(names, key=natural) == [f"{word}{number}" for word, number in sorted(pairs)]
