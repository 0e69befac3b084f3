"""The line on ready-made vectors: nothing lost, doubled or renamed; bad input is refused by name; releases and pointer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from line_runs import broken_vectors, built, items_of, run

import simpipe
from simpipe import files, releases
from simpipe.cli import main
from simpipe.embeddings import EmbeddingsInfo
from simpipe.errors import (
    ConfigError,
    IncompatibleError,
    QueryError,
)
from simpipe.index.query import QuerySpec, answer_all

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def ran(vectors_config, tmp_path_factory):
    root = tmp_path_factory.mktemp("ran") / "root"
    config = vectors_config(root)
    line, said = run(config)
    return config, line, said


def test_every_item_is_there_once_with_its_label_and_vector(ran):
    config, line, said = ran
    raw = np.load(config.source.path)
    ids, labels = np.load(config.source.ids), np.load(config.source.labels)
    info = EmbeddingsInfo.load(line.embeddings[0])
    queries = {
        name for file in info.of_splits("query") for name in pq.read_table(line.embeddings[0] / file.path)["id"].to_pylist()
    }
    found = items_of(line.root)
    assert set(found) | queries == set(ids.tolist())
    assert not set(found) & queries, "held-out queries are not indexed"
    assert 0.07 < len(queries) / len(ids) < 0.13
    for row, name in enumerate(ids):
        if name in found:
            label, vector = found[name]
            assert label == labels[row]
            np.testing.assert_allclose(np.frombuffer(vector, np.float32), raw[row] / np.linalg.norm(raw[row]), rtol=1e-5)
    assert [text.split()[0] for text in said] == ["import", "build", "calibrate", "evaluate", "report", "gate", "publish"]


def test_every_item_is_its_own_nearest_neighbor_over_eleven_partitions(ran):
    searcher = simpipe.open_release(ran[0].root)
    assert len(searcher.manifest.partitions) == 11
    for about in searcher.manifest.partitions:
        part = searcher.partition(about.partition)
        nearest = searcher.lookup(np.asarray(part.vectors), 1)
        assert nearest.ids[:, 0].tolist() == part.ids.tolist()


def test_items_come_first_among_exact_twins(vectors_config, tmp_path):
    source = broken_vectors(tmp_path, lambda x, ids: x.__setitem__(slice(10, 60), x[10].copy()))
    line = built(vectors_config(tmp_path / "r", source=source))
    searcher = simpipe.open_release(line.root)
    ids = sorted(items_of(line.root))
    found = searcher.lookup_items(ids, 3)
    assert found.ids[:, 0].tolist() == ids
    assert (found.distances[:, 0] == 0).all()
    assert all(len(set(row)) == 3 for row in found.ids)


def test_lookup_equals_brute_force_and_leaves_the_query_out_by_id(ran):
    searcher = simpipe.open_release(ran[0].root)
    parts = [searcher.partition(about.partition) for about in searcher.manifest.partitions]
    vectors, ids = np.concatenate([part.vectors for part in parts]), np.concatenate([part.ids for part in parts])
    queries, names = vectors[:20], ids[:20]
    distances = 1 - queries.astype(np.float64) @ vectors.T.astype(np.float64)
    oracle = ids[np.argsort(distances, axis=1, kind="stable")[:, :6]]
    found = searcher.lookup(queries, 5, query_ids=names.tolist())
    assert [list(row) for row in found.ids] == [
        [name for name in row if name != own][:5] for row, own in zip(oracle, names, strict=True)
    ]


def test_metrics_and_cutpoints_equal_a_plain_computation(ran):
    config, line, _ = ran
    searcher = simpipe.open_release(config.root)
    info = EmbeddingsInfo.load(line.embeddings[0])
    paths = tuple(str(line.embeddings[0] / file.path) for file in info.of_splits("query"))
    answers = list(answer_all(QuerySpec(str(searcher.folder), paths, 10, exact_k=10, block=100)))
    hits = np.concatenate([answer.found.labels[:, 0] == answer.labels for answer in answers])
    distances = np.concatenate([answer.found.distances[:, 0] for answer in answers])
    assert line.metrics()["label_precision_at_1"] == pytest.approx(hits.mean())
    assert line.metrics()["ann_recall_at_10"] == 1.0, "exact backend, all partitions asked"
    cut = searcher.cutpoints["recall>=0.95"]
    near = distances <= np.float32(cut["distance"])
    assert cut["recall"] == pytest.approx((hits & near).sum() / hits.sum())
    assert cut["recall"] >= 0.95
    assert (hits & (distances < np.float32(cut["distance"]))).sum() / hits.sum() < 0.95, "the smallest threshold that reaches it"


def test_match_applies_the_cutpoint_as_calibration_did(ran):
    searcher = simpipe.open_release(ran[0].root)
    name = searcher.partition(0).ids[0]
    vector = searcher.vectors_of([name])
    assert searcher.match(vector, query_ids=[name]).labels[0] == searcher.items_of([name])["label"][0].as_py()
    far = -vector
    result = searcher.match(far)
    assert result.labels[0] is None
    assert result.distances[0] > np.float32(searcher.cutpoints["optimal"]["distance"])
    with pytest.raises(QueryError, match="there are: optimal"):
        searcher.match(vector, "nonsense")


def test_queries_that_cannot_be_answered(ran):
    searcher = simpipe.open_release(ran[0].root)
    good = np.ones((3, 16), np.float32)
    for broken, error, text in (
        (np.full((1, 16), np.nan), QueryError, "row 0 holds NaN"),
        (np.concatenate([good, np.zeros((1, 16))]), QueryError, "row 3 has zero norm"),
        (np.ones((2, 15)), IncompatibleError, "dim 15.*dim 16"),
        (np.array([["a"] * 16]), QueryError, "dtype"),
    ):
        with pytest.raises(error, match=text):
            searcher.lookup(broken)
    for ask in (
        lambda: searcher.lookup(good, 0),
        lambda: searcher.lookup(good, 0, query_ids=["a", "b", "c"]),
        lambda: searcher.lookup_items([searcher.partition(0).ids[0]], 0),
    ):
        with pytest.raises(QueryError, match="k is 0"):
            ask()
    with pytest.raises(QueryError, match="nobody"):
        searcher.vectors_of(["nobody"])
    with pytest.raises(IncompatibleError, match=r"deadbeef.*none"):
        searcher.check_encoder("deadbeef")


def test_k_larger_than_the_index_answers_with_what_exists(ran):
    searcher = simpipe.open_release(ran[0].root)
    found = searcher.lookup(np.ones((2, 16), np.float32), searcher.items + 500)
    assert found.valid.sum(axis=1).tolist() == [searcher.items] * 2
    assert len(set(found.ids[0][found.valid[0]])) == searcher.items


def test_second_run_skips_everything(ran):
    _, said = run(ran[0])
    assert all("skipped, unchanged" in text for text in said)


def test_same_result_from_another_root_and_runner(ran, vectors_config, tmp_path):
    _, _, _ = ran
    run(vectors_config(tmp_path / "again"), ["--runner=BundleBasedDirectRunner"])
    assert items_of(tmp_path / "again") == items_of(Path(ran[0].root))


@pytest.mark.parametrize("ids", ["ids.npy", "ids.txt", None])
def test_blocks_of_any_size_give_the_same_items(ran, vectors_config, tmp_path, monkeypatch, ids):
    """1 block against 5, and ids from an array, a text file, or row numbers."""
    source = ran[0].source.model_dump()
    if ids == "ids.txt":
        (tmp_path / "ids.txt").write_text("\n".join(np.load(source["ids"]).tolist()))
        source["ids"] = str(tmp_path / "ids.txt")
    elif ids is None:
        source["ids"] = None
    whole = items_of(Path(ran[0].root)) if ids else items_of(built(vectors_config(tmp_path / "one", source=source)).root)
    monkeypatch.setattr("simpipe.data.vectors.BLOCK_ROWS", 700)
    line = built(vectors_config(tmp_path / "five", source=source))
    assert len(EmbeddingsInfo.load(line.embeddings[0]).of_splits("index")) == 5
    assert items_of(line.root) == whole


@pytest.mark.parametrize("backend", ["nmslib", "scann"])
def test_other_backends_hold_the_same_items(ran, vectors_config, tmp_path, backend):
    build = {"router": {"kind": "hash", "partitions": 2}, "backend": {"kind": backend}}
    line, _ = run(vectors_config(tmp_path / backend, build=build))
    assert {part.backend for part in line.release()[1].partitions} == {backend}
    assert items_of(line.root) == items_of(Path(ran[0].root))
    assert line.metrics()["ann_recall_at_10"] >= 0.99


def test_lost_or_doubled_records_stop_a_step(tmp_path):
    from simpipe.beam.io import Outcome, write_summary
    from simpipe.errors import ContractError
    from simpipe.types import Counts

    for counts in (Counts(10, 9, 0), Counts(10, 10, 1)):
        with pytest.raises(ContractError, match="read 10 records but wrote"):
            write_summary(Outcome(counts), str(tmp_path / "summary.json"))
    assert not (tmp_path / "summary.json").exists()


def test_a_file_that_lost_rows_stops_the_build(vectors_config, tmp_path, monkeypatch):
    """A runner that drops a routed file: the sums differ, and no release appears."""
    from simpipe.beam import build as wiring

    def drop(number, partitions, plan):
        outcome = original(number, partitions, plan)
        (Path(plan.work) / f"route-{number:05d}.arrow").write_bytes(b"")
        return outcome

    original = wiring._route
    monkeypatch.setattr(wiring, "_route", drop)
    from simpipe.errors import ContractError

    with pytest.raises(ContractError, match="lost or doubled"):
        run(vectors_config(tmp_path / "r"))
    assert releases.finished(tmp_path / "r") == []


def test_an_answer_does_not_depend_on_its_company(ran):
    from simpipe.queries import answer, load_queries

    config, line, _ = ran
    searcher = simpipe.open_release(config.root)
    info = EmbeddingsInfo.load(line.embeddings[0])
    held = pq.read_table(line.embeddings[0] / info.of_splits("query")[0].path)["id"][0].as_py()
    item = searcher.partition(0).ids[0]

    root = Path(config.root)

    def ask(*ids):
        return answer(
            searcher,
            load_queries(root, searcher, ids=ids, images=None, vectors=None, encoder=None),
            k=3,
            cutpoint=None,
        )

    together = ask(item, held)
    assert together == [*ask(item), *ask(held)]
    assert together[0]["neighbors"][0]["id"] == item


def test_unknown_beam_options_are_named(capsys):
    from simpipe.beam.options import check_options
    from simpipe.job import job_of

    check_options(job_of(None, "build", ["--runer=DirectRunner", "--direct_num_workers=1"]))
    assert "does not know --runer;" in capsys.readouterr().err


def test_refused_runners(vectors_config, tmp_path):
    for argument in ("--runner=DaskRunner", "--direct_running_mode=multi_threading"):
        with pytest.raises(ConfigError):
            run(vectors_config(tmp_path / "r"), [argument])


def test_command_line_prints_errors_without_traceback(tmp_path, capsys):
    path = tmp_path / "a.yaml"
    path.write_text("name: a\nroot: r\nsource: digits\ntypo: 1\n")
    assert main(["run", "--config", str(path)]) == 2
    shown = capsys.readouterr().err
    assert "typo: unknown key" in shown
    assert "Traceback" not in shown


BLOCKER = """
import os, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "keras"):
            with open(os.environ["BLOCKED_LOG"], "a") as log:
                log.write(name + "\\n")
            raise ImportError(name)
sys.meta_path.insert(0, Blocker())
with open(os.environ["BLOCKED_LOG"] + ".processes", "a") as log:
    log.write(str(os.getpid()) + "\\n")
"""


@pytest.mark.parametrize("backend", ["scann", "nmslib"])
def test_ready_made_vectors_never_import_tensorflow(vectors_config, tmp_path, backend):
    """Every process of the run starts with a hook that logs and refuses any import of TensorFlow or Keras."""
    import yaml

    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(BLOCKER)
    config = vectors_config(tmp_path / "r", build={"router": {"kind": "kmeans", "partitions": 2}, "backend": {"kind": backend}})
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(json.loads(config.model_dump_json())))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "hook"), "BLOCKED_LOG": str(tmp_path / "log")}
    command = [sys.executable, "-m", "simpipe.cli", "run", "--config", str(tmp_path / "c.yaml")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "log.processes").exists(), "the hook was active"
    assert not (tmp_path / "log").exists(), (tmp_path / "log").read_text()
    assert files.read_json(tmp_path / "r" / "live.json")["release"]
