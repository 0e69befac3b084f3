"""Jobs on Dataflow: their options, and whole submissions to a service on loopback with storage on loopback."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apache_beam as beam
import fake_dataflow
import fake_gcs
import pytest
from test_runner_arguments import DATAFLOW, config_of

from simpipe.beam.dataflow import build_hints, labels_of
from simpipe.beam.io import Outcome, WriteSummary, read_summary
from simpipe.beam.options import pipeline_options, run_graph
from simpipe.beam.runners import arguments_of
from simpipe.errors import ContractError, SimpipeError
from simpipe.job import Spread, job_of
from simpipe.types import Counts


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Dataflow and storage on loopback; a bucket `a-bucket`."""
    from apache_beam.internal.gcp import auth

    (tmp_path / "storage" / "a-bucket").mkdir(parents=True)
    with fake_gcs.serving(tmp_path / "storage") as storage, fake_dataflow.serving(tmp_path / "storage") as service:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", storage.url)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(fake_dataflow.worthless_key(tmp_path / "key.json", service.url)))
        monkeypatch.setattr(auth._Credentials, "_credentials_init", False)
        quick(monkeypatch)
        yield service


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beam and simpipe look at jobs every 5 and 30 seconds; here they look all the time."""
    from apache_beam.runners.dataflow import dataflow_runner

    import simpipe.beam.dataflow as ours

    soon = SimpleNamespace(time=time.time, sleep=lambda seconds: time.sleep(0.05))
    monkeypatch.setattr(dataflow_runner, "time", soon)
    monkeypatch.setattr(ours, "_PAUSE", 0.05)


def options_of(verb: Any, **runner: Any) -> dict[str, Any]:
    job = job_of(config_of(**{**DATAFLOW, **runner}), verb)
    return pipeline_options(arguments_of(job), job_name=job.name).get_all_options()


def test_every_setting_reaches_beam():
    about = {
        "service_account": "worker@a-project.iam.gserviceaccount.com",
        "subnetwork": "regions/europe-west1/subnetworks/private",
        "labels": {"team": "search"},
        "flexible": True,
        "workers": {"build": {"threads": 2, "disk_gb": 300}},
        "max_workers": 7,
    }
    options = options_of("build", **about)
    assert options["service_account_email"] == about["service_account"]
    assert options["subnetwork"] == about["subnetwork"]
    assert options["use_public_ips"] is False
    assert options["save_main_session"] is False
    assert options["sdk_location"] == "container"
    assert options["sdk_container_image"] == DATAFLOW["image"]
    assert options["flexrs_goal"] == "COST_OPTIMIZED"
    assert (options["machine_type"], options["disk_size_gb"], options["max_num_workers"]) == ("n2-highmem-8", 300, 7)
    assert "no_use_multiple_sdk_containers" in options["experiments"]
    assert options["number_of_worker_harness_threads"] == 2
    assert (options["temp_location"], options["staging_location"]) == ("gs://a-bucket/temp/temp", "gs://a-bucket/temp/staging")
    labels = {"team=search", "simpipe-verb=build", "simpipe-config=trial", "simpipe-version=0-1-0"}
    assert set(options["labels"]) == labels


def test_a_verb_that_leaves_the_cores_to_beam_takes_one_process_a_core():
    options = options_of("shard")
    assert "no_use_multiple_sdk_containers" not in options["experiments"]
    assert options["number_of_worker_harness_threads"] is None


def test_labels_are_what_the_service_takes():
    import re

    config = config_of(**DATAFLOW)
    for name in ("trial", "x" * 200, "20260101T000000Z-ABC", "a_b.c"):
        for key, value in labels_of(job_of(config, "lookup", name=name), config.runner).items():  # type: ignore[arg-type]
            assert re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", key)
            assert re.fullmatch(r"[a-z0-9_-]{0,63}", value)


def test_hints_fit_a_partition_and_go_to_dataflow_only():
    dataflow, local = config_of(**DATAFLOW).runner, config_of(kind="local").runner
    assert build_hints(local, memory_mib=2048, items=10**7, row_bytes=1000) == {}
    assert build_hints(dataflow, memory_mib=2048, items=10**7, row_bytes=1000)["min_ram"] == "3584MiB"
    small = build_hints(dataflow, memory_mib=2048, items=1024, row_bytes=1024)
    assert small == {"min_ram": "1537MiB", "max_active_bundles_per_worker": "1"}


def double(number: int, *, bad: int | None = None) -> Outcome:
    if number == bad:
        raise ContractError("index-00003.parquet: cut off", "run it again")
    beam.metrics.Metrics.counter("simpipe", "in-items").inc(number)
    beam.metrics.Metrics.distribution("simpipe", "build-msec").update(number)
    return Outcome(Counts(number, number), ({"path": f"{number:03d}", "twice": 2 * number},))


def graph(path: Path, *, bad: int | None = None):
    def build(pipeline: Any) -> None:
        numbers = pipeline | "Numbers" >> beam.Create([1, 2, 3]) | "Spread" >> beam.Reshuffle()
        _ = numbers | "Double" >> beam.Map(double, bad=bad) | "Summary" >> WriteSummary(str(path))

    return build


def job_on(service: fake_dataflow.FakeDataflow, **runner: Any):
    return job_of(config_of(**{**DATAFLOW, "endpoint": service.url, **runner}), "build")


def test_a_job_is_submitted_runs_and_ends(cloud, tmp_path, capsys):
    runner = {"service_account": "worker@a-project.iam.gserviceaccount.com", "subnetwork": "regions/r/subnetworks/s"}
    ended = run_graph(graph(tmp_path / "done.json"), job_on(cloud, **runner, labels={"team": "search"}))
    assert [record["twice"] for record in read_summary(tmp_path / "done.json").records] == [2, 4, 6]
    (job,) = cloud.jobs.values()
    assert (ended.verb, ended.name, ended.id, ended.state) == ("build", job["name"], job["id"], "DONE")
    assert ended.counters == {"in-items": 6}
    assert ended.distributions == {"build-msec": Spread(sum=6, count=3, min=1, max=3)}
    assert job["name"] == "simpipe-build-trial"
    assert job["type"] == "JOB_TYPE_BATCH"
    assert job["labels"] == {
        "team": "search",
        "simpipe-verb": "build",
        "simpipe-config": "trial",
        "simpipe-version": "0-1-0",
    }
    environment = job["environment"]
    assert environment["serviceAccountEmail"] == runner["service_account"]
    assert {"no_use_multiple_sdk_containers", "use_runner_v2"} <= set(environment["experiments"])
    (pool,) = environment["workerPools"]
    assert pool["machineType"] == "n2-highmem-8"
    assert pool["diskSizeGb"] == 200
    assert pool["autoscalingSettings"] == {"algorithm": "AUTOSCALING_ALGORITHM_BASIC", "maxNumWorkers": 20}
    assert pool["ipConfiguration"] == "WORKER_IP_PRIVATE"
    assert pool["subnetwork"] == runner["subnetwork"]
    assert pool["numThreadsPerWorker"] == 1
    assert {each["containerImage"] for each in pool["sdkHarnessContainerImages"]} == {DATAFLOW["image"]}
    assert "packages" not in pool  # nothing is staged but the graph: the code is in the image
    link = f"https://console.cloud.google.com/dataflow/jobs/europe-west1/{job['id']}?project=a-project"
    assert link in capsys.readouterr().err


def test_what_a_worker_raised_is_told_with_its_cure_and_the_link(cloud, tmp_path):
    with pytest.raises(ContractError) as caught:
        run_graph(graph(tmp_path / "done.json", bad=2), job_on(cloud))
    (job,) = cloud.jobs.values()
    assert caught.value.message == "index-00003.parquet: cut off"
    assert caught.value.cure.startswith("run it again; https://console.cloud.google.com/")
    assert job["id"] in caught.value.cure


def test_a_job_of_the_same_name_is_waited_for(cloud, tmp_path, capsys):
    first, job = tmp_path / "first.json", job_on(cloud)
    cloud.hold.clear()
    threads = [threading.Thread(target=run_graph, args=(graph(first), job))]
    threads[0].start()
    while not cloud.jobs:
        time.sleep(0.01)
    threads.append(threading.Thread(target=run_graph, args=(graph(tmp_path / "second.json"), job)))
    threads[1].start()
    said = ""
    while "runs already" not in said:
        said += capsys.readouterr().err
        time.sleep(0.01)
    assert len(cloud.jobs) == 1
    cloud.hold.set()
    for thread in threads:
        thread.join()
    assert [job["currentState"] for job in cloud.jobs.values()] == ["JOB_STATE_DONE"] * 2
    assert (tmp_path / "second.json").exists()


def test_a_stopped_driver_cancels_its_job(cloud, tmp_path, monkeypatch):
    from apache_beam.runners.dataflow.dataflow_runner import DataflowPipelineResult

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(DataflowPipelineResult, "wait_until_finish", stopped)
    cloud.hold.clear()
    with pytest.raises(KeyboardInterrupt):
        run_graph(graph(tmp_path / "done.json"), job_on(cloud))
    (job,) = cloud.jobs.values()
    assert job["currentState"] == "JOB_STATE_CANCELLED"


def test_a_cancelled_job_is_no_success(cloud, tmp_path):
    cloud.hold.clear()
    done: list[Any] = []

    def run() -> None:
        try:
            run_graph(graph(tmp_path / "done.json"), job_on(cloud))
        except SimpipeError as error:
            done.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while not cloud.jobs:
        time.sleep(0.01)
    (job,) = cloud.jobs.values()
    job["currentState"] = "JOB_STATE_CANCELLED"
    thread.join()
    assert job["id"] in str(done[0])
    assert "CANCELLED" in str(done[0])
