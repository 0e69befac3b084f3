"""Pipeline options and how a graph is run. The one module that knows runner names."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DebugOptions,
    DirectOptions,
    PipelineOptions,
    StandardOptions,
    _BeamArgumentParser,
)
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

from simpipe.beam.dataflow import console_link, running_id, wait_for
from simpipe.beam.failures import raised_in, told_by
from simpipe.beam.metrics import read_metrics
from simpipe.beam.runners import arguments_of
from simpipe.config.runner import DataflowRunner
from simpipe.errors import ConfigError, SimpipeError
from simpipe.job import Job, JobResult
from simpipe.progress import noting
from simpipe.recording import note_job

_LOG = "the runner's log"
_MODE_CURE = "leave --direct_running_mode out: TensorFlow and the ANN libraries use every core from one process"


def pipeline_options(beam_args: Sequence[str], *, job_name: str) -> PipelineOptions:
    """Options from the arguments after `--`, untouched but for a job name.

    Raises:
      ConfigError: a runner or mode that is known to lose elements.
    """
    try:
        options = PipelineOptions(list(beam_args), job_name=job_name)
        options.get_all_options()
    except SystemExit:  # argparse has printed what is wrong
        raise ConfigError("Beam refused the options after `--`", "see the message above; Beam's own help lists them") from None
    if beam_args and not beam_args[0].startswith("-"):
        raise ConfigError(f"{beam_args[0]!r} after `--` is no Beam option", "Beam options look like --runner=DirectRunner")
    runner = options.view_as(StandardOptions).runner or ""
    mode = options.view_as(DirectOptions).direct_running_mode
    if runner.rpartition(".")[2] == "DaskRunner":
        raise ConfigError("DaskRunner gives wrong results silently", "use the default runner, Flink, Spark or Dataflow")
    if options.view_as(DebugOptions).lookup_experiment("data_buffer_time_limit_ms", "0") != "0":
        raise ConfigError("the experiment data_buffer_time_limit_ms loses elements silently (Beam 2.77)", "leave it out")
    if mode == "multi_threading":
        raise ConfigError("direct_running_mode=multi_threading loses elements silently (Beam 2.77)", _MODE_CURE)
    if mode == "multi_processing":
        # Its timed output buffer drops what is written during a flush; without the timer nothing is lost.
        from apache_beam.runners.portability.fn_api_runner import worker_handlers

        worker_handlers.DATA_BUFFER_TIME_LIMIT_MS = 0
    return options


def unknown_options(beam_args: Sequence[str]) -> list[str]:
    """Options that no option class of Beam's SDK defines: mistyped, or a runner's own."""
    parser = _BeamArgumentParser(allow_abbrev=False, add_help=False)
    for options in PipelineOptions.__subclasses__():
        with contextlib.suppress(argparse.ArgumentError):  # two classes may define the same option
            options._add_argparse_args(parser)
    _, unknown = parser.parse_known_args(list(beam_args))
    return [arg.partition("=")[0] for arg in unknown if arg.startswith("--")]


def check_options(job: Job) -> None:
    """Refuses what `pipeline_options` refuses, and names on stderr what Beam's SDK does not know.

    Runners have options of their own that the SDK does not know, so these are passed on untouched.
    """
    pipeline_options(arguments_of(job), job_name=job.name)
    for name in unknown_options(job.beam_args):
        print(f"simpipe: Beam's SDK does not know {name}; it is passed on untouched", file=sys.stderr)


def run_graph(build: Callable[[beam.Pipeline], Any], job: Job) -> JobResult:
    """Builds one graph, runs it and waits for its end.

    For the local runner the in-process `FnApiRunner` is used by name: `DirectRunner` first tries to download a binary,
    and hangs where a firewall swallows packets.

    Args:
      build: adds the transforms to a pipeline.
      job: where it runs, and under which name.

    Returns:
      How it ended, and its metrics; also noted in the summary of the run.

    Raises:
      SimpipeError: raised in a worker, or the job did not end well.
    """
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # errors are raised here anyway
    started = time.monotonic()
    result: Any = None
    runner: FnApiRunner | None = None
    try:
        while result is None:  # a graph is submitted once: Beam's Dataflow runner changes it
            options = pipeline_options(arguments_of(job), job_name=job.name)
            runner = None if options.view_as(StandardOptions).runner else FnApiRunner()
            pipeline = _pipeline(runner, options)
            build(pipeline)
            result = _submit(pipeline, job)
        with noting(lambda: _told(result)):
            state = result.wait_until_finish() or "DONE"
    except KeyboardInterrupt:
        if result is not None:  # nobody would wait for it any more
            with contextlib.suppress(Exception):  # whatever the runner says: the user wants to stop, and is told so
                result.cancel()
        note_job(_ended(job, result, "CANCELLED", started))
        raise
    except Exception as error:  # each runner raises its own kinds; a worker's error may be within
        failed = _ended(job, result, "FAILED", started)
        note_job(failed)
        if (raised := raised_in(error)) is not None:
            raise raised from error
        if runner is not None:
            raise
        name = f"{job.name} ({failed.id})" if failed.id else job.name
        raise told_by(error, job=name, link=_link(job, failed.id)) from error
    ended = _ended(job, result, state, started)
    note_job(ended)
    if state != "DONE":
        raise SimpipeError(f"job {job.name} ended in state {state}", f"see {_link(job, ended.id) or _LOG}")
    return ended


def _pipeline(runner: FnApiRunner | None, options: PipelineOptions) -> beam.Pipeline:
    try:
        return beam.Pipeline(runner=runner, options=options)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"Beam cannot start this runner: {str(error).splitlines()[0]}", "check what stands after --") from None


def _submit(pipeline: beam.Pipeline, job: Job) -> Any:
    """Starts the job; None, once it has ended, where Dataflow runs one of this name already: a killed driver left it."""
    try:
        result = pipeline.run()
    except Exception as error:  # the client's own kind, known by its words
        running = running_id(error)
        if running is None:
            raise
        print(f"simpipe: job {job.name} runs already, as {running}: waiting for its end", file=sys.stderr, flush=True)
        client: Any = pipeline.runner
        wait_for(client.dataflow_client, running)
        return None
    if (link := _link(job, _id_of(result))) is not None:
        print(f"simpipe: job {job.name}: {link}", file=sys.stderr, flush=True)
    return result


def _link(job: Job, job_id: str | None) -> str | None:
    """Where the job is shown, if it has such a place."""
    return console_link(job.runner, job_id) if isinstance(job.runner, DataflowRunner) and job_id else None


def _ended(job: Job, result: Any, state: str, started: float) -> JobResult:
    """`result`: None where the job failed before the runner gave one."""
    seconds = round(time.monotonic() - started, 3)
    if result is None:
        return JobResult(job.verb, job.name, None, state, seconds)
    return JobResult(job.verb, job.name, _id_of(result), state, seconds, *read_metrics(result))


def _id_of(result: Any) -> str | None:
    """Dataflow tells it by a method; portable runners keep theirs to themselves; in this process there is none."""
    return result.job_id() if hasattr(result, "job_id") else getattr(result, "_job_id", None)


def _told(result: Any) -> str:
    """How far a running job is, where its runner says so."""
    counters, _ = read_metrics(result)
    parts = ((name, counters.get(f"{name}-items")) for name in ("in", "out"))
    return ", ".join(f"{number:,} {name}" for name, number in parts if number is not None)
