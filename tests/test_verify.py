"""Verification finds each kind of damage, with file and record number, and nothing in data sets that are whole."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from verify_data import RECORDS, changed_example, edit_json, flip, found, frame, rewrite, says, shard_of

from simpipe.data.examples import DatasetInfo, verify_dataset
from simpipe.data.verify import verify_examples
from simpipe.errors import ContractError
from tests.fake_gcs import serving
from tests.make_examples import make_examples


def test_a_whole_data_set_passes(examples_copy: Path) -> None:
    done: list[int] = []
    report = verify_examples(examples_copy, update=done.append)
    assert report.ok, report.findings
    assert report.complete
    assert (report.files, report.records) == (12, RECORDS)
    assert report.bytes == sum(path.stat().st_size for path in examples_copy.glob("*tfrecord*"))
    assert done[-1] == RECORDS
    verify_dataset(examples_copy, DatasetInfo.load(examples_copy))


def test_object_storage_passes_and_is_damaged_alike(examples_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path.parent) as gcs:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.url)
        where = f"gs://{tmp_path.name}/examples"
        report = verify_examples(where)
        assert report.ok
        assert report.folder == where
        verify_dataset(where, DatasetInfo.load(where))
        flip(shard_of(examples_copy), 3000)
        assert verify_examples(where).findings == verify_examples(examples_copy).findings != ()


def record_at(folder: Path, byte: int) -> int:
    """The record at a byte of a plain shard; for gzip the first that the segment at that byte holds."""
    shard = next(s for s in DatasetInfo.load(folder).splits["train"].shards if s.path == shard_of(folder).name)
    if shard.entries:
        return max(first for first, offset in shard.entries if offset <= byte)
    return int(np.searchsorted(np.load(folder / shard.offsets.path), byte, side="right")) - 1


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.97])
def test_a_truncated_shard(examples_copy: Path, share: float) -> None:
    path = shard_of(examples_copy)
    data = path.read_bytes()[: int(path.stat().st_size * share)]
    path.write_bytes(data)
    readable = zlib.decompressobj(31).decompress(data) if path.suffix == ".gz" else data
    offsets = np.load(examples_copy / f"{path.name}.offsets.npy")
    survivors = int(np.searchsorted(offsets, len(readable), side="right")) - 1
    report = verify_examples(examples_copy)
    assert found(report)[0] == (path.name, None)  # the size
    ends = next(finding for finding in report.findings if finding.record is not None)
    assert "ends" in ends.what or "0 records in the file" in ends.what
    assert ends.file == path.name
    assert ends.record == survivors
    with pytest.raises(ContractError, match=f"{path.name}: {path.stat().st_size} bytes"):
        verify_dataset(examples_copy, DatasetInfo.load(examples_copy), checksums=False)


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_bit_of_a_shard_is_found_at_its_record(
    whole_examples: Path, tmp_path_factory: pytest.TempPathFactory, data
) -> None:
    kind = data.draw(st.sampled_from(["plain", "gzip"]))
    source = whole_examples / kind
    size = shard_of(source).stat().st_size
    at, bit = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, 7))
    folder = tmp_path_factory.mktemp("flip") / "examples"
    shutil.copytree(source, folder)
    flip(shard_of(folder), at, 1 << bit)
    report = verify_examples(folder)
    assert not report.ok
    assert {finding.file for finding in report.findings} == {shard_of(folder).name}
    shard = DatasetInfo.load(folder).splits["train"].shards[1]
    first = record_at(folder, at) if at >= 10 or kind == "plain" else 0
    numbers = [finding.record for finding in report.findings if finding.record is not None]
    if kind == "plain":
        assert numbers == [first]
    elif at >= 10 and at < size - 8:
        stop = min((record for record, _ in shard.entries if record > first), default=shard.num_examples)
        assert all(first <= number <= stop for number in numbers)
        assert numbers or "SHA-256" in report.findings[0].what or "gzip" in report.findings[0].what
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("part", "text"), [("bad_data", "data differ from their checksum"), ("bad_length", "the length differs")]
)
def test_wrong_checksums_inside_of_a_file_that_is_otherwise_right(examples_copy: Path, part: str, text: str) -> None:
    path = rewrite(examples_copy, lambda number, record: frame(record, **{part: number in (5, 77)}))
    report = verify_examples(examples_copy)
    assert found(report) == [(path.name, 5), (path.name, 77)]
    assert all(text in finding.what for finding in report.findings)
    assert report.records == RECORDS - 2


def test_a_damaged_length_without_a_sidecar_ends_the_reading(examples_copy: Path) -> None:
    path = rewrite(examples_copy, lambda number, record: frame(record, bad_length=number == 5))
    (examples_copy / f"{path.name}.offsets.npy").unlink()
    report = verify_examples(examples_copy)
    assert found(report)[0] == (f"{path.name}.offsets.npy", None)
    assert says(report, "cannot be found").record == 5


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda e: e.features.feature.pop("image"), "image"),
        (lambda e: e.features.feature.pop("id"), "id"),
        (lambda e: e.features.feature["image"].float_list.value.extend([1.0]), "image"),
        (lambda e: e.features.feature["image"].bytes_list.value.__setitem__(0, b"short"), "144 bytes"),
        (lambda e: e.features.feature["label"].int64_list.value.__setitem__(0, 7), "label 7"),
        (lambda e: e.features.feature["label"].bytes_list.value.append(b"3"), "label"),
        (lambda e: e.features.feature["id"].bytes_list.value.__setitem__(0, b""), "id is empty"),
        (lambda e: e.features.feature["id"].bytes_list.value.__setitem__(0, b"\xff"), "no UTF-8"),
    ],
    ids=["no input", "no id", "another dtype", "another shape", "unknown class", "text label", "empty id", "bytes id"],
)
def test_a_wrong_feature(examples_copy: Path, change: Callable[[tf.train.Example], None], text: str) -> None:
    path = rewrite(examples_copy, changed_example(42, change))
    report = verify_examples(examples_copy)
    assert found(report) == [(path.name, 42)]
    assert text in report.findings[0].what


def test_no_record_is_an_example(examples_copy: Path) -> None:
    path = rewrite(examples_copy, lambda number, record: frame(b"\xff" * 20))
    report = verify_examples(examples_copy)
    assert found(report)[:3] == [(path.name, 0), (path.name, 1), (path.name, 2)]
    assert "the rest of the file was not looked at" in report.findings[-1].what
    assert len(report.findings) < 15


def test_another_dtype_is_declared(examples_copy: Path) -> None:
    edit_json(examples_copy, lambda data: data["input"].update(encoding="float", dtype="float32"))
    report = verify_examples(examples_copy)
    assert {name for name, _ in found(report)} == {
        path.name for path in examples_copy.glob("*.tfrecord*") if path.suffix != ".npy"
    }
    assert all("image" in f.what or "not looked at" in f.what for f in report.findings)


def test_float_inputs_and_unlabelled_examples(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    none = np.arange(40) % 4 == 0
    make_examples(tmp_path / "a", x, np.arange(40) % 3, unlabelled=none)
    assert verify_examples(tmp_path / "a").ok
    x[7, 2] = np.nan
    make_examples(tmp_path / "b", x, np.arange(40) % 3, shard_of=np.zeros(40, int))
    report = verify_examples(tmp_path / "b")
    assert [(f.record, f.what) for f in report.findings] == [(16, "the input holds NaN or infinity")]  # the third of class 1


@pytest.mark.parametrize("block", [100, 999, 7000])
def test_records_across_the_edges_of_blocks(examples_copy: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole_size = shard_of(examples_copy).stat().st_size
    expected = []
    for damaged in (False, True):
        if damaged:
            flip(shard_of(examples_copy), whole_size // 2)
        expected.append(verify_examples(examples_copy).findings)
    flip(shard_of(examples_copy), whole_size // 2)
    monkeypatch.setattr("simpipe.data.verify_records._BLOCK", block)
    assert verify_examples(examples_copy).findings == expected[0] == ()
    flip(shard_of(examples_copy), whole_size // 2)
    assert verify_examples(examples_copy).findings == expected[1] != ()
