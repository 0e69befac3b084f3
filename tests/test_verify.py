"""Verification finds each kind of damage, with file and record number, and nothing in data sets that are whole."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simpipe.data.examples import DatasetInfo, verify_dataset
from simpipe.data.record_writer import statistics_of
from simpipe.data.verify import Finding, VerifyReport, verify_examples
from simpipe.errors import ContractError
from simpipe.files import sha256_file
from tests.fake_gcs import serving
from tests.make_examples import make_examples

SHARD = "train-00001-of-00002.tfrecord"
RECORDS = 300  # 210 train, 60 index, 30 query


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `plain` and `gzip`: 300 random 12x12 inputs of 7 classes, gzip with several entries a shard."""
    root = tmp_path_factory.mktemp("whole")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (RECORDS, 12, 12, 1)).astype(np.uint8)
    split = np.repeat([0, 1, 2], [210, 60, 30])
    for name in ("plain", "gzip"):
        compression = "" if name == "plain" else "gzip"
        ids = [f"id-{row:04d}{'x' * (row // 7 % 5)}" for row in range(RECORDS)]  # records of different lengths
        make_examples(root / name, x, np.arange(RECORDS) % 7, split=split, ids=ids, compression=compression, entry_bytes=5000)
    return root


@pytest.fixture(params=["plain", "gzip"])
def folder(whole: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    shutil.copytree(whole / request.param, tmp_path / "examples")
    return tmp_path / "examples"


def found(report: VerifyReport) -> list[tuple[str, int | None]]:
    assert all(finding.cure and finding.what for finding in report.findings)
    return [(finding.file, finding.record) for finding in report.findings]


def says(report: VerifyReport, text: str) -> Finding:
    return next(finding for finding in report.findings if text in finding.what)


def shard_of(folder: Path) -> Path:
    return next(path for path in folder.glob(SHARD + "*") if path.suffix != ".npy")


def edit_json(folder: Path, change: Callable[[dict], None]) -> None:
    path = folder / "dataset.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def about(data: dict, name: str) -> dict:
    return next(shard for split in data["splits"].values() for shard in split["shards"] if shard["path"] == name)


def frame(record: bytes, *, bad_length: bool = False, bad_data: bool = False) -> bytes:
    def masked(data: bytes) -> int:
        crc = google_crc32c.value(data)
        return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF

    length = struct.pack("<Q", len(record))
    return length + struct.pack("<I", masked(length) ^ bad_length) + record + struct.pack("<I", masked(record) ^ (bad_data << 7))


def rewrite(folder: Path, change: Callable[[int, bytes], bytes]) -> Path:
    """Rewrites the shard as a faulty writer would: each framed record passes through `change`; sums, sizes, sidecar agree."""
    path = shard_of(folder)
    info = DatasetInfo.load(folder)
    shard = next(shard for shard in info.splits["train"].shards if shard.path == path.name)
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(path), "GZIP" if info.compression else "")]
    framed = [change(number, record) for number, record in enumerate(records)]
    starts = dict.fromkeys(first for first, _ in shard.entries)
    if info.compression:
        packer, packed, entries = zlib.compressobj(wbits=31), b"", []
        for number, record in enumerate(framed):
            if number in starts and number:
                packed += packer.flush(zlib.Z_FULL_FLUSH)
            if number in starts:
                entries.append((number, max(len(packed), 10)))
            packed += packer.compress(record)
        path.write_bytes(packed + packer.flush())
    else:
        entries = []
        path.write_bytes(b"".join(framed))
    sidecar = folder / shard.offsets.path
    offsets = np.cumsum([0, *map(len, framed)]).astype("<u8")
    np.save(sidecar, offsets)

    def change_json(data: dict) -> None:
        of = about(data, path.name)
        split = data["splits"]["train"]
        split["num_bytes"] += path.stat().st_size - of["size"]
        of |= {"size": path.stat().st_size, "sha256": sha256_file(path), "entries": entries}
        of["statistics"] = statistics_of(offsets, shard.class_blocks).model_dump()
        of["offsets"] |= {"size": sidecar.stat().st_size, "sha256": sha256_file(sidecar)}

    edit_json(folder, change_json)
    return path


