"""A real Flink cluster of two task managers, SDK workers in processes of their own: the line, a killed task manager, a failure.

Runs where `python -m scripts.flink start` has made a distribution and a job server, in the default folder or in the one that
SIMPIPE_FLINK names. The cluster is started on ports of its own, and stopped after.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from line_runs import items_of, run

from benchmarks.engines import CACHE
from benchmarks.feature_graphs import CURE, GRAPHS, MESSAGE
from benchmarks.kill_flink import build_with_kill, cluster_of, configure, content, missing, section
from pipelines.line import Line
from scripts.flink import Cluster
from simpipe.beam.options import run_graph
from simpipe.config import load_config
from simpipe.errors import ContractError
from simpipe.job import job_of

MADE = Path(os.environ.get("SIMPIPE_FLINK", CACHE / "flink"))
WHY = missing(MADE)
# A gigabyte that the project does not fetch for its suite; the other runners are compared without it (test_runners_equal.py).
pytestmark = pytest.mark.skipif(WHY is not None, reason=WHY or "")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory):
    with cluster_of(MADE, tmp_path_factory.mktemp("flink") / "run") as started:
        yield started
        processes = started.processes()
    assert not [process.name for process in processes if process.alive]


def test_the_line_on_two_task_managers_gives_the_release_of_this_process(cluster: Cluster, vectors_config, tmp_path: Path):
    config = vectors_config(tmp_path / "flink", runner=section(cluster))
    line, said = run(config)
    assert [text.split()[0] for text in said] == ["import", "build", "calibrate", "evaluate", "report", "gate", "publish"]
    alone, _ = run(vectors_config(tmp_path / "alone"))
    assert items_of(line.root) == items_of(alone.root)
    assert content(line.root) == content(alone.root)
    jobs = cluster.ask("jobs/overview")["jobs"]
    assert {job["state"] for job in jobs} == {"FINISHED"}
    assert {job["name"].split("-")[1] for job in jobs} >= {"import", "build", "calibrate", "evaluate"}
    used = {
        task["taskmanager-id"]
        for job in jobs
        for vertex in cluster.ask(f"jobs/{job['jid']}")["vertices"]
        for task in cluster.ask(f"jobs/{job['jid']}/vertices/{vertex['id']}/taskmanagers")["taskmanagers"]
    }
    assert len(used) == 2, "both task managers worked"


def test_a_release_is_the_same_after_a_task_manager_was_killed_in_mid_build(cluster: Cluster, tmp_path: Path):
    n = 40_000
    whole = load_config(configure(tmp_path, tmp_path / "whole", n, {"kind": "local"}))
    line = Line(whole, (), lambda text: None)
    line.embed()
    line.build()
    config = configure(tmp_path, tmp_path / "killed", n, section(cluster))
    Line(load_config(config), (), lambda text: None).embed()
    told = build_with_kill(cluster, config, tmp_path / "killed", workers_too=True)
    assert told["restarted"], "the job ran when its task manager was killed"
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    cluster.start()  # brings it back
    while cluster.ask("overview")["taskmanagers"] != 2:  # the dead one is missed after its heartbeats
        time.sleep(0.5)


def test_what_a_worker_raises_on_a_cluster_reaches_the_user(cluster: Cluster, tmp_path: Path):
    graph, _ = GRAPHS["errors_reach_the_user"]
    config = load_config(configure(tmp_path, tmp_path / "root", 100, section(cluster)))
    with pytest.raises(ContractError) as raised:
        run_graph(lambda pipeline: graph(pipeline, tmp_path), job_of(config, "build"))
    assert (raised.value.message, raised.value.cure) == (MESSAGE, CURE)
