"""The whole shard step on real data, against a brute-force oracle and an independent reader of TFRecord files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from shard_data import config, records_of
from sklearn.datasets import load_digits

import simpipe.beam.shard as beam_shard
from pipelines.shard import run
from simpipe import files
from simpipe.code import code_version
from simpipe.config import parse_config
from simpipe.data.buckets import fill_bucket
from simpipe.data.examples import DatasetInfo, shard_name, verify_dataset
from simpipe.data.parsing import open_records, parse_batch
from simpipe.data.record_writer import RecordWriter
from simpipe.data.shards import ShardPlan, ShardRules
from simpipe.data.sources import source_fingerprint
from simpipe.data.train_shards import write_train_shard
from simpipe.errors import ContractError, RejectedError
from simpipe.ids import bucket_of, holdout
from simpipe.types import SPLITS

ENDS = ("", ".offsets.npy")


READER = """
import json, sys
import numpy as np
from tfrecord.reader import tfrecord_iterator, tfrecord_loader
folder, info = sys.argv[1], json.load(open(sys.argv[1] + "/dataset.json"))
out = {}
for split in info["splits"].values():
    for shard in split["shards"]:
        name, packed = folder + "/" + shard["path"], info["compression"] or None
        records = tfrecord_loader(name, None, None, compression_type=packed)
        out[shard["path"]] = [[bytes(r["id"]).decode(), int(r["label"][0]), bytes(r["image"]).hex()] for r in records]
        sizes = [len(record) for record in tfrecord_iterator(name, compression_type=packed)]
        ends = np.cumsum([0] + [size + 16 for size in sizes])
        assert np.load(folder + "/" + shard["offsets"]["path"]).tolist() == ends.tolist(), name
        told = shard["statistics"]
        assert [told["shortest_record"], told["longest_record"], told["record_bytes"]] == [
            min(sizes, default=0), max(sizes, default=0), sum(sizes)
        ], name