def changed_example(number: int, change: Callable[[tf.train.Example], None]) -> Callable[[int, bytes], bytes]:
    def apply(at: int, record: bytes) -> bytes:
        example = tf.train.Example.FromString(record)
        if at == number:
            change(example)
        return frame(example.SerializeToString())

    return apply


def test_a_whole_data_set_passes(folder: Path) -> None:
    done: list[int] = []
    report = verify_examples(folder, update=done.append)
    assert report.ok, report.findings
    assert report.complete
    assert (report.files, report.records) == (12, RECORDS)
    assert report.bytes == sum(path.stat().st_size for path in folder.glob("*tfrecord*"))
    assert done[-1] == RECORDS
    verify_dataset(folder, DatasetInfo.load(folder))


def test_object_storage_passes_and_is_damaged_alike(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path.parent) as gcs:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.url)
        where = f"gs://{tmp_path.name}/examples"
        report = verify_examples(where)
        assert report.ok
        assert report.folder == where
        verify_dataset(where, DatasetInfo.load(where))
        flip(shard_of(folder), 3000)
        assert verify_examples(where).findings == verify_examples(folder).findings != ()


def flip(path: Path, at: int, bit: int = 0x10) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= bit
    path.write_bytes(data)


def record_at(folder: Path, byte: int) -> int:
    """The record at a byte of a plain shard; for gzip the first that the segment at that byte holds."""
    shard = next(s for s in DatasetInfo.load(folder).splits["train"].shards if s.path == shard_of(folder).name)
    if shard.entries:
        return max(first for first, offset in shard.entries if offset <= byte)
    return int(np.searchsorted(np.load(folder / shard.offsets.path), byte, side="right")) - 1


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.97])
def test_a_truncated_shard(folder: Path, share: float) -> None:
    path = shard_of(folder)
    data = path.read_bytes()[: int(path.stat().st_size * share)]
    path.write_bytes(data)
    readable = zlib.decompressobj(31).decompress(data) if path.suffix == ".gz" else data
    offsets = np.load(folder / f"{path.name}.offsets.npy")
    survivors = int(np.searchsorted(offsets, len(readable), side="right")) - 1
    report = verify_examples(folder)
    assert found(report)[0] == (path.name, None)  # the size
    ends = next(finding for finding in report.findings if finding.record is not None)
    assert "ends" in ends.what or "0 records in the file" in ends.what
    assert ends.file == path.name
    assert ends.record == survivors
    with pytest.raises(ContractError, match=f"{path.name}: {path.stat().st_size} bytes"):
        verify_dataset(folder, DatasetInfo.load(folder), checksums=False)


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_bit_of_a_shard_is_found_at_its_record(whole: Path, tmp_path_factory: pytest.TempPathFactory, data) -> None:
    kind = data.draw(st.sampled_from(["plain", "gzip"]))
    source = whole / kind
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
def test_wrong_checksums_inside_of_a_file_that_is_otherwise_right(folder: Path, part: str, text: str) -> None:
    path = rewrite(folder, lambda number, record: frame(record, **{part: number in (5, 77)}))
    report = verify_examples(folder)
    assert found(report) == [(path.name, 5), (path.name, 77)]
    assert all(text in finding.what for finding in report.findings)
    assert report.records == RECORDS - 2


def test_a_damaged_length_without_a_sidecar_ends_the_reading(folder: Path) -> None:
    path = rewrite(folder, lambda number, record: frame(record, bad_length=number == 5))
    (folder / f"{path.name}.offsets.npy").unlink()
    report = verify_examples(folder)
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
def test_a_wrong_feature(folder: Path, change: Callable[[tf.train.Example], None], text: str) -> None:
    path = rewrite(folder, changed_example(42, change))
    report = verify_examples(folder)
    assert found(report) == [(path.name, 42)]
    assert text in report.findings[0].what


def test_no_record_is_an_example(folder: Path) -> None:
    path = rewrite(folder, lambda number, record: frame(b"\xff" * 20))
    report = verify_examples(folder)
    assert found(report)[:3] == [(path.name, 0), (path.name, 1), (path.name, 2)]
    assert "the rest of the file was not looked at" in report.findings[-1].what
    assert len(report.findings) < 15


