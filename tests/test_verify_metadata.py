"""Verification of what stands beside the records: sidecars, counts, entries, ids, files."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from verify_data import about, changed_example, edit_json, found, rewrite, shard_of

from simpipe.data.examples import DatasetInfo, verify_dataset
from simpipe.data.verify import verify_examples
from simpipe.errors import ContractError
from simpipe.files import sha256_file


def test_missing_and_surplus_files_are_all_named(whole_examples: Path, examples_copy: Path) -> None:
    path = shard_of(examples_copy)
    path.unlink()
    sidecar = examples_copy / f"query-00000-of-00002{''.join(path.suffixes)}.offsets.npy"
    sidecar.unlink()
    for name in ("train-00002-of-00003.tfrecord", "x.tfrecord.gz.offsets.npy"):
        (examples_copy / name).write_bytes(b"")
    report = verify_examples(examples_copy)
    names = ["train-00002-of-00003.tfrecord", "x.tfrecord.gz.offsets.npy", path.name, sidecar.name]
    assert found(report) == [(name, None) for name in names]
    for name in (path.name, sidecar.name):  # the quick check names the first, until all are mended
        with pytest.raises(ContractError, match=f"{name}: listed in dataset.json but missing"):
            verify_dataset(examples_copy, DatasetInfo.load(examples_copy), checksums=False)
        shutil.copy(whole_examples / folder_kind(examples_copy) / name, examples_copy)
    for name in names[:2]:
        with pytest.raises(ContractError, match=f"{name}: not listed"):
            verify_dataset(examples_copy, DatasetInfo.load(examples_copy))
        (examples_copy / name).unlink()
    verify_dataset(examples_copy, DatasetInfo.load(examples_copy))


def folder_kind(folder: Path) -> str:
    return DatasetInfo.load(folder).compression or "plain"


def test_swapped_sidecars(examples_copy: Path) -> None:
    names = sorted(path.name for path in examples_copy.glob("train*.npy"))
    first, second = (examples_copy / name for name in names)
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)
    report = verify_examples(examples_copy)
    assert [name for name, _ in found(report)] == [names[0], names[0], names[1], names[1]]  # checksum, and first wrong offset
    assert [record for _, record in found(report)][1::2] != [None, None]
    with pytest.raises(ContractError, match=names[0]):
        verify_dataset(examples_copy, DatasetInfo.load(examples_copy))


@pytest.mark.parametrize("trusted", [False, True])
def test_a_wrong_offset(examples_copy: Path, trusted: bool) -> None:
    sidecar = next(examples_copy.glob("train-00000*.npy"))
    offsets = np.load(sidecar)
    offsets[9] += 1
    np.save(sidecar, offsets)
    if trusted:  # as if it had been written so
        name = sidecar.name.removesuffix(".offsets.npy")
        edit_json(examples_copy, lambda data: about(data, name)["offsets"].update(sha256=sha256_file(sidecar)))
    report = verify_examples(examples_copy)
    assert found(report)[-1] == (sidecar.name, 9)
    assert len(report.findings) == 2 - trusted


def test_no_sidecar_at_all(examples_copy: Path) -> None:
    sidecar = next(examples_copy.glob("train-00000*.npy"))
    for content in (b"", b"no array", sidecar.read_bytes()[:-8]):
        sidecar.write_bytes(content)
        assert "no array of record offsets" in verify_examples(examples_copy).findings[-1].what
    np.save(sidecar, np.zeros(3))
    assert "expected uint64" in verify_examples(examples_copy).findings[-1].what
    with pytest.raises(ContractError, match=sidecar.name):
        verify_dataset(examples_copy, DatasetInfo.load(examples_copy), checksums=False)


def test_an_id_twice_in_different_splits(examples_copy: Path) -> None:
    query = next(path for path in examples_copy.glob("query-00000*") if path.suffix != ".npy")
    record = next(iter(tf.data.TFRecordDataset(str(query), "GZIP" if query.suffix == ".gz" else ""))).numpy()
    name = tf.train.Example.FromString(record).features.feature["id"].bytes_list.value[0]
    path = rewrite(examples_copy, changed_example(20, lambda e: e.features.feature["id"].bytes_list.value.__setitem__(0, name)))
    report = verify_examples(examples_copy)
    assert found(report) in ([(query.name, 0)], [(path.name, 20)])
    assert name.decode() in report.findings[0].what
    assert path.name in str(report.findings[0])
    assert query.name in str(report.findings[0])
    assert "unique" in report.findings[0].cure


def test_labels_other_than_class_blocks(examples_copy: Path) -> None:
    path = rewrite(examples_copy, changed_example(33, lambda e: e.features.feature["label"].int64_list.value.__setitem__(0, 6)))
    report = verify_examples(examples_copy)
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
def test_wrong_counts(examples_copy: Path, change: Callable[[dict], None], text: str) -> None:
    edit_json(examples_copy, change)
    report = verify_examples(examples_copy)
    assert text in " ".join(finding.what for finding in report.findings)
    assert len(report.findings) == 1 + (text == "num_examples")  # then the sum of the splits differs too


def about_first(data: dict) -> dict:
    return data["splits"]["train"]["shards"][0]


def test_a_shard_of_other_length_than_it_says(examples_copy: Path) -> None:
    def change(data: dict) -> None:
        about_first(data)["class_blocks"][-1][1] += 1
        about_first(data)["num_examples"] += 1

    edit_json(examples_copy, change)
    report = verify_examples(examples_copy)
    name = DatasetInfo.load(examples_copy).splits["train"].shards[0].path
    assert (name, 105) in found(report)


def test_wrong_entries(whole_examples: Path, tmp_path: Path) -> None:
    entries = DatasetInfo.load(whole_examples / "gzip").splits["train"].shards[0].entries
    assert len(entries) > 3
    moved = [(record, offset + 3 * (place == 2)) for place, (record, offset) in enumerate(entries)]
    other = [(record + (place == 2), offset) for place, (record, offset) in enumerate(entries)]
    mixed = [entries[0], entries[2], entries[1], *entries[3:]]
    for number, (wrong, text) in enumerate(
        [(moved, "bytes"), (other, "sidecar says"), (mixed, "do not grow"), ([], "do not grow")]
    ):
        folder = tmp_path / str(number)
        shutil.copytree(whole_examples / "gzip", folder)
        edit_json(folder, lambda data, wrong=wrong: about_first(data).update(entries=wrong))
        report = verify_examples(folder)
        assert {name for name, _ in found(report)} == {"train-00000-of-00002.tfrecord.gz"}
        assert text in report.findings[0].what


def test_gzip_without_entries_inside_is_refused(whole_examples: Path, tmp_path: Path) -> None:
    """A file that another program compressed again holds the same records but no places to start."""
    folder = tmp_path / "examples"
    shutil.copytree(whole_examples / "gzip", folder)
    path = shard_of(folder)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), mtime=0))
    report = verify_examples(folder)
    assert {name for name, _ in found(report)} == {path.name}
    assert any(finding.record is not None for finding in report.findings)


def test_the_limit_of_findings(examples_copy: Path) -> None:
    for number in range(30):
        (examples_copy / f"surplus-{number:02d}.tfrecord").write_bytes(b"")
    report = verify_examples(examples_copy, limit=8)
    assert len(report.findings) == 8
    assert not report.complete


def test_without_dataset_json(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"dataset\.json"):
        verify_examples(tmp_path)
