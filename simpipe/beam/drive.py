"""The one step of a template's job: a verb of the command line, run on the job's only worker.

A template's launcher submits one graph and may not wait. simpipe's driver waits for its jobs, plans each from what the one before
found, and writes manifests after them; so the driver itself is what the template's job runs.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.pvalue import PBegin, PValue

from simpipe.errors import GateFailedError, PublishConflictError, SimpipeError

RESULTS = (
    0,
    PublishConflictError.exit_code,
    GateFailedError.exit_code,
)  # told by the run's summary: trying again changes nothing
_LAST = 40  # lines of the verb that a failure tells
_LOG = logging.getLogger(__name__)


class _DriveFn(beam.DoFn):
    def process(self, element: tuple[str, ...]) -> Iterator[int]:
        yield drive(element)


def drive(command: tuple[str, ...]) -> int:
    """Runs `simpipe COMMAND` in a process of its own; what it says goes to the worker's log.

    Returns:
      Its exit code, one of `RESULTS`.

    Raises:
      SimpipeError: any other; says what the verb said. The service tries again, and the verb goes on where it stopped.
    """
    _LOG.info("simpipe %s", " ".join(command))
    last: deque[str] = deque(maxlen=_LAST)
    asked = [sys.executable, "-m", "simpipe.cli", *command]
    with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last.append(line.rstrip())
            _LOG.info("%s", last[-1])
    if process.returncode in RESULTS:
        return process.returncode
    message, cure = _told(list(last))
    raise SimpipeError(f"exit code {process.returncode}: {message}", cure)


def _told(lines: list[str]) -> tuple[str, str]:
    """The error that the command line printed last, and its cure; of a verb that was killed, its last lines."""
    starts = [number for number, line in enumerate(lines) if line.startswith("simpipe ")]
    text = "\n".join(lines[starts[-1] :] if starts else lines[-5:])
    message, _, cure = text.partition("\n  cure: ")
    return message, cure or "the worker's log says more; a launch with the same parameters goes on where this one stopped"


@dataclass
class Drive(beam.PTransform):
    """PBegin -> the verb's exit code; see `drive`."""

    command: tuple[str, ...]

    def expand(self, input_or_inputs: PBegin) -> PValue:
        return input_or_inputs | "Command" >> beam.Create([self.command], reshuffle=False) | "Drive" >> beam.ParDo(_DriveFn())
