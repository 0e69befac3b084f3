"""Which rows the shard step takes, refuses and counts, and its plan; on small tables."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_data import _lengths, config, records_of, table_source

import simpipe.beam.io as beam_io
import simpipe.beam.shard as beam_shard
from pipelines.shard import run
from simpipe.beam.io import Outcome
from simpipe.config import parse_config
from simpipe.config.models import ClassLists
from simpipe.data.examples import InputSpec, resolve_classes, shard_name
from simpipe.data.parsing import open_records
from simpipe.data.shards import LabelCounts, ShardRules, make_plan
from simpipe.errors import ConfigError, ContractError, DuplicateIdError, RejectedError, SourceError
from simpipe.ids import holdout
from simpipe.types import SPLITS, Counts


@pytest.mark.parametrize(("field", "train", "index"), [("classes.train", ["0-12"], "all"), ("classes.index", "all", ["5", "x"])])
def test_a_missing_class_is_named(tmp_path, field, train, index):
    with pytest.raises(ConfigError, match=rf"{re.escape(field)}: class '(10|x)'") as error:
        run(config(classes={"train": train, "index": index}), folder=tmp_path, key="k")
    assert field in error.value.cure
    assert not (tmp_path / "dataset.json").exists()


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
