"""The whole shard step on real data, against a brute-force oracle and an independent reader of TFRecord files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

import simpipe.beam.io as beam_io
import simpipe.beam.shard as beam_shard
from pipelines.shard import run
from simpipe import files
from simpipe.beam.io import Outcome
from simpipe.code import code_version
from simpipe.config import parse_config
from simpipe.config.models import ClassLists
from simpipe.data.buckets import fill_bucket
from simpipe.data.examples import DatasetInfo, InputSpec, resolve_classes, shard_name, verify_dataset
from simpipe.data.parsing import open_records, parse_batch
from simpipe.data.record_writer import RecordWriter
from simpipe.data.shards import LabelCounts, ShardPlan, ShardRules, make_plan
from simpipe.data.sources import source_fingerprint
from simpipe.data.train_plan import CLASS_ORDER, ROW_ORDER
from simpipe.data.train_shards import write_train_shard
from simpipe.errors import ConfigError, ContractError, DuplicateIdError, RejectedError, SourceError
from simpipe.ids import bucket_of, hash_ids, holdout
from simpipe.types import SPLITS, Counts

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


def config(**changes):
    return parse_config({"name": "digits", "root": "unused", "source": "digits", **changes})


def records_of(folder, info):
    """{split: [(id, class index, input)]} by our own parser, in file order."""
    found = {}
    names = {-1: "", **dict(enumerate(info.class_names))}
    for split in SPLITS:
        found[split] = []
        for path, shard in info.shards(folder, split):
            rows = []
            for batch in open_records(path, info.compression).batch(256):
                ids, labels, inputs = (part.numpy() for part in parse_batch(batch, info.input))
                rows += list(zip([name.decode() for name in ids], labels.tolist(), inputs, strict=True))
            assert len(rows) == shard.num_examples
            order = {name: place for place, name in enumerate(_ordered([row[:2] for row in rows], split, names, info.seed))}
            assert [order[row[:2]] for row in rows] == list(range(len(rows)))
            runs = [(label, len(list(run))) for label, run in groupby(row[1] for row in rows)]
            assert list(shard.class_blocks) == runs
            assert len({label for label, _ in runs}) == len(runs), "a class has one run"
            offsets = np.load(folder / shard.offsets.path)
            assert (offsets.dtype, len(offsets)) == (np.uint64, len(rows) + 1)
            told = shard.statistics
            labelled = [count for label, count in runs if label >= 0]
            assert (told.num_classes, told.largest_class) == (len(labelled), max(labelled, default=0))
            assert told.record_bytes == int(offsets[-1]) - 16 * len(rows)
            assert bool(shard.entries) == bool(info.compression)
            found[split] += rows
    return found


def _ordered(rows, split, names, seed):
    """(id, class index) of one shard in the order in which it must lie there."""
    if split != "train":
        return sorted(rows, key=lambda row: (row[1], row[0].encode()))
    ids, labels = [row[0] for row in rows], [names[row[1]] for row in rows]
    keys = zip(hash_ids(labels, seed + CLASS_ORDER).tolist(), hash_ids(ids, seed + ROW_ORDER).tolist(), rows, strict=True)
    return [row for _, _, row in sorted(keys)]


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


@pytest.mark.parametrize(("field", "train", "index"), [("classes.train", ["0-12"], "all"), ("classes.index", "all", ["5", "x"])])
def test_a_missing_class_is_named(tmp_path, field, train, index):
    with pytest.raises(ConfigError, match=rf"{re.escape(field)}: class '(10|x)'") as error:
        run(config(classes={"train": train, "index": index}), folder=tmp_path, key="k")
    assert field in error.value.cure
    assert not (tmp_path / "dataset.json").exists()


def table_source(tmp_path, rows, group=5, **fields):
    """A Parquet source of one numeric column from (id, label, value) rows, in row groups of `group`."""
    ids, labels, values = zip(*rows, strict=True) if rows else ((), (), ())
    columns = {"id": pa.array(ids, pa.string()), "label": pa.array(labels, pa.string()), "v": pa.array(values, pa.float64())}
    columns |= {"name": pa.array([f"n {i}" if v else None for i, v in zip(ids, values, strict=True)], pa.string())}
    columns |= {"year": pa.array(range(len(ids)), pa.int64()), "price": pa.array(values, pa.float32())}
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return {"kind": "parquet", "path": str(path), "columns": ["v"], "metadata": ["name", "year", "price"], **fields}


def test_duplicates_always_fail_and_name_both_places(tmp_path):
    rows = [(f"i{i}", "a", 1.0) for i in range(12)] + [("i3", "b", 2.0), ("i3", "a", 1.0)]
    asked = config(source=table_source(tmp_path, rows), rejects={"max_share": 1.0})
    with pytest.raises(DuplicateIdError) as error:
        run(asked, folder=tmp_path / "out", key="k")
    assert "id 'i3': rows.parquet row 12; the same id is at rows.parquet row 3" in str(error.value)
    assert "rows.parquet row 13" in str(error.value)
    assert not (tmp_path / "out" / "dataset.json").exists()
    lines = "".join(path.read_text() for path in (tmp_path / "out" / "rejects").iterdir()).splitlines()
    assert [json.loads(line)["code"] for line in lines] == ["duplicate-id"] * 2


def test_rejects_limit_metadata_and_rows_without_label(tmp_path):
    rows = [(f"é{i}", "ab"[i % 2] if i % 5 else None, float("nan") if i == 7 else float(i)) for i in range(40)]
    asked = config(source=table_source(tmp_path, rows), queries={"fraction": 0.25})
    with pytest.raises(RejectedError, match="1 of 40 records rejected") as error:
        run(asked, folder=tmp_path / "out", key="k")
    assert "rows.parquet row 7: column 'v' is nan" in str(error.value)
    allowed = parse_config({**asked.model_dump(), "rejects": {"max_share": 0.05}})
    info = run(allowed, folder=tmp_path / "out", key="k")
    assert info.counts == {"read": 40, "written": 39, "rejected": 1, "excluded": 0, "unlabelled": 8}
    assert (tmp_path / "out" / "rejects" / "block-00001.jsonl").exists()
    found = records_of(tmp_path / "out", info)
    assert {(name, label) for name, label, _ in found["index"]} <= {(f"é{i}", -1) for i in range(0, 40, 5)}
    assert all(label >= 0 for _, label, _ in found["train"])
    assert {name: float(v[0]) for rows in found.values() for name, _, v in rows} == {
        f"é{i}": float(i) for i in range(40) if i != 7
    }
    assert info.metadata == {"name": "string", "year": "int64", "price": "float"}
    seen = {}
    import tensorflow as tf

    for split in SPLITS:
        for path, _ in info.shards(tmp_path / "out", split):
            for record in open_records(path, "gzip").as_numpy_iterator():
                feature = tf.train.Example.FromString(record).features.feature
                values = [
                    list(feature[n].bytes_list.value or feature[n].int64_list.value or feature[n].float_list.value)
                    for n in info.metadata
                ]
                seen[feature["id"].bytes_list.value[0].decode()] = values
    assert seen["é9"] == [["n é9".encode()], [9], [9.0]]
    assert seen["é0"] == [[], [0], [0.0]], "a null stays away"


def test_unlabelled_rows_are_excluded_where_index_is_a_list(tmp_path):
    rows = [(f"i{i}", "a" if i % 2 else None, 1.0) for i in range(20)]
    info = run(config(source=table_source(tmp_path, rows), classes={"index": ["a"]}), folder=tmp_path / "out", key="k")
    assert (info.counts["excluded"], info.counts["written"]) == (10, 10)


def test_rows_without_a_label_are_trained_on_where_asked(tmp_path):
    rows = [(f"i{i}", "ab"[i % 2] if i % 3 else None, float(i)) for i in range(900)]
    asked = config(
        source=table_source(tmp_path, rows, group=300),
        classes={"train": ["a"], "index": ["b"], "train_unlabelled": True},
        shard={"num_shards": 4, "class_run": 60, "compression": ""},
    )
    info = run(asked, folder=tmp_path / "out", key="k")
    found = records_of(tmp_path / "out", info)
    held = dict(zip([name for name, _, _ in rows], holdout([name for name, _, _ in rows], 0.1, asked.seed), strict=True))
    kept = {name: -1 if label is None else 0 for name, label, _ in rows if label != "b" and not held[name]}
    assert {name: label for name, label, _ in found["train"]} == kept
    assert {name for name, _, _ in found["query"]} == {name for name in held if held[name]}
    assert [len([1 for label, _ in shard.class_blocks if label == -1]) for shard in info.splits["train"].shards] == [1] * 4
    assert (info.train_classes, set(info.class_counts["train"])) == (("a",), {"a"})
    assert info.counts["excluded"] == 0


def test_shards_of_one_class_are_told_where_counts_allow_no_others(tmp_path, caplog):
    rows = [(f"i{i}", "a" if i else "b", float(i)) for i in range(400)]
    fields = {"source": table_source(tmp_path, rows, group=200), "queries": {"fraction": 0}}
    shard = {"num_shards": 4, "class_run": 50}
    info = run(config(**fields, shard=shard), folder=tmp_path / "told", key="k")
    assert info.provenance["train_plan"] == {"pieces": 5, **_lengths(info), "one_class_shards": 3}
    assert "3 of 4 train shards hold one class only (the first is train-0000" in caplog.text
    caplog.clear()
    asked = config(**fields, shard={**shard, "one_class_shards": True})
    assert run(asked, folder=tmp_path / "wanted", key="k").provenance["train_plan"]["one_class_shards"] == 3
    assert not caplog.text


def _lengths(info):
    lengths = info.splits["train"].shard_lengths
    return {"largest_shard": max(lengths), "smallest_shard": min(lengths)}


@pytest.mark.parametrize("step", ["bucket", "train"])
def test_rows_that_a_runner_loses_are_told(tmp_path, monkeypatch, step):
    rows = [(f"i{i}", "ab"[i % 2], float(i)) for i in range(40)]

    def loses(outcome, path):
        if path.endswith({"bucket": beam_shard.BUCKETS_JSON, "train": beam_shard.TRAIN_JSON}[step]):
            records = sorted(outcome.records, key=lambda record: record["num_examples"])
            lost = records.pop()["num_examples"]
            assert lost
            outcome = Outcome(Counts(outcome.counts.read - lost, outcome.counts.written - lost), tuple(records))
        keeps(outcome, path)

    keeps = beam_io.write_summary
    monkeypatch.setattr(beam_io, "write_summary", loses)
    asked = config(source=table_source(tmp_path, rows), shard={"num_shards": 2}, classes={"train": ["a"]})
    with pytest.raises(ContractError, match=r"rows.*: \d+ \w+, \d+ \w+.*") as error:
        run(asked, folder=tmp_path / "out", key="k")
    assert "lost or doubled by the runner" in error.value.cure
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_a_source_without_examples(tmp_path):
    with pytest.raises(SourceError, match="parquet holds no examples"):
        run(config(source=table_source(tmp_path, [])), folder=tmp_path / "out", key="k")
    rows = [("a", "x", float("nan"))]
    with pytest.raises(SourceError, match="no example left of 1: 1 rejected"):
        run(config(source=table_source(tmp_path, rows), rejects={"max_share": 1}), folder=tmp_path / "out", key="k")


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


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_plan_round_trip(data):
    rules = ShardRules(
        1, data.draw(st.integers(1, 12)), "", 0.1, 42, InputSpec(name="x", shape=(1,), dtype="uint8", encoding="raw")
    )
    names = data.draw(
        st.sets(st.one_of(st.integers(0, 30).map(str), st.text("abcxyz-é", min_size=1, max_size=3)), min_size=1, max_size=12)
    )
    wanted = data.draw(st.lists(st.sampled_from(sorted(names)), min_size=1, unique=True))
    counts = LabelCounts(dict.fromkeys(names, 2), dict.fromkeys(names, 1), 3, 2)
    unlabelled = data.draw(st.booleans())
    plan = make_plan(counts, ClassLists(train=tuple(wanted), index="all", train_unlabelled=unlabelled), rules)
    assert not plan.problem
    assert set(plan.class_names) == set(plan.indexed) == names
    assert [plan.class_names.index(name) for name in plan.trained] == sorted(
        plan.class_names.index(name) for name in plan.trained
    )
    assert set(plan.trained) == set(wanted) == set(resolve_classes(tuple(wanted), list(plan.class_names), "f"))
    assert plan.train.counts.tolist() == [1] * len(wanted) + [2 if unlabelled else 0]
    assert make_plan(counts, ClassLists(index=("no such",)), rules).problem


@given(st.sampled_from(SPLITS), st.integers(1, 99_999), st.data())
def test_names_round_trip_and_sort_in_order(split, of, data):
    numbers = data.draw(st.lists(st.integers(0, of - 1), min_size=1, max_size=5))
    made = [shard_name(split, number, of, ".tfrecord.gz") for number in numbers]
    parsed = [re.fullmatch(r"(\w+)-(\d{5})-of-(\d{5})\.tfrecord\.gz", name) for name in made]
    assert [(m[1], int(m[2]), int(m[3])) for m in parsed if m] == [(split, number, of) for number in numbers]
    assert [numbers[made.index(name)] for name in sorted(made)] == sorted(numbers)


def test_a_lost_block_file_is_told(tmp_path, done):
    _, _, info = done
    rules = ShardRules(1, 1, "", 0.1, 42, info.input)
    with pytest.raises(ContractError, match=r"block-00000\.arrow: cannot be read"):
        fill_bucket(0, plan=ShardPlan(), rules=rules, work=Path(tmp_path), folder=tmp_path)
    with pytest.raises(ContractError, match=r"bucket-00000\.arrow: cannot be read"):
        write_train_shard(0, plan=ShardPlan(), rules=rules, work=Path(tmp_path), folder=tmp_path)
