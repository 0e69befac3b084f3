"""What a Beam job is started with (its verb, name, runner and the user's own Beam options), and what it ended with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from simpipe.config import Config
from simpipe.config.runner import DataflowRunner, JobVerb, LocalRunner, Runner
from simpipe.errors import ConfigError
from simpipe.gcs import SCHEME

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


@dataclass(frozen=True)
class Spread:
    """A distribution, as far as Beam keeps it."""

    sum: int
    count: int
    min: int
    max: int

    def __add__(self, other: Spread) -> Spread:
        low, high = min(self.min, other.min), max(self.max, other.max)
        return Spread(self.sum + other.sum, self.count + other.count, low, high)


@dataclass(frozen=True)
class JobResult:
    """The end of a job.

    Attributes:
      verb, name: of the job. id: the runner's own, where it gives one. state: the runner's, `DONE` where it went well.
      seconds: from its submission to its end.
      counters, distributions: over all steps, by name (see `simpipe.beam.metrics`); empty where the runner has none. They may
        count what was tried twice: nothing is decided by them.
    """

    verb: JobVerb
    name: str
    id: str | None
    state: str
    seconds: float
    counters: Mapping[str, int] = field(default_factory=dict)
    distributions: Mapping[str, Spread] = field(default_factory=dict)


def job_of(config: Config | None, verb: JobVerb, beam_args: Sequence[str] = (), *, name: str | None = None) -> Job:
    """The job of a verb.

    Args:
      config: says where it runs; None: in this process. beam_args: what the user wrote after `--`.
      name: what the job is about (default: the configuration's name).
    """
    runner = LocalRunner(kind="local") if config is None else config.runner
    about = name or (config.name if config else "")
    return Job(verb, _job_name(f"simpipe-{verb}-{about}"), runner, tuple(beam_args))


def check_places(config: Config) -> None:
    """Refuses what a cloud's workers cannot see, before anything is paid.

    Raises:
      ConfigError: the root or the source is a local path, and jobs run on Dataflow.
    """
    if not isinstance(config.runner, DataflowRunner):
        return
    for key, where in (("root", config.root), ("source.path", getattr(config.source, "path", None))):
        if where is not None and not where.startswith(SCHEME):
            raise ConfigError(f"{key}: {where!r} is local: workers of Dataflow cannot see it", "give a gs:// address")


def _job_name(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:_LONGEST].strip("-")
