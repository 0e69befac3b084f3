"""What jobs count: names from one table only, and sums that agree with what the steps themselves reconciled."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import lookup, reindex
from pipelines.line import Line
from simpipe import files, recording
from simpipe.beam.metrics import COUNTERS, DISTRIBUTIONS, NAMESPACE, Counter, Distribution, read_metrics
from simpipe.config import Config, parse_config
from simpipe.data.examples import DatasetInfo
from simpipe.embeddings import EmbeddingsInfo
from simpipe.job import Spread
from simpipe.query_answers import AnswerTable

pytestmark = pytest.mark.usefixtures("undrawn")

SOURCE = Path(__file__).parent.parent / "simpipe"
ITEMS, BAD, OTHER = 600, 7, 40


# --- names ------------------------------------------------------------------------------------------------------------


def used_names() -> dict[str, set[str]]:
    """First arguments of `count` and `timed` in the source, `_KINDS` among them."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in (SOURCE / "beam").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("count", "timed"):
                if isinstance(node.args[0], ast.Constant):
                    found[node.func.id].add(node.args[0].value)
            elif isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "tuple[Counter, ...]":
                assert node.value is not None
                found["count"] |= set(ast.literal_eval(node.value))
    return found


def test_the_table_names_what_is_used_and_nothing_else():
    assert set(get_args(Counter)) == set(COUNTERS)
    assert set(get_args(Distribution)) == set(DISTRIBUTIONS)
    used = used_names()
    assert used["count"] == set(COUNTERS)
    assert used["timed"] | {"block-items"} == set(DISTRIBUTIONS)
    for name in (*COUNTERS, *DISTRIBUTIONS):
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name)


def test_beams_metrics_are_made_in_one_place():
    for path in SOURCE.rglob("*.py"):
        if path != SOURCE / "beam" / "metrics.py":
            assert "beam.metrics" not in path.read_text().replace("simpipe.beam.metrics", ""), path


def test_the_documentation_has_every_name():
    told = (SOURCE.parent / "docs" / "monitoring.md").read_text()
    for name in (*COUNTERS, *DISTRIBUTIONS):
        assert f"`{name}`" in told, name


# --- reading ------------------------------------------------------------------------------------------------------------


def result_of(counters: list[tuple[str, Any, Any]], distributions: list[tuple[str, Any, Any]] = []) -> Any:  # noqa: B006
    def each(name: str, committed: Any, attempted: Any) -> Any:
        key = SimpleNamespace(metric=SimpleNamespace(name=name, namespace=NAMESPACE))
        return SimpleNamespace(key=key, committed=committed, attempted=attempted)

    found = {"counters": [each(*one) for one in counters], "distributions": [each(*one) for one in distributions]}
    return SimpleNamespace(metrics=lambda: SimpleNamespace(query=lambda _: found))


def test_committed_counts_before_attempted_and_zero_is_a_count():
    counters, _ = read_metrics(result_of([("in-items", 5, 9), ("out-items", None, 4), ("rejected", 0, 3)]))
    assert counters == {"in-items": 5, "out-items": 4, "rejected": 0}


def test_steps_of_one_name_add_up():
    def spread(total: int, count: int, low: int, high: int) -> Any:
        return SimpleNamespace(sum=total, count=count, min=low, max=high)

    nothing = spread(0, 0, 2**63 - 1, -(2**63))
    told = [("build-msec", None, spread(30, 3, 5, 20)), ("build-msec", spread(8, 2, 1, 7), None), ("route-msec", nothing, None)]
    counters, spreads = read_metrics(result_of([("in-items", 5, 5), ("in-items", 7, None)], told))
    assert counters == {"in-items": 12}
    assert spreads == {"build-msec": Spread(38, 5, 1, 20)}


def test_a_runner_without_metrics_gives_none():
    def refuse() -> Any:
        raise NotImplementedError  # what Beam's `PipelineResult.metrics` does where a runner has none

    assert read_metrics(SimpleNamespace(metrics=refuse)) == ({}, {})
    assert read_metrics(SimpleNamespace(metrics=lambda: None)) == ({}, {})


def test_a_running_job_is_asked_anew():
    class Portable:
        """Keeps its first answer, as Beam's portable result does."""

        _metrics: Any = None
        asked = 0

        def metrics(self) -> Any:
            if not self._metrics:
                self.asked += 1
                self._metrics = result_of([("out-items", None, self.asked)]).metrics()
            return self._metrics

    running = Portable()
    assert [read_metrics(running)[0]["out-items"] for _ in range(3)] == [1, 2, 3]


# --- every verb ---------------------------------------------------------------------------------------------------------

Job = dict[str, Any]
MOVED = {"added": 3, "changed": 5, "deleted": 2}


