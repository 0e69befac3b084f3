"""Translates a job's graph as a submission would, without a network, and checks what can be checked of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

from simpipe.beam.options import pipeline_options
from simpipe.beam.runners import arguments_of
from simpipe.config.runner import DataflowRunner, Workers
from simpipe.errors import ConfigError
from simpipe.job import Job

MOST_ELEMENT = 1 << 20  # bytes of an element that a graph carries
MOST_GRAPH = 10 << 20  # bytes of a graph: what the service takes in one request
_BUILDS = "BuildPartitions"  # the step with hints
_NOWHERE = "gs://none/pipeline.pb"


@dataclass(frozen=True)
class Translation:
    """A translated job.

    Attributes:
      title: what the job does. job: it. graph: as the runner gets it.
      request: the job as Dataflow's service gets it; None: another runner.
      transforms: leaves of the graph. stages: that runners fuse them to. element: bytes of the largest element in the graph.
      problems: what is wrong with it.
    """

    title: str
    job: Job
    graph: beam_runner_api_pb2.Pipeline
    request: dict[str, Any] | None
    transforms: int
    stages: int
    element: int
    problems: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of the graph."""
        return self.graph.ByteSize()


def translate(title: str, build: Callable[[beam.Pipeline], Any], job: Job) -> Translation:
    """Translates a graph.

    Args:
      title: what the job does. build: adds the transforms to a pipeline. job: where it would run.

    Raises:
      ConfigError: Beam refuses the graph or the options.
    """
    elements = _Elements()
    if isinstance(job.runner, DataflowRunner):
        graph, request = _dataflow(title, build, job, elements)
    else:
        pipeline = beam.Pipeline(runner=FnApiRunner(), options=pipeline_options(job.beam_args, job_name=job.name))
        build(pipeline)
        pipeline.visit(elements)
        graph, request = pipeline.to_runner_api(), None
    _, stages = FnApiRunner().create_stages(graph)
    leaves = [each for each in graph.components.transforms.values() if not each.subtransforms]
    found = Translation(title, job, graph, request, len(leaves), len(stages), elements.largest, ())
    problems = [*_check_graph(found), *(_check_request(found, job.runner) if isinstance(job.runner, DataflowRunner) else [])]
    return Translation(title, job, graph, request, len(leaves), len(stages), elements.largest, tuple(problems))


def _dataflow(
    title: str, build: Callable[[beam.Pipeline], Any], job: Job, elements: _Elements
) -> tuple[beam_runner_api_pb2.Pipeline, dict[str, Any]]:
    from apache_beam.runners.dataflow.internal import apiclient

    options = pipeline_options([*arguments_of(job), "--dry_run=True"], job_name=job.name)
    try:
        pipeline = beam.Pipeline(options=options)
        build(pipeline)
        pipeline.visit(elements)
        result: Any = pipeline.run()
    except (ValueError, ImportError, TypeError) as error:  # among them: a key whose coder is not deterministic
        raise ConfigError(f"{title}: Beam refuses it: {str(error).splitlines()[0]}", "see the message") from error
    described = result.job
    environment = apiclient.Environment(
        packages=[],
        options=options,
        environment_version=apiclient._FNAPI_ENVIRONMENT_MAJOR_VERSION,
        proto_pipeline_staged_url=_NOWHERE,
        proto_pipeline=described.proto_pipeline,
    )
    described.proto.environment = environment.proto
    return described.proto_pipeline, json.loads(described.json())


class _Elements(PipelineVisitor):
    """Finds the largest encoded element that a graph carries."""

    def __init__(self) -> None:
        self.largest = 0

    def enter_composite_transform(self, transform_node: AppliedPTransform) -> None:
        if isinstance(create := transform_node.transform, beam.Create):
            sizes = [len(create._coder.encode(value)) for value in create.values]
            self.largest = max([self.largest, *sizes])


def _check_graph(found: Translation) -> list[str]:
    """What is wrong with a graph on any runner."""
    title, problems = found.title, []
    if found.size > MOST_GRAPH:
        problems.append(f"{title}: the graph has {found.size:,} bytes, more than {MOST_GRAPH:,}")
    if found.element > MOST_ELEMENT:
        problems.append(f"{title}: an element has {found.element:,} bytes, more than {MOST_ELEMENT:,}")
    names = [each.unique_name for each in found.graph.components.transforms.values()]
    twice = sorted({name for name in names if names.count(name) > 1})
    problems += [f"{title}: two transforms have the name {name!r}" for name in twice]
    return problems


def _check_request(found: Translation, runner: DataflowRunner) -> list[str]:
    """What is missing in what Dataflow's service would get."""
    title, request = found.title, found.request or {}
    environment: dict[str, Any] = request["environment"]
    (pool,) = environment["workerPools"]
    options = environment["sdkPipelineOptions"]["options"]
    images = {each["containerImage"] for each in pool["sdkHarnessContainerImages"]}
    workers = runner.workers_of(found.job.verb)
    wanted = {
        "the image": (images, {runner.image}),
        "the machine type": (pool.get("machineType"), workers.machine_type),
        "the disk": (pool.get("diskSizeGb"), workers.disk_gb),
        "the most workers": (pool.get("autoscalingSettings", {}).get("maxNumWorkers"), workers.max_workers),
        "threads": (pool.get("numThreadsPerWorker"), workers.threads),
        "one process a machine": ("no_use_multiple_sdk_containers" in environment["experiments"], workers.one_process),
        "private addresses": (pool.get("ipConfiguration"), "WORKER_IP_PRIVATE"),
        "the subnetwork": (pool.get("subnetwork"), runner.subnetwork),
        "the service account": (environment.get("serviceAccountEmail"), runner.service_account),
        "no pickled session": (bool(options.get("save_main_session")), False),
        "the label simpipe-verb": (request.get("labels", {}).get("simpipe-verb"), found.job.verb),
    }
    problems = [f"{title}: {what} is {has!r}, not {should!r}" for what, (has, should) in wanted.items() if has != should]
    components = found.graph.components
    for transform in components.transforms.values():
        last = transform.unique_name.rpartition("/")[2]
        hinted = bool(components.environments[transform.environment_id].resource_hints) if transform.environment_id else False
        if last.startswith(_BUILDS) and not transform.subtransforms and not hinted:
            problems.append(f"{title}: {transform.unique_name} has no resource hints")
    return problems


def workers_told(workers: Workers) -> str:
    """A verb's workers in a few words."""
    threads = "" if workers.threads is None else f", {workers.threads} thread{'s' * (workers.threads > 1)}"
    return f"{workers.machine_type}{', one process' * workers.one_process}{threads}"