def test_another_dtype_is_declared(folder: Path) -> None:
    edit_json(folder, lambda data: data["input"].update(encoding="float", dtype="float32"))
    report = verify_examples(folder)
    assert {name for name, _ in found(report)} == {path.name for path in folder.glob("*.tfrecord*") if path.suffix != ".npy"}
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


def test_missing_and_surplus_files_are_all_named(whole: Path, folder: Path) -> None:
    path = shard_of(folder)
    path.unlink()
    sidecar = folder / f"query-00000-of-00002{''.join(path.suffixes)}.offsets.npy"
    sidecar.unlink()
    for name in ("train-00002-of-00003.tfrecord", "x.tfrecord.gz.offsets.npy"):
        (folder / name).write_bytes(b"")
    report = verify_examples(folder)
    names = ["train-00002-of-00003.tfrecord", "x.tfrecord.gz.offsets.npy", path.name, sidecar.name]
    assert found(report) == [(name, None) for name in names]
    for name in (path.name, sidecar.name):  # the quick check names the first, until all are mended
        with pytest.raises(ContractError, match=f"{name}: listed in dataset.json but missing"):
            verify_dataset(folder, DatasetInfo.load(folder), checksums=False)
        shutil.copy(whole / folder_kind(folder) / name, folder)
    for name in names[:2]:
        with pytest.raises(ContractError, match=f"{name}: not listed"):
            verify_dataset(folder, DatasetInfo.load(folder))
        (folder / name).unlink()
    verify_dataset(folder, DatasetInfo.load(folder))


def folder_kind(folder: Path) -> str:
    return DatasetInfo.load(folder).compression or "plain"


def test_swapped_sidecars(folder: Path) -> None:
    names = sorted(path.name for path in folder.glob("train*.npy"))
    first, second = (folder / name for name in names)
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)
    report = verify_examples(folder)
    assert [name for name, _ in found(report)] == [names[0], names[0], names[1], names[1]]  # checksum, and first wrong offset
    assert [record for _, record in found(report)][1::2] != [None, None]
    with pytest.raises(ContractError, match=names[0]):
        verify_dataset(folder, DatasetInfo.load(folder))


@pytest.mark.parametrize("trusted", [False, True])
def test_a_wrong_offset(folder: Path, trusted: bool) -> None:
    sidecar = next(folder.glob("train-00000*.npy"))
    offsets = np.load(sidecar)
    offsets[9] += 1
    np.save(sidecar, offsets)
    if trusted:  # as if it had been written so
        name = sidecar.name.removesuffix(".offsets.npy")
        edit_json(folder, lambda data: about(data, name)["offsets"].update(sha256=sha256_file(sidecar)))
    report = verify_examples(folder)
    assert found(report)[-1] == (sidecar.name, 9)
    assert len(report.findings) == 2 - trusted


def test_no_sidecar_at_all(folder: Path) -> None:
    sidecar = next(folder.glob("train-00000*.npy"))
    for content in (b"", b"no array", sidecar.read_bytes()[:-8]):
        sidecar.write_bytes(content)
        assert "no array of record offsets" in verify_examples(folder).findings[-1].what
    np.save(sidecar, np.zeros(3))
    assert "expected uint64" in verify_examples(folder).findings[-1].what
    with pytest.raises(ContractError, match=sidecar.name):
        verify_dataset(folder, DatasetInfo.load(folder), checksums=False)


def test_an_id_twice_in_different_splits(folder: Path) -> None:
    query = next(path for path in folder.glob("query-00000*") if path.suffix != ".npy")
    record = next(iter(tf.data.TFRecordDataset(str(query), "GZIP" if query.suffix == ".gz" else ""))).numpy()
    name = tf.train.Example.FromString(record).features.feature["id"].bytes_list.value[0]
    path = rewrite(folder, changed_example(20, lambda e: e.features.feature["id"].bytes_list.value.__setitem__(0, name)))
    report = verify_examples(folder)
    assert found(report) in ([(query.name, 0)], [(path.name, 20)])
    assert name.decode() in report.findings[0].what
    assert path.name in str(report.findings[0])
    assert query.name in str(report.findings[0])
    assert "unique" in report.findings[0].cure