def write_source(path: Path, *, changed: int = 0, first: int = 0, last: int = ITEMS) -> None:
    """Items `first` to `last` of five classes, and the first `changed` moved; then bad ones and others, always the same."""
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(ITEMS + MOVED["added"] + BAD + OTHER, 8)).astype(np.float32)
    vectors[:changed] += 1
    labels = np.array([f"c{row % 5}" for row in range(len(vectors))])
    kept = [*range(first, last), *range(len(vectors) - BAD - OTHER, len(vectors))]
    vectors[-BAD:, 2] = np.nan
    labels[-BAD - OTHER : -BAD] = "other"
    columns = {"id": [f"v{row:04d}" for row in kept], "label": labels[kept], "embedding": list(vectors[kept])}
    pq.write_table(pa.table(columns), path, row_group_size=200)


def config_of(folder: Path, **changes: Any) -> Config:
    raw = {
        "name": "counted",
        "root": str(folder / "root"),
        "source": {"kind": "vectors", "path": str(folder / "x.parquet"), "ids": "id", "labels": "label"},
        "classes": {"index": [f"c{number}" for number in range(5)]},
        "rejects": {"max_share": 0.1},
        "queries": {"fraction": 0.2},
        "build": {
            "router": {"kind": "kmeans", "partitions": 4, "spill": "soar"},
            "backend": {"kind": "exact"},
            "store_files": 3,
        },
        "dedupe": {"distance": 0.05},
        "report": {"projection_items": 60},
    }
    return parse_config({**raw, **changes})


def jobs_of(root: Path, work: Any) -> list[Job]:
    """The jobs that the summary of `work()` tells of."""

    def done() -> int:
        work()
        return 0

    recording.record(recording.Run("run", root, "test.yaml", "local", "counted"), done)
    jobs = files.read_json(root / "runs" / "counted.json")["jobs"]
    assert {job["state"] for job in jobs} <= {"DONE"}
    return jobs


def check(job: Job, *, heavy: str) -> dict[str, int]:
    """What each job that reads records reports; its counters."""
    counters = job["counters"]
    assert set(counters) <= set(COUNTERS)
    assert set(job["distributions"]) <= set(DISTRIBUTIONS)
    assert {"in-items", "out-items", "rejected", "excluded"} <= set(counters), job["verb"]
    assert counters["in-items"] == counters["out-items"] + counters["rejected"] + counters["excluded"], job["verb"]
    assert any(name in counters for name in ("in-bytes", "out-bytes")), job["verb"]
    assert job["distributions"][heavy]["count"] > 0, job["verb"]
    assert job["distributions"]["block-items"]["sum"] == counters["in-items"]
    return counters


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Line, list[Job]]:
    folder = tmp_path_factory.mktemp("counted")
    write_source(folder / "x.parquet")
    config = config_of(folder)
    line = Line(config, say=lambda text: None)
    jobs = jobs_of(line.root, lambda: (line.run(), line.dedupe()))
    return line, jobs


def of(jobs: list[Job], verb: str) -> Job:
    return next(job for job in jobs if job["verb"] == verb)


def test_an_import_counts_what_it_left_out(counted):
    line, jobs = counted
    counters = check(of(jobs, "import"), heavy="import-msec")
    info = EmbeddingsInfo.load(line.embeddings[0])
    assert counters["in-items"] == ITEMS + BAD + OTHER
    assert counters["rejected"] == info.counts["rejected"] == BAD
    assert counters["excluded"] == info.provenance["excluded"] == OTHER
    assert counters["out-items"] == info.counts["written"] == ITEMS
    assert counters["out-bytes"] == sum(file.size for file in info.files)


def test_a_build_counts_items_and_copies_apart(counted):
    line, jobs = counted
    _, manifest = line.release()
    counters = check(of(jobs, "build"), heavy="build-msec")
    assert counters["out-items"] == manifest.items
    assert counters["index-items"] == sum(part.rows for part in manifest.partitions) == manifest.items + counters["copies"]
    assert counters["copies"] > 0
    assert 0 < counters["sample-items"] <= manifest.items
    info = EmbeddingsInfo.load(line.embeddings[0])
    assert counters["in-bytes"] == sum(file.size for file in info.of_splits("train", "index"))
    made = ("partitions/", "store/", "digests/")
    assert counters["out-bytes"] == sum(entry.size for entry in manifest.files if entry.path.startswith(made))
    times = of(jobs, "build")["distributions"]
    assert times["build-msec"]["count"] == len(manifest.partitions)
    assert times["store-msec"]["count"] == manifest.store_files


@pytest.mark.parametrize(("verb", "heavy"), [("calibrate", "calibrate-msec"), ("evaluate", "evaluate-msec")])
def test_jobs_over_queries_count_queries(counted, verb, heavy):
    line, jobs = counted
    counters = check(of(jobs, verb), heavy=heavy)
    queries = sum(file.rows for file in EmbeddingsInfo.load(line.embeddings[0]).of_splits("query"))
    assert counters["in-items"] == counters["out-items"] == counters["labelled"] == queries
    assert counters["in-bytes"] == 4 * 8 * queries
    assert of(jobs, verb)["distributions"]["search-msec"]["count"] > 0


