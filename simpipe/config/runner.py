"""Configuration of where Beam jobs run. It changes no result: no step is run again because the runner is another one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from simpipe.config.base import Model, Positive

LabelName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
Option = Annotated[str, Field(pattern=r"^--[a-z][a-z0-9_]*(=.*)?$")]
JobVerb = Literal["shard", "import", "embed", "build", "calibrate", "evaluate", "dedupe", "lookup", "match", "reindex", "export"]


class _Runner(Model):
    """`options`: Beam's own options, added to those that simpipe sets; what stands after `--` comes last and wins."""

    options: tuple[Option, ...] = ()


class LocalRunner(_Runner):
    """In this process; or in `processes` worker processes beside it, which pays only where Python itself is the limit."""

    kind: Literal["local"]
    processes: Positive = 1


class PrismRunner(_Runner):
    """Beam's portable local runner, a Go program. `binary`: its path (null: `prism` on PATH)."""

    kind: Literal["prism"]
    binary: str | None = None


class _Cluster(_Runner):
    """What clusters with a job server share.

    `job_server`: `HOST:PORT` of one that runs; else `jar` is started by Beam (null: by Maven coordinates, from Beam's cache).
    `environment`: how SDK workers start: `loopback` in the submitting process, `process` by `command` on each worker machine,
    `external` from a worker pool at `command`, `docker` from the image `command`. `parallelism`: of the job.
    """

    job_server: Annotated[str, Field(pattern=r"^[^/\s:]+:[0-9]+$")] | None = None
    jar: str | None = None
    environment: Literal["loopback", "process", "external", "docker"] = "loopback"
    command: str | None = None
    parallelism: Positive = 2


class FlinkRunner(_Cluster):
    """A Flink cluster. `version`: as in the job server's name.

    `master`: `HOST:PORT` of its REST address, or `[local]`; with a `job_server`, which has its own, only where it is named.
    """

    kind: Literal["flink"]
    master: str = "localhost:8081"
    version: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+$")] = "1.20"


class SparkRunner(_Cluster):
    """Spark 3. `master`: as in `local[2]` or `spark://HOST:7077`; with a `job_server` only where it is named."""

    kind: Literal["spark"]
    master: str = "local[2]"


class Workers(Model):
    """Dataflow workers of one verb.

    `threads`: at the same time in one SDK process. `one_process`: one SDK process a machine, not one a core: for
    libraries that use every core themselves (TensorFlow, ANN builds). `max_workers` bounds the cost.
    """

    machine_type: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*-[a-z0-9-]+$")] = "n2-standard-4"
    disk_gb: Positive = 50
    max_workers: Positive = 20
    one_process: bool = False
    threads: Positive | None = None


_TF = Workers(machine_type="n2-standard-8", one_process=True, threads=1)
_BUILD = Workers(machine_type="n2-highmem-8", disk_gb=200, one_process=True, threads=1)
_SEARCH = _BUILD.model_copy(update={"threads": 8})  # on one core each; they share what the process has loaded
_DEFAULT_WORKERS: dict[JobVerb, Workers] = {
    "shard": Workers(),
    "import": Workers(),
    "embed": _TF,
    "build": _BUILD,
    "calibrate": _SEARCH,
    "evaluate": _SEARCH,
    "dedupe": _SEARCH,
    "lookup": _SEARCH,
    "match": _SEARCH,
    "reindex": _SEARCH,
    "export": _SEARCH,
}


class DataflowRunner(_Runner):
    """Google Cloud Dataflow.

    `image`: of workers and launcher, by digest. `temp`: `gs://` folder for staging and temporary files. `workers`: by verb;
    what is not named, of a verb's settings too, is simpipe's own. `max_workers`: of every verb. `service_account`,
    `subnetwork`: of workers, which have no public addresses. `endpoint`: of the service, where it is another one than
    Google's. `flexible`: a cheaper job that may wait up to six hours for its machines (FlexRS).
    """

    kind: Literal["dataflow"]
    project: Annotated[str, Field(pattern=r"^[a-z][a-z0-9.:-]{4,61}[a-z0-9]$")]
    region: Annotated[str, Field(pattern=r"^[a-z]+(-[a-z]+)+[0-9]+$")]
    image: Annotated[str, Field(pattern=r"^[a-z0-9.:/_-]+@sha256:[0-9a-f]{64}$")]
    temp: Annotated[str, Field(pattern=r"^gs://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9](/.*)?$")]
    service_account: Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$")] | None = None
    subnetwork: str | None = None
    workers: dict[JobVerb, Workers] = Field(default_factory=dict)
    max_workers: Positive | None = None
    labels: dict[LabelName, Annotated[str, Field(pattern=r"^[a-z0-9_-]{0,63}$")]] = Field(default_factory=dict)
    flexible: bool = False
    endpoint: str | None = None

    def workers_of(self, verb: JobVerb) -> Workers:
        """The settings of a verb's workers."""
        own = self.workers[verb].model_dump(exclude_unset=True) if verb in self.workers else {}
        bound = {} if self.max_workers is None else {"max_workers": self.max_workers}
        return _DEFAULT_WORKERS[verb].model_copy(update={**bound, **own})


Runner = Annotated[LocalRunner | PrismRunner | FlinkRunner | SparkRunner | DataflowRunner, Field(discriminator="kind")]
