"""The Flex Template: parameters, the configuration that they become, and the job that runs a verb."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from test_dataflow import cloud as cloud
from test_runner_arguments import DATAFLOW

from pipelines import template as entry
from simpipe import cli
from simpipe.beam import drive as driving
from simpipe.config import load_config
from simpipe.config.runner import DataflowRunner
from simpipe.errors import ConfigError, SimpipeError
from simpipe.template import IMAGE, PARAMETERS, VERBS, Cloud, Launch, command_of, metadata_text, pattern_of

METADATA = Path(__file__).parent.parent / "templates" / "dataflow" / "metadata.json"
BY_NAME = {each.name: each for each in PARAMETERS}


def pattern(name: str) -> Any:
    return st.from_regex(BY_NAME[name].regex, fullmatch=True)


def field(name: str) -> Any:
    return st.from_regex(pattern_of(name), fullmatch=True)


@st.composite
def overrides(draw: Any) -> tuple[str, ...]:
    """Changes of values that every configuration takes."""
    changes = (
        st.builds("search.target_recall={}".format, st.floats(0.5, 0.99)),
        st.builds("build.workers={}".format, st.integers(1, 500)),
        st.builds("seed={}".format, st.integers(0, 2**32 - 1)),
        st.builds("source.path={}".format, st.from_regex(r"gs://bucket/[a-z/ =.]{1,20}x", fullmatch=True)),
    )
    return tuple(draw(st.lists(st.one_of(*changes), max_size=4)))


@st.composite
def launches(draw: Any) -> Launch:
    verb = draw(st.sampled_from(VERBS))
    return Launch(
        verb=verb,
        config=draw(pattern("config")),
        root=draw(st.none() | pattern("root")),
        run_id=draw(st.none() | pattern("run_id")),
        overrides=draw(overrides()),
        no_publish=verb == "reindex" and draw(st.booleans()),
        deltas=draw(st.none() | pattern("deltas")) if verb == "reindex" else None,
        release=draw(st.none() | pattern("release")) if verb in ("gate", "publish") else None,
        jobs_on=draw(st.sampled_from(["dataflow", "local"])),
        max_workers=draw(st.none() | st.integers(1, 4000)),
    )


CLOUDS = st.builds(
    Cloud,
    project=field("project"),
    region=field("region"),
    image=field("image"),
    temp=st.from_regex(r"gs://[a-z0-9]{3,20}(/[!-~]{0,20})?", fullmatch=True),
    service_account=st.none() | st.from_regex(r"[!-?A-~]{1,20}@[!-?A-~]{1,20}", fullmatch=True),
    subnetwork=st.none() | st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1),
    endpoint=st.none() | st.just("https://dataflow.example.com"),
)


def test_the_metadata_file_is_that_of_the_table():
    assert METADATA.read_text() == metadata_text(), "python -m simpipe.template > templates/dataflow/metadata.json"
    names = [each["name"] for each in json.loads(METADATA.read_text())["parameters"]]
    assert len(set(names)) == len(names)
    assert all(each["label"] and each["helpText"] and each["regexes"] for each in json.loads(METADATA.read_text())["parameters"])


@given(launches())
def test_parameters_make_the_launch_again(launch):
    texts = launch.parameters()
    assert Launch.of(texts) == launch
    assert all(BY_NAME[name].accepts(text) for name, text in texts.items())


@settings(max_examples=60, deadline=None)
@given(launch=launches(), cloud=CLOUDS)
def test_a_launch_becomes_the_configuration_that_it_names(tmp_path_factory, launch, cloud):
    base = {"name": "catalogue", "root": "runs/catalogue", "source": {"kind": "vectors", "path": "x.npy"}}
    kept = {"workers": {"build": {"disk_gb": 300}}, "labels": {"team": "search"}}
    path = tmp_path_factory.getbasetemp() / "base.yaml"
    path.write_text(yaml.safe_dump({**base, "runner": {**DATAFLOW, "project": "other-project", **kept}}))
    command = command_of(Launch.of(launch.parameters()), cloud)
    options = cli.parser().parse_args(command)
    assert (options.verb, options.config, options.run_id) == (launch.verb, launch.config, launch.run_id)
    if launch.verb == "reindex":
        assert (options.deltas, options.no_publish) == (launch.deltas, launch.no_publish)
    if launch.verb in ("gate", "publish"):
        assert options.release == launch.release
    config = load_config(path, [f"runner.kind={options.runner}", *options.overrides])
    assert config.root == (launch.root or "runs/catalogue")
    for change in launch.overrides:
        name, _, value = change.partition("=")
        if sum(other.startswith(f"{name}=") for other in launch.overrides) == 1:
            found: Any = config
            for part in name.split("."):
                found = getattr(found, part)
            assert found == yaml.safe_load(value)
    if launch.jobs_on == "local":
        assert config.runner.kind == "local"
        return
    given_here = {name: value for name, value in vars(cloud).items() if value is not None}
    expected = DataflowRunner(kind="dataflow", max_workers=launch.max_workers, **given_here, **kept)  # type: ignore[arg-type]
    assert config.runner == expected


def taken(kind: Any, text: Any) -> bool:
    try:
        TypeAdapter(kind).validate_python(text)
    except ValidationError:
        return False
    return True


@given(st.one_of(field("image"), st.text(), field("image").map(lambda text: text[:-1]), field("image").map(str.upper)))
@example("europe-docker.pkg.dev/p/simpipe/simpipe:latest")
@example(DATAFLOW["image"] + "\n")
def test_an_image_is_accepted_where_the_configuration_accepts_it(text):
    assert IMAGE.accepts(text) == taken(DataflowRunner, {**DATAFLOW, "image": text})


@given(st.one_of(st.integers().map(str), st.text(max_size=5)))
@example("0")
@example("-3")
def test_workers_are_accepted_where_the_configuration_accepts_them(text):
    value = yaml.safe_load(text) if text.isascii() and text.isdigit() and not text.startswith("0") else None
    expected = isinstance(value, int) and taken(DataflowRunner, {**DATAFLOW, "max_workers": value})
    assert BY_NAME["max_workers"].accepts(text) == expected


@given(st.one_of(pattern("run_id"), st.text(max_size=70)))
def test_a_run_id_that_is_accepted_is_one_for_the_command_line(text):
    if BY_NAME["run_id"].accepts(text):
        assert cli.parser().parse_args(["run", "--run-id", text]).run_id == text


@settings(max_examples=30)
@given(pattern("overrides"))
def test_changes_that_are_accepted_are_read_one_by_one(text):
    for change in Launch.of({"verb": "run", "config": "gs://bucket/a.yaml", "overrides": text}).overrides:
        keys, equals, _ = change.partition("=")
        assert equals
        assert all(keys.split("."))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"verb": "rm"}, "verb"),
        ({"config": "/tmp/a.yaml"}, "config"),
        ({"root": "runs/x"}, "root"),
        ({"run_id": "Nightly 1"}, "run_id"),
        ({"overrides": "seed"}, "overrides"),
        ({"no_publish": "yes"}, "no_publish"),
        ({"no_publish": "true"}, "no_publish"),  # of run
        ({"deltas": "gs://bucket/deltas"}, "deltas"),
        ({"release": "live"}, "release"),
        ({"max_workers": "0"}, "max_workers"),
        ({"machine": "n2"}, "machine"),
    ],
)
def test_wrong_parameters_are_named(wrong, named):
    with pytest.raises(ConfigError, match=rf"wrong template parameters?\n  {named}: "):
        Launch.of({"verb": "run", "config": "gs://bucket/a.yaml", **wrong})


def test_the_launchers_options_reach_the_verbs_own_jobs(monkeypatch, capsys):
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(driving, "drive", lambda command: asked.append(command) or 0)
    arguments = [
        "--verb=reindex", "--config=gs://bucket/a.yaml", "--run_id=nightly-7", "--no_publish=true", "--root=",
        "--runner=FnApiRunner", "--job_name=nightly", "--project=a-project", "--region=europe-west1",
        "--temp_location=gs://a-bucket/temp", "--service_account_email=w@a-project.iam.gserviceaccount.com",
        "--subnetwork=regions/r/subnetworks/s", f"--sdk_container_image={DATAFLOW['image']}",
    ]  # fmt: skip
    assert entry.main(arguments) == 0
    cloud = Cloud("a-project", "europe-west1", DATAFLOW["image"], "gs://a-bucket/temp",
                  "w@a-project.iam.gserviceaccount.com", "regions/r/subnetworks/s")  # fmt: skip
    launch = Launch("reindex", "gs://bucket/a.yaml", run_id="nightly-7", no_publish=True)
    assert asked == [tuple(command_of(launch, cloud))]
    assert entry.main([each for each in arguments if not each.startswith("--region")]) == ConfigError.exit_code
    assert "does not say: region" in capsys.readouterr().err


def test_what_a_verb_says_is_what_the_job_fails_with(tmp_path):
    with pytest.raises(SimpipeError) as caught:
        driving.drive(("fsck", "--config", str(tmp_path / "none.yaml")))
    assert caught.value.message == f"exit code 2: simpipe fsck: {tmp_path}/none.yaml: no such configuration file"
    assert caught.value.cure == "give --config FILE, for example configs/digits.yaml"


@pytest.mark.parametrize("code", [3, 4])
def test_a_conflict_and_a_failed_gate_are_results(monkeypatch, tmp_path, code):
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nexit {code}\n")
    program.chmod(0o755)
    monkeypatch.setattr(driving.sys, "executable", str(program))
    assert driving.drive(("reindex",)) == code


def test_a_launch_runs_a_verb_whose_jobs_run_on_dataflow(cloud, tmp_path):
    """Launch, the driver's job, the verb in it, the verb's own job, storage, and the run's summary: all over loopback."""
    bucket = tmp_path / "storage" / "a-bucket"
    np.save(bucket / "x.npy", np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32))
    config = {"name": "catalogue", "root": "runs/none", "source": {"kind": "vectors", "path": "gs://a-bucket/x.npy"}}
    (bucket / "catalogue.yaml").write_text(yaml.safe_dump(config))
    failed: list[BaseException] = []

    def launcher(asked: dict[str, Any]) -> None:
        environment = asked["environment"]
        added = {
            "runner": "DataflowRunner",
            "job_name": asked["jobName"],
            "project": "a-project",
            "region": "europe-west1",
            "temp_location": environment["tempLocation"],
            "service_account_email": environment["serviceAccountEmail"],
            "dataflow_endpoint": cloud.url,
        }
        try:
            entry.submit([f"--{name}={value}" for name, value in {**asked["parameters"], **added}.items()])
        except BaseException as error:
            failed.append(error)
            raise

    cloud.launcher = launcher
    launch = Launch(
        "import", "gs://a-bucket/catalogue.yaml", "gs://a-bucket/root", "trial-1", ("queries.fraction=0.2",), max_workers=3
    )
    environment = {"tempLocation": "gs://a-bucket/temp", "serviceAccountEmail": "w@a-project.iam.gserviceaccount.com"}
    parameters = {**launch.parameters(), IMAGE.name: DATAFLOW["image"]}
    body = {"launchParameter": {"jobName": "trial", "parameters": parameters, "environment": environment}}
    status, _ = cloud.answer("POST", "/v1b3/projects/a-project/locations/europe-west1/flexTemplates:launch", body)
    assert status == 200
    while not failed and (not cloud.jobs or any(job["currentState"] == "JOB_STATE_RUNNING" for job in cloud.jobs.values())):
        time.sleep(0.05)
    assert not failed
    driver, own = cloud.jobs.values()
    assert (driver["name"], driver["currentState"]) == ("trial", "JOB_STATE_DONE")
    assert driver["labels"]["simpipe-run"] == "trial-1"
    assert (own["name"], own["currentState"]) == ("simpipe-import-catalogue", "JOB_STATE_DONE")
    assert own["environment"]["serviceAccountEmail"] == environment["serviceAccountEmail"]
    assert own["environment"]["workerPools"][0]["autoscalingSettings"]["maxNumWorkers"] == 3
    summary = json.loads((bucket / "root" / "runs" / "trial-1.json").read_text())
    assert (summary["verb"], summary["state"], summary["runner"]) == ("import", "done", "dataflow")
    (embeddings,) = (bucket / "root" / "embeddings").glob("*/embeddings.json")
    assert json.loads(embeddings.read_text())["counts"]["written"] == 500
