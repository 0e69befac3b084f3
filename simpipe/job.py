"""What a Beam job is started with: its verb, its name, the runner of the configuration and the user's own Beam options."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from simpipe.config import Config
from simpipe.config.runner import JobVerb, LocalRunner, Runner

_LONGEST = 63  # of a Dataflow job's name


@dataclass(frozen=True)
class Job:
    """One graph to run.

    Attributes:
      verb: whose workers it takes. name: lower-case letters, digits and hyphens. runner: where it runs.
      beam_args: Beam's own options, which win over what the runner's configuration says.
    """

    verb: JobVerb
    name: str
    runner: Runner
    beam_args: tuple[str, ...] = ()


def job_of(config: Config | None, verb: JobVerb, beam_args: Sequence[str] = (), *, name: str | None = None) -> Job:
    """The job of a verb.

    Args:
      config: says where it runs; None: in this process. beam_args: what the user wrote after `--`.
      name: what the job is about (default: the configuration's name).
    """
    runner = LocalRunner(kind="local") if config is None else config.runner
    about = name or (config.name if config else "")
    return Job(verb, _job_name(f"simpipe-{verb}-{about}"), runner, tuple(beam_args))


def _job_name(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:_LONGEST].strip("-")