assert "tensorflow" not in sys.modules
json.dump(out, sys.stdout)
"""


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    return np.rint(images.reshape(-1, 8, 8, 1) * 255 / 16).astype(np.uint8), labels


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    asked = config(classes={"train": ["0-6"], "index": ["5-8"]}, shard={"num_shards": 13, "block_rows": 250})
    return folder, asked, run(asked, folder=folder, key="one")


def test_every_record_comes_out_exactly_once(done, digits):
    """Oracle: for each of the 1,797 digits, its split by the rules in words."""
    folder, asked, info = done
    verify_dataset(folder, info)
    assert DatasetInfo.load(folder) == info
    ids = [f"digits-{i:05d}" for i in range(1797)]
    held = holdout(ids, 0.1, asked.seed)
    expected = {split: {} for split in SPLITS}
    for i, (name, label) in enumerate(zip(ids, digits[1].tolist(), strict=True)):
        if label == 9:
            continue
        split = "query" if held[i] else "train" if label <= 6 else "index"
        expected[split][name] = (label, digits[0][i].tobytes())
    found = records_of(folder, info)
    for split in SPLITS:
        assert len(found[split]) == len(expected[split]) == info.splits[split].num_examples
        assert {name: (label, image.tobytes()) for name, label, image in found[split]} == expected[split]
        counted = Counter(str(label) for label, _ in expected[split].values())
        assert info.class_counts[split] == dict(counted)
    left = sum(map(len, expected.values()))
    assert info.counts == {"read": 1797, "written": left, "rejected": 0, "excluded": 1797 - left, "unlabelled": 0}
    assert info.class_names == tuple("0123456789")
    assert info.train_classes == tuple("0123456")
    assert info.provenance["source"] == source_fingerprint(asked.source)
    assert info.provenance["code"] == code_version("shard")
    assert info.provenance["train_plan"]["largest_shard"] == max(info.splits["train"].shard_lengths)
    assert info.provenance["train_plan"]["one_class_shards"] == 0
    assert {len(shard.class_blocks) for shard in info.splits["train"].shards} <= {0, 2, 3}
    assert sorted(contents(folder)) == sorted(
        [
            "dataset.json",
            *(shard_name(split, i, 13, f".tfrecord.gz{end}") for split in SPLITS for i in range(13) for end in ENDS),
        ]
    )


def test_an_id_of_index_and_query_split_lies_in_the_shard_of_its_hash(done):
    folder, _, info = done
    for split in ("index", "query"):
        for number, (path, _shard) in enumerate(info.shards(folder, split)):
            rows = [
                record for batch in open_records(path, "gzip").batch(512) for record in parse_batch(batch, info.input)[0].numpy()
            ]
            assert (bucket_of([name.decode() for name in rows], 13) == number).all()


@pytest.mark.parametrize("compression", ["gzip", ""])
def test_an_independent_reader_agrees(done, tmp_path, compression):
    folder, _, info = done
    if not compression:
        folder = tmp_path
        info = run(config(shard={"num_shards": 3, "compression": ""}), folder=folder, key="plain")
    command = [sys.executable, "-c", READER, str(folder)]
    read = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=120).stdout)
    ours = records_of(folder, info)
    for split in SPLITS:
        theirs = [record for shard in info.splits[split].shards for record in read[shard.path]]
        assert theirs == [[name, label, image.tobytes().hex()] for name, label, image in ours[split]]
        assert [len(read[shard.path]) for shard in info.splits[split].shards] == list(info.splits[split].shard_lengths)


def test_a_rerun_gives_the_same_bytes_whatever_the_blocks(done, tmp_path):
    folder, asked, info = done
    other = asked.model_copy(update={"shard": asked.shard.model_copy(update={"block_rows": 97})})
    assert run(other, folder=tmp_path / "again", key="one") == info
    assert contents(tmp_path / "again") == contents(folder)


def test_files_that_went_missing_come_back(done, tmp_path):
    folder, asked, info = done
    before = contents(folder)
    for name, data in before.items():
        files.write_bytes(tmp_path / name, data)
    for name in ("dataset.json", info.splits["train"].shards[4].path, info.splits["query"].shards[0].path):
        (tmp_path / name).unlink()
    (tmp_path / "train-00000-of-00099.tfrecord").write_bytes(b"of an older run")
    assert run(asked, folder=tmp_path, key="one") == info
    assert contents(tmp_path) == before


@pytest.mark.parametrize(("step", "splits", "end"), [("fill_bucket", ["index", "query"], 9), ("write_train_shard", ["train"], 9)])
def test_a_killed_run_is_continued(done, tmp_path, monkeypatch, step, splits, end):
    folder, asked, info = done
    works, written, seen = getattr(beam_shard, step), [], {}

    def dies_late(index, **arguments):
        if len(written) == end:
            raise RuntimeError("killed")
        written.append(index)
        return works(index, **arguments)

    def looks(index, **arguments):
        seen.update({path: path.stat().st_mtime_ns for path in blocks})
        return works(index, **arguments)

    monkeypatch.setattr(beam_shard, step, dies_late)
    with pytest.raises(RuntimeError, match="killed"):
        run(asked, folder=tmp_path, key="one")
    assert not (tmp_path / "dataset.json").exists()
    (tmp_path / ".tmp-half-written").write_bytes(b"x")
    first, second, third = (tmp_path / shard_name(splits[-1], index, 13, ".tfrecord.gz") for index in written[:3])
    first.unlink()
    second.write_bytes(b"damaged")
    third.with_name(third.name + ".offsets.npy").write_bytes(b"damaged")
    kept = {
        path: path.stat().st_mtime_ns for i in written[3:] for split in splits for path in tmp_path.glob(f"{split}-{i:05d}-of-*")
    }
    blocks = {path: path.stat().st_mtime_ns for path in (tmp_path / ".work").glob("block-*.arrow")}
    assert len(kept) == (end - 3) * 2 * len(splits)
    assert len(blocks) == 8
    monkeypatch.setattr(beam_shard, step, looks)
    assert run(asked, folder=tmp_path, key="one") == info
    assert seen == blocks, "finished blocks are not scanned again"
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "finished shards are not written again"
    assert contents(tmp_path) == contents(folder)


def test_a_kill_inside_a_shard_leaves_no_half_file(done, tmp_path, monkeypatch):
    folder, asked, info = done
    writes, left = RecordWriter.write, [1000]

    def dies(self, record):
        left[0] -= 1
        if not left[0]:
            raise RuntimeError("killed")
        writes(self, record)

    monkeypatch.setattr(RecordWriter, "write", dies)
    with pytest.raises(RuntimeError, match="killed"):
        run(asked, folder=tmp_path, key="one")
    monkeypatch.undo()
    whole = contents(folder)
    there = {path.name: path.read_bytes() for path in tmp_path.glob("*.tfrecord*")}
    assert there
    assert there.items() < whole.items()
    assert run(asked, folder=tmp_path, key="one") == info
    assert contents(tmp_path) == whole


def test_train_shards_stay_when_classes_are_only_indexed_or_not(done, tmp_path):
    folder, asked, info = done
    other = parse_config({**asked.model_dump(), "classes": {"train": ["0-6"], "index": ["9"]}})
    assert run(other, folder=tmp_path, key="one").splits["train"] == info.splits["train"]
    for path, _ in info.shards(tmp_path, "train"):
        assert path.read_bytes() == (folder / path.name).read_bytes()


def test_another_key_starts_afresh(done, tmp_path, monkeypatch):
    _, asked, info = done
    monkeypatch.setattr(beam_shard, "write_train_shard", lambda index, **arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(asked.model_copy(update={"seed": 1}), folder=tmp_path, key="one")
    monkeypatch.undo()
    assert run(asked, folder=tmp_path, key="one").splits == info.splits


def test_existing_records_can_be_sharded_again_and_damage_is_told(done, tmp_path):
    folder, _, info = done
    for i in range(13):
        name = info.splits["train"].shards[i].path
        files.write_bytes(tmp_path / "in" / name, (folder / name).read_bytes())
    fields = {"kind": "tfrecord", "path": str(tmp_path / "in"), "id": "id", "shape": [8, 8, 1], "encoding": "raw"}
    asked = config(source={**fields, "compression": "GZIP"}, queries={"fraction": 0}, shard={"num_shards": 2, "compression": ""})
    again = run(asked, folder=tmp_path / "out", key="k")
    old, new = (records_of(where, which)["train"] for where, which in ((folder, info), (tmp_path / "out", again)))
    key = lambda rows: sorted((name, label, image.tobytes()) for name, label, image in rows)  # noqa: E731
    assert key(old) == key(new)
    victim = tmp_path / "in" / max(info.splits["train"].shards, key=lambda shard: shard.size).path
    victim.write_bytes(victim.read_bytes()[:-200])
    with pytest.raises(RejectedError, match=rf"{victim.name} record \d+: [\s\S]*corrupt-record"):
        run(asked, folder=tmp_path / "out", key="k")


def test_a_lost_block_file_is_told(tmp_path, done):
    _, _, info = done
    rules = ShardRules(1, 1, "", 0.1, 42, info.input)
    with pytest.raises(ContractError, match=r"block-00000\.arrow: cannot be read"):
        fill_bucket(0, plan=ShardPlan(), rules=rules, work=Path(tmp_path), folder=tmp_path)
    with pytest.raises(ContractError, match=r"bucket-00000\.arrow: cannot be read"):
        write_train_shard(0, plan=ShardPlan(), rules=rules, work=Path(tmp_path), folder=tmp_path)
