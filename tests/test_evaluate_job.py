"""The evaluate job: Beam against the same sums in memory, slices, open-set queries, worst classes, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import clustered
from evaluation_data import ITEMS, RULES, items_of, parts_of, random_answer, same

from pipelines import evaluate
from pipelines.line import Line
from pipelines.queries import label_items, query_spec
from simpipe import files, releases
from simpipe.config import parse_config
from simpipe.cutpoints import CUTPOINTS_JSON
from simpipe.embeddings import EmbeddingsInfo, vectors_column
from simpipe.errors import ConfigError
from simpipe.evaluators import EvaluationRules, EvaluationSums, LabelItems, class_table, evaluate_block
from simpipe.ids import holdout
from simpipe.index.query import answer_all
from simpipe.manifest import Manifest

pytestmark = pytest.mark.usefixtures("undrawn")

N = 1500
EVALUATE = {"k": 5, "recall_at": [1, 5], "exact_queries": 60, "max_r": 30, "slices": ["color", "year"], "worst": 4}


def written(folder: Path) -> Path:
    """Vectors of close classes with metadata; ten of the held-out ones have a label that no item has, five have none."""
    vectors, clusters = clustered(N, clusters=12)
    vectors += 0.8 * np.random.default_rng(1).normal(size=vectors.shape).astype(np.float32)
    ids = [f"item-{row}" for row in range(N)]
    labels = np.array([f"c{cluster}" for cluster in clusters], object)
    held = np.flatnonzero(holdout(ids, 0.2, 42))
    labels[held[:10]], labels[held[10:15]] = "new", None
    colors = np.where(np.arange(N) % 3 == 0, "red", "blue").astype(object)
    colors[::7] = None
    table = pa.table(
        {
            "key": ids,
            "class": pa.array(labels, pa.string()),
            "color": pa.array(colors, pa.string()),
            "year": pa.array(2000 + np.arange(N) % 2),
            "embedding": vectors_column(vectors),
        }
    )
    pq.write_table(table, folder / "items.parquet")
    return folder / "items.parquet"


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    source = {"kind": "vectors", "path": str(written(folder)), "ids": "key", "labels": "class", "metadata": ["color", "year"]}
    config = parse_config(
        {
            "name": "job",
            "root": str(folder / "root"),
            "source": source,
            "queries": {"fraction": 0.2},
            "build": {"router": {"kind": "kmeans", "partitions": 6}, "backend": {"kind": "exact"}, "store_files": 2},
            "calibrate": {"matcher": "match_majority_vote", "k": 3, "bootstrap": 0},
            "search": {"target_recall": None, "probes": 2, "block": 64},
            "evaluate": EVALUATE,
        }
    )
    line = Line(config, (), lambda _: None)
    line.embed()
    line.build()
    line.calibrate()
    release, manifest = line.release()
    folder, manifest = evaluate.run(config, release=release, embeddings=line.embeddings[0], key="key")
    return config, line, folder, manifest


def in_memory(ran, *, block: int) -> tuple[EvaluationSums, LabelItems]:
    config, line, folder, manifest = ran
    calibration = files.read_json(folder / CUTPOINTS_JSON)
    items = LabelItems.in_table(label_items(folder, manifest))
    rules = EvaluationRules.at(calibration, k=5, recall_at=(1, 5), max_r=30, slices=("color", "year"), partitions=6)
    spec = query_spec(
        config, folder, manifest, line.embeddings[0], k=5, exact_k=5, exact_queries=60, deep=30, columns=("color", "year")
    )
    parts = [evaluate_block(answer, items, rules) for answer in answer_all(replace(spec, block=block))]
    return EvaluationSums.merge(reversed(parts)), items


@pytest.mark.parametrize("block", [37, 1024])
def test_beam_and_memory_say_the_same_whatever_the_blocks(ran, block):
    _, _, folder, manifest = ran
    sums, items = in_memory(ran, block=block)
    classes = class_table(sums, items)
    expected = {"asked": "held_out"} | evaluate.metrics_record(sums, classes, manifest, worst=4)
    record = files.read_json(folder / "metrics.json")
    latency = record.pop("latency")
    assert record == json.loads(json.dumps(expected))
    assert pq.read_table(folder / "classes.parquet").equals(classes)
    assert latency["queries"] == 200
    assert 0 < latency["single_ms"]["p50"] <= latency["single_ms"]["p99"]
    assert (latency["block"], latency["block_us"] > 0) == (64, True)


@pytest.mark.parametrize(("rows", "parts"), [(0, 256), (100, 256), (1 << 16, 3)])
def test_bundles_may_merge_in_any_way(monkeypatch, rows, parts):
    from simpipe.beam import evaluate as beam_evaluate

    monkeypatch.setattr(beam_evaluate, "_LEAST_ROWS", rows)
    monkeypatch.setattr(beam_evaluate, "_MOST_PARTS", parts)
    combine, items = beam_evaluate.MergeSums(RULES), items_of(ITEMS)
    answer = random_answer(200)
    random = np.random.default_rng(5)
    bundles = [combine.create_accumulator() for _ in range(4)]
    for part in parts_of(answer, [8] * 24):
        at = int(random.integers(3))  # the last bundle stays empty
        bundles[at] = combine.add_input(bundles[at], evaluate_block(part, items, RULES))
    merged = combine.merge_accumulators([combine.compact(bundles[3]), combine.merge_accumulators(bundles[1:3]), bundles[0]])
    assert same(combine.extract_output(combine.compact(merged)), evaluate_block(answer, items, RULES))
    assert same(combine.extract_output(combine.create_accumulator()), EvaluationSums.empty(RULES))


def test_what_the_record_says_is_so(ran):
    _, line, folder, manifest = ran
    record = files.read_json(folder / "metrics.json")
    info = EmbeddingsInfo.load(line.embeddings[0])
    queries = pa.concat_tables([pq.read_table(line.embeddings[0] / file.path) for file in info.of_splits("query")])
    assert record["queries"] == len(queries)
    assert record["labelled"] == len(queries) - 5
    assert record["open_set"] == 10
    assert 30 < record["exact_queries"] < 100, "about 60, drawn by the hash of the id"
    assert 0.2 < record["metrics"]["ann_recall_at_5"] < 1, "two of six partitions are asked"
    assert record["ann_recall_error"] > 0
    partitions = record["partitions"]
    assert sum(part["rows"] for part in partitions) == manifest.items
    assert sum(part["neighbors"] for part in partitions) == 5 * record["exact_queries"]
    found = sum(part["found"] for part in partitions) / (5 * record["exact_queries"])
    assert found == pytest.approx(record["metrics"]["ann_recall_at_5"], abs=1e-9), "no ties here"
    assert sum(count for _, _, count in record["confusion"]) == record["labelled"]
    right = sum(count for true, matched, count in record["confusion"] if true == matched)
    assert record["metrics"]["match_right_at_optimal"] == pytest.approx(right / record["labelled"], abs=1e-9)
    unknown = {matched: count for true, matched, count in record["confusion"] if true == "new"}
    assert record["metrics"]["no_match_right_at_optimal"] == pytest.approx(unknown.get(None, 0) / 10, abs=1e-9)
    labelled = queries.filter(queries["label"].is_valid())
    for name in ("color", "year"):
        values = labelled[name].to_pylist()
        rows = {row["value"]: row["queries"] for row in record["slices"][name]}
        assert rows == {None if value is None else str(value): values.count(value) for value in set(values)}


def test_worst_classes_are_those_of_the_table_of_all_classes(ran):
    _, _, folder, manifest = ran
    record = files.read_json(folder / "metrics.json")
    classes = pq.read_table(folder / "classes.parquet").to_pylist()
    assert sum(row["queries"] for row in classes) == record["labelled"]
    items = {row["label"]: row["items"] for row in label_items(folder, manifest).to_pylist()}
    assert {row["label"]: row["items"] for row in classes} == {**items, "new": 0}
    indexed = [row for row in classes if row["items"]]
    indexed.sort(key=lambda row: (row["label_precision_at_1"], -row["queries"], row["label"]))
    assert [row["label"] for row in record["worst_classes"]] == [row["label"] for row in indexed[:4]]
    for row in record["worst_classes"]:
        wrong = [[match, count] for true, match, count in record["confusion"] if true == row["label"] and match != true]
        assert row["most_confused_with"] == sorted(wrong, key=lambda each: (-each[1], each[0] is None, each[0] or ""))[:5]


def test_a_new_evaluation_takes_the_place_of_the_old_one(ran, tmp_path):
    config, line, folder, manifest = ran
    assert manifest.steps["evaluate"] == "key"
    shutil.copytree(line.root, tmp_path / "root")
    release = tmp_path / "root" / folder.relative_to(line.root)
    changed = config.evaluate.model_copy(update={"map_at_r": False, "latency_queries": 0, "slices": (), "exact_queries": None})
    config = config.model_copy(update={"evaluate": changed})
    again, manifest = evaluate.run(config, release=release, embeddings=line.embeddings[0], key="another")
    assert (again, manifest.steps["evaluate"]) == (release, "another")
    for name in ("metrics.json", "classes.parquet"):
        releases.verify_file(again, Manifest.load(again).file(name))
    old, new = (files.read_json(each / "metrics.json") for each in (folder, again))
    assert old["metrics"].keys() - new["metrics"].keys() == {"map_at_r"}
    assert {name: old["metrics"][name] for name in new["metrics"] if not name.startswith("ann")} == {
        name: value for name, value in new["metrics"].items() if not name.startswith("ann")
    }
    assert new["exact_queries"] == new["queries"] > old["exact_queries"]
    assert (new["latency"], new["slices"]) == (None, {})
    assert not list(again.parent.glob(".work-*")), "nothing is left behind"


def test_an_unknown_slice_is_refused_by_name(ran):
    config, line, folder, _ = ran
    settings = config.evaluate.model_copy(update={"slices": ("shape",)})
    with pytest.raises(ConfigError, match=r"evaluate\.slices.*'shape'") as caught:
        evaluate.run(config.model_copy(update={"evaluate": settings}), release=folder, embeddings=line.embeddings[0], key="other")
    assert caught.value.cure == "there are: color, year"
