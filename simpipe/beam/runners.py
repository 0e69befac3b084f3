"""Beam's options of the runner that a configuration names. With `options`, the one place that knows runners' names."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from simpipe.config.runner import DataflowRunner, FlinkRunner, LocalRunner, PrismRunner, SparkRunner
from simpipe.errors import ConfigError
from simpipe.files import WORKING_FOLDER
from simpipe.job import Job

_ENVIRONMENTS = {"loopback": "LOOPBACK", "process": "PROCESS", "external": "EXTERNAL", "docker": "DOCKER"}


def arguments_of(job: Job) -> list[str]:
    """The options of a job: those of its runner's configuration, then the user's own, which win.

    Raises:
      ConfigError: the runner's program is missing.
    """
    runner = job.runner
    match runner:
        case LocalRunner():
            found = _local(runner)
        case PrismRunner():
            found = _prism(runner)
        case FlinkRunner():
            found = ["--runner=FlinkRunner", f"--flink_version={runner.version}", *_cluster(runner, "flink_job_server_jar")]
            found += _master(runner, "flink_master")
        case SparkRunner():
            found = ["--runner=SparkRunner", *_cluster(runner, "spark_job_server_jar"), *_master(runner, "spark_master_url")]
        case DataflowRunner():
            from simpipe.beam.dataflow import dataflow_arguments

            found = ["--runner=DataflowRunner", *dataflow_arguments(job, runner)]
    return [*found, *runner.options, *job.beam_args]


def _local(runner: LocalRunner) -> list[str]:
    if runner.processes == 1:
        return []
    return ["--runner=FnApiRunner", "--direct_running_mode=multi_processing", f"--direct_num_workers={runner.processes}"]


def _prism(runner: PrismRunner) -> list[str]:
    found = shutil.which(runner.binary or "prism")
    if found is None:
        cure = "build it with `go install github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0`, and name it in runner.binary"
        raise ConfigError(f"runner.binary: no program {runner.binary or 'prism'}", cure)
    return ["--runner=PrismRunner", f"--prism_location={found}"]


def _master(runner: FlinkRunner | SparkRunner, option: str) -> list[str]:
    """A job server that runs knows its cluster; an address would send its jobs elsewhere, so only a named one does."""
    named = runner.job_server is None or "master" in runner.model_fields_set
    return [f"--{option}={runner.master}"] if named else []


def _cluster(runner: FlinkRunner | SparkRunner, jar: str) -> list[str]:
    found = [f"--environment_type={_ENVIRONMENTS[runner.environment]}", f"--parallelism={runner.parallelism}"]
    if runner.command is not None:
        # Paths of the configuration may be relative to this folder.
        process = json.dumps({"command": str(Path(runner.command).expanduser()), "env": {WORKING_FOLDER: os.getcwd()}})
        found.append(f"--environment_config={process if runner.environment == 'process' else runner.command}")
    if runner.job_server is not None:
        found += ["--runner=PortableRunner", f"--job_endpoint={runner.job_server}"]  # the last --runner counts
    elif runner.jar is not None:
        found.append(f"--{jar}={runner.jar}")
    return found
