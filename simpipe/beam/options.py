"""Pipeline options and how a graph is run. The one module that knows runner names."""

from __future__ import annotations

import argparse
import contextlib
import logging
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions, _BeamArgumentParser
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

from simpipe.beam.runners import arguments_of
from simpipe.errors import ConfigError, SimpipeError
from simpipe.job import Job

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


def run_graph(build: Callable[[beam.Pipeline], Any], job: Job) -> None:
    """Builds one graph, runs it and waits for its end.

    For the local runner the in-process `FnApiRunner` is used by name: `DirectRunner` first tries to download a binary,
    and hangs where a firewall swallows packets.

    Args:
      build: adds the transforms to a pipeline.
      job: where it runs, and under which name.

    Raises:
      SimpipeError: raised in a worker, or the job did not end well.
    """
    options = pipeline_options(arguments_of(job), job_name=job.name)
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # errors are raised here anyway
    runner = None if options.view_as(StandardOptions).runner else FnApiRunner()
    try:
        pipeline = beam.Pipeline(runner=runner, options=options)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"Beam cannot start this runner: {str(error).splitlines()[0]}", "check what stands after --") from None
    build(pipeline)
    try:
        result = pipeline.run()
        state = result.wait_until_finish()
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, SimpipeError):
            cause = cause.__cause__
        if cause is None and runner is not None:
            raise
        if cause is None:  # portable runners hand back text only
            last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise SimpipeError(
                f"job {job.name} failed: {last[:300]}", "see the runner's log; the step can be run again"
            ) from error
        # Runners append the name of the transform to the message; that is no help to a user.
        raise type(cause)(re.sub(r" \[while running '[^']*'\]", "", cause.message), cause.cure) from error
    if state is not None and state != "DONE":
        raise SimpipeError(f"job {job.name} ended in state {state}", "see the runner's log")