def test_labels_other_than_class_blocks(folder: Path) -> None:
    path = rewrite(folder, changed_example(33, lambda e: e.features.feature["label"].int64_list.value.__setitem__(0, 6)))
    report = verify_examples(folder)
    assert found(report) == [(path.name, 33)]
    assert "label 6, class_blocks say" in report.findings[0].what


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda data: data["class_counts"]["train"].update({"3": 1}), "class '3' has 1, class_blocks hold 30"),
        (lambda data: data["splits"]["train"].update(num_examples=211), "num_examples"),
        (lambda data: data["splits"]["index"].update(num_bytes=1), "num_bytes"),
        (lambda data: data["splits"]["index"].update(shard_lengths=[29, 31]), "shard_lengths"),
        (lambda data: data["counts"].update(written=4), "counts.written is 4"),
        (lambda data: data.update(train_classes=["6"]), "train_classes"),
        (lambda data: about_first(data)["statistics"].update(longest_record=1), "statistics.longest_record is 1"),
        (lambda data: about_first(data)["statistics"].update(num_classes=2), "statistics.num_classes is 2"),
    ],
)
def test_wrong_counts(folder: Path, change: Callable[[dict], None], text: str) -> None:
    edit_json(folder, change)
    report = verify_examples(folder)
    assert text in " ".join(finding.what for finding in report.findings)
    assert len(report.findings) == 1 + (text == "num_examples")  # then the sum of the splits differs too


def about_first(data: dict) -> dict:
    return data["splits"]["train"]["shards"][0]


def test_a_shard_of_other_length_than_it_says(folder: Path) -> None:
    def change(data: dict) -> None:
        about_first(data)["class_blocks"][-1][1] += 1
        about_first(data)["num_examples"] += 1

    edit_json(folder, change)
    report = verify_examples(folder)
    name = DatasetInfo.load(folder).splits["train"].shards[0].path
    assert (name, 105) in found(report)


def test_wrong_entries(whole: Path, tmp_path: Path) -> None:
    entries = DatasetInfo.load(whole / "gzip").splits["train"].shards[0].entries
    assert len(entries) > 3
    moved = [(record, offset + 3 * (place == 2)) for place, (record, offset) in enumerate(entries)]
    other = [(record + (place == 2), offset) for place, (record, offset) in enumerate(entries)]
    mixed = [entries[0], entries[2], entries[1], *entries[3:]]
    for number, (wrong, text) in enumerate(
        [(moved, "bytes"), (other, "sidecar says"), (mixed, "do not grow"), ([], "do not grow")]
    ):
        folder = tmp_path / str(number)
        shutil.copytree(whole / "gzip", folder)
        edit_json(folder, lambda data, wrong=wrong: about_first(data).update(entries=wrong))
        report = verify_examples(folder)
        assert {name for name, _ in found(report)} == {"train-00000-of-00002.tfrecord.gz"}
        assert text in report.findings[0].what


def test_gzip_without_entries_inside_is_refused(whole: Path, tmp_path: Path) -> None:
    """A file that another program compressed again holds the same records but no places to start."""
    folder = tmp_path / "examples"
    shutil.copytree(whole / "gzip", folder)
    path = shard_of(folder)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), mtime=0))
    report = verify_examples(folder)
    assert {name for name, _ in found(report)} == {path.name}
    assert any(finding.record is not None for finding in report.findings)


def test_the_limit_of_findings(folder: Path) -> None:
    for number in range(30):
        (folder / f"surplus-{number:02d}.tfrecord").write_bytes(b"")
    report = verify_examples(folder, limit=8)
    assert len(report.findings) == 8
    assert not report.complete


def test_without_dataset_json(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"dataset\.json"):
        verify_examples(tmp_path)


@pytest.mark.parametrize("block", [100, 999, 7000])
def test_records_across_the_edges_of_blocks(folder: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole_size = shard_of(folder).stat().st_size
    expected = []
    for damaged in (False, True):
        if damaged:
            flip(shard_of(folder), whole_size // 2)
        expected.append(verify_examples(folder).findings)
    flip(shard_of(folder), whole_size // 2)
    monkeypatch.setattr("simpipe.data.verify_records._BLOCK", block)
    assert verify_examples(folder).findings == expected[0] == ()
    flip(shard_of(folder), whole_size // 2)
    assert verify_examples(folder).findings == expected[1] != ()