def test_dedupe_counts_items_once_though_pairs_are_collected_from_them(counted):
    line, jobs = counted
    counters = check(of(jobs, "dedupe"), heavy="dedupe-msec")
    assert counters["in-items"] == line.release()[1].items
    assert counters["pairs"] > 0


def test_lookups_count_rejected_queries(counted, tmp_path):
    line, _ = counted
    vectors = np.random.default_rng(1).normal(size=(50, 8)).astype(np.float32)
    vectors[3, 0] = np.inf
    pq.write_table(pa.table({"embedding": list(vectors)}), tmp_path / "q.parquet")
    out = tmp_path / "out.parquet"
    config = config_of(line.root.parent)
    for kind, verb in (("neighbors", "lookup"), ("matches", "match")):
        table = AnswerTable(kind)  # type: ignore[arg-type]
        work = lambda table=table: lookup.run(str(line.root), str(tmp_path / "q.parquet"), str(out), table=table, config=config)  # noqa: E731
        (job,) = jobs_of(tmp_path, work)
        assert job["verb"] == verb
        counters = check(job, heavy="search-msec")
        assert (counters["in-items"], counters["rejected"], counters["out-items"]) == (50, 1, 49)


def test_a_reindex_counts_changes_and_what_it_wrote_anew(tmp_path):
    write_source(tmp_path / "x.parquet")
    config = config_of(tmp_path)
    line = Line(config, say=lambda text: None)
    line.run()
    before = line.release()[1]
    write_source(tmp_path / "x.parquet", changed=MOVED["changed"] + MOVED["deleted"], first=MOVED["deleted"], last=ITEMS + 3)
    summaries = []
    jobs = jobs_of(line.root, lambda: summaries.append(reindex.run(config, say=lambda text: None)))
    (summary,) = summaries
    changes = summary.items
    found, *_ = (job for job in jobs if "added" in job["counters"])
    counters = check(found, heavy="scan-msec")
    assert {name: counters[name] for name in (*MOVED, "unchanged")} == {
        name: getattr(changes, name) for name in (*MOVED, "unchanged")
    }
    assert counters["rejected"] == BAD
    assert counters["excluded"] == OTHER
    assert found["distributions"]["compare-msec"]["count"] == before.store_files
    embedded = check(of(jobs, "embed"), heavy="import-msec")
    queries = summary.queries
    # Changed queries are new ones as well; those that did not change are copied.
    wanted = sum(getattr(each, name) for each in (changes, queries) for name in ("added", "changed")) + queries.unchanged
    assert embedded["out-items"] == wanted
    routed, rebuilt = [job for job in jobs if job["verb"] == "build"][:2]
    assert check(routed, heavy="route-msec")["out-items"] == changes.added + changes.changed
    assert routed["counters"]["dropped"] >= changes.changed + changes.deleted
    assert check(rebuilt, heavy="build-msec")["out-items"] > 0


def test_shards_and_embeddings_of_examples(tmp_path, digits):
    x, y = digits
    np.savez(tmp_path / "digits.npz", x=x[:400], y=y[:400])
    config = parse_config(
        {
            "name": "digits",
            "root": str(tmp_path / "root"),
            "source": {"kind": "npz", "path": str(tmp_path / "digits.npz")},
            "classes": {"train": ["0-5"], "index": ["0-7"]},
            "queries": {"fraction": 0.2},
            "shard": {"num_shards": 2, "block_rows": 150},
            "train": {
                "encoder": {"architecture": "conv4", "filters": 8, "dim": 8},
                "sampler": {"classes_per_batch": 4, "examples_per_class": 2},
                "epochs": 1,
                "steps_per_epoch": 2,
            },
        }
    )
    line = Line(config, say=lambda text: None)
    jobs = jobs_of(line.root, lambda: (line.shard(), line.train(), line.embed()))
    assert [job["verb"] for job in jobs] == ["shard", "embed"], "training is no Beam job"
    info = DatasetInfo.load(line.examples[0])
    counters = check(jobs[0], heavy="scan-msec")
    assert counters["in-items"] == info.counts["read"] == 400
    assert counters["excluded"] == info.counts["excluded"] > 0
    assert counters["out-bytes"] == sum(split.num_bytes for split in info.splits.values())
    assert counters["work-bytes"] > 0
    assert jobs[0]["distributions"]["scan-msec"]["count"] == 3
    written = check(jobs[1], heavy="embed-msec")
    assert written["in-items"] == counters["out-items"]
    assert written["in-bytes"] == counters["out-bytes"]
    step = files.read_json(line.root / "runs" / "counted.json")["steps"][1]
    assert step["step"] == "train"
    assert step["numbers"]["epochs"] == 1
    assert step["numbers"]["steps"] == 2
    assert np.isfinite(step["numbers"]["loss"])
