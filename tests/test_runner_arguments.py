"""From `runner` of a configuration to Beam's options, and the names of jobs."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from apache_beam.options.pipeline_options import DirectOptions, PortableOptions, StandardOptions
from hypothesis import given
from hypothesis import strategies as st

from pipelines.line_keys import LineKeys
from simpipe import files
from simpipe.beam.options import pipeline_options
from simpipe.beam.runners import arguments_of
from simpipe.cli import main
from simpipe.config import Config, parse_config
from simpipe.config import runner as runner_config
from simpipe.errors import ConfigError
from simpipe.job import job_of
from simpipe.verbs.options import RUNNERS

DATAFLOW = {
    "kind": "dataflow",
    "project": "a-project",
    "region": "europe-west1",
    "image": "europe-west1-docker.pkg.dev/a-project/simpipe/simpipe@sha256:" + "0" * 64,
    "temp": "gs://a-bucket/temp",
}


def config_of(**runner: Any) -> Config:
    return parse_config({"name": "trial", "root": "runs/trial", "source": "digits", "runner": runner})


def options_of(*beam_args: str, **runner: Any):
    job = job_of(config_of(**runner), "build", beam_args)
    return pipeline_options(arguments_of(job), job_name=job.name)


def test_every_kind_can_be_named_on_the_command_line():
    union = get_args(runner_config.Runner)[0]
    assert tuple(get_args(kind.model_fields["kind"].annotation)[0] for kind in get_args(union)) == RUNNERS


def test_the_local_runner_takes_no_options_and_several_processes_take_the_safe_mode():
    from apache_beam.runners.portability.fn_api_runner import worker_handlers

    assert arguments_of(job_of(config_of(kind="local"), "build")) == []
    direct = options_of(kind="local", processes=2).view_as(DirectOptions)
    assert (direct.direct_running_mode, direct.direct_num_workers) == ("multi_processing", 2)
    assert worker_handlers.DATA_BUFFER_TIME_LIMIT_MS == 0


def test_what_the_user_writes_wins():
    options = options_of("--parallelism=8", kind="flink", parallelism=2, options=["--parallelism=4"])
    assert options.get_all_options()["parallelism"] == 8
    assert options.view_as(StandardOptions).runner == "FlinkRunner"


def test_a_cluster_with_a_job_server_is_submitted_to_it():
    how = {"job_server": "jobs:8099", "environment": "process", "command": '/opt/a "b"/boot'}
    options = options_of(kind="flink", master="jm:8081", **how)
    portable = options.view_as(PortableOptions)
    assert options.view_as(StandardOptions).runner == "PortableRunner"
    assert (portable.job_endpoint, portable.environment_type) == ("jobs:8099", "PROCESS")
    folder = {files.WORKING_FOLDER: os.getcwd()}
    assert json.loads(portable.environment_config) == {"command": '/opt/a "b"/boot', "env": folder}
    assert options.get_all_options()["flink_master"] == "jm:8081"
    own = arguments_of(job_of(config_of(kind="flink", **how), "build"))
    assert not [option for option in own if option.startswith("--flink_master")], "the job server knows its cluster"


def test_relative_paths_are_those_of_the_driver_in_workers(monkeypatch, tmp_path):
    assert files.located("runs/x") == Path("runs/x")
    monkeypatch.setenv(files.WORKING_FOLDER, str(tmp_path))
    assert files.located("runs/x") == tmp_path / "runs" / "x"
    assert files.located(tmp_path / "y") == tmp_path / "y"
    assert str(files.located("gs://bucket/z")) == "gs://bucket/z"


def test_prism_must_be_there(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"runner\.binary: no program prism"):
        arguments_of(job_of(config_of(kind="prism"), "build"))
    program = tmp_path / "prism"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert f"--prism_location={program}" in arguments_of(job_of(config_of(kind="prism"), "build"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image", "europe-west1-docker.pkg.dev/a-project/simpipe/simpipe:latest"),
        ("temp", "/tmp/staging"),
        ("region", "europe"),
        ("project", "P"),
        ("workers", {"compile": {}}),
        ("workers", {"build": {"machine_type": "big"}}),
        ("labels", {"team": "Search!"}),
        ("options", ["no dashes"]),
    ],
)
def test_mistakes_are_named(key, value):
    with pytest.raises(ConfigError, match=rf"runner\.{key}"):
        config_of(**{**DATAFLOW, key: value})


def test_workers_of_a_verb_come_from_the_configuration_or_are_simpipes_own():
    runner: Any = config_of(**DATAFLOW, workers={"build": {"machine_type": "n2-highmem-16", "disk_gb": 500}}).runner
    assert runner.workers_of("build").machine_type == "n2-highmem-16"
    for verb in get_args(runner_config.JobVerb):
        assert runner.workers_of(verb).max_workers >= 1
    assert runner.workers_of("embed").one_process


def test_where_a_job_runs_makes_no_step_run_again():
    assert LineKeys(config_of(**DATAFLOW)).examples == LineKeys(config_of(kind="local")).examples


def test_the_runner_of_the_command_line_takes_the_place_of_the_configuration(tmp_path, capsys):
    config = tmp_path / "line.yaml"
    config.write_text(f"name: trial\nroot: {tmp_path}/root\nsource: digits\nrunner: {{kind: local, processes: 2}}\n")
    assert main(["run", "--config", str(config), "--runner", "dataflow"]) == ConfigError.exit_code
    assert "runner.project: missing" in capsys.readouterr().err


@given(st.text(alphabet=st.characters(codec="ascii", categories=["L", "N", "P"]), max_size=80))
def test_names_of_jobs_are_what_every_service_takes(name):
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", job_of(None, "build", name=name).name)


@pytest.mark.parametrize("verb", ["run", "reindex"])
def test_what_a_clouds_workers_cannot_see_is_refused_at_once(verb, tmp_path, capsys):
    config = tmp_path / "line.yaml"
    about = {"name": "trial", "root": "gs://a-bucket/root", "source": {"kind": "vectors", "path": "x.npy"}, "runner": DATAFLOW}
    config.write_text(json.dumps(about))
    assert main([verb, "--config", str(config)]) == ConfigError.exit_code
    assert "source.path: 'x.npy' is local" in capsys.readouterr().err
    assert main([verb, "--config", str(config), "--set", f"root={tmp_path}/root"]) == ConfigError.exit_code
    assert "/root' is local" in capsys.readouterr().err
