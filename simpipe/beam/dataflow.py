"""Dataflow: the options of a verb's job, its hints and labels, and jobs that run there already."""

from __future__ import annotations

import re
import time
from typing import Any

from simpipe import __version__
from simpipe.config.runner import DataflowRunner, Runner, Workers
from simpipe.job import Job

_PROCESS_MIB = 1536  # Python, Beam and the libraries, before any data
_PAUSE = 30.0  # seconds between looks at another job
_ENDED = ("DONE", "FAILED", "CANCELLED", "UPDATED", "DRAINED")


def dataflow_arguments(job: Job, runner: DataflowRunner) -> list[str]:
    """Beam's options for a job on Dataflow, the runner's name left out.

    The code is in the image: nothing is staged or installed but the graph, and no session is pickled.
    """
    found = [
        f"--project={runner.project}",
        f"--region={runner.region}",
        f"--temp_location={runner.temp.rstrip('/')}/temp",
        f"--staging_location={runner.temp.rstrip('/')}/staging",
        f"--sdk_container_image={runner.image}",
        "--sdk_location=container",
        "--experiments=disable_logging_submission_environment",  # a list of the driver's packages, which are the image's
        "--no_save_main_session",
        "--no_use_public_ips",
        *worker_arguments(runner.workers_of(job.verb)),
        *(f"--labels={name}={value}" for name, value in labels_of(job, runner).items()),
    ]
    for option, value in (
        ("service_account_email", runner.service_account),
        ("subnetwork", runner.subnetwork),
        ("dataflow_endpoint", runner.endpoint),
        ("flexrs_goal", "COST_OPTIMIZED" if runner.flexible else None),
    ):
        if value is not None:
            found.append(f"--{option}={value}")
    return found


def worker_arguments(workers: Workers) -> list[str]:
    """Beam's options for the workers of a job."""
    found = [
        f"--worker_machine_type={workers.machine_type}",
        f"--disk_size_gb={workers.disk_gb}",
        f"--max_num_workers={workers.max_workers}",
        "--autoscaling_algorithm=THROUGHPUT_BASED",
    ]
    if workers.one_process:
        found.append("--experiments=no_use_multiple_sdk_containers")
    if workers.threads is not None:
        found.append(f"--number_of_worker_harness_threads={workers.threads}")
    return found


def labels_of(job: Job, runner: DataflowRunner) -> dict[str, str]:
    """Labels of a job, by which costs are told apart: the user's, then verb, what it is about, and simpipe's version."""
    about = job.name.removeprefix(f"simpipe-{job.verb}-")
    own = {"simpipe-verb": job.verb, "simpipe-config": about, "simpipe-version": re.sub(r"[^a-z0-9]+", "-", __version__)}
    return {**runner.labels, **own}


def build_hints(runner: Runner, *, memory_mib: int, items: int, row_bytes: int) -> dict[str, Any]:
    """Resource hints of the step that builds partitions; none on other runners, where they would only add worker processes.

    Args:
      memory_mib: what building a partition may take. items: of all partitions. row_bytes: memory that building one row takes.
    """
    if not isinstance(runner, DataflowRunner):
        return {}
    needed = min(memory_mib, -(-items * row_bytes >> 20))
    # A build uses every core: two at a time would share them, and need twice the memory.
    return {"min_ram": f"{needed + _PROCESS_MIB}MiB", "max_active_bundles_per_worker": "1"}


def running_id(error: Exception) -> str | None:
    """The id of the job that runs already under the name of one that was refused for it; None: another error."""
    found = re.search(r"already active job named \S+ with id: (\S+?)\. ", str(error))
    return found[1] if found else None


def wait_for(client: Any, job_id: str) -> str:
    """Waits until a job has ended; returns its state.

    What a driver that was killed left running goes on and finishes parts of the same step; the next job keeps them.
    """
    while True:
        state = client.get_job(job_id).current_state.name.removeprefix("JOB_STATE_")
        if state in _ENDED:
            return state
        time.sleep(_PAUSE)


def console_link(runner: DataflowRunner, job_id: str) -> str:
    """Where a job is shown."""
    return f"https://console.cloud.google.com/dataflow/jobs/{runner.region}/{job_id}?project={runner.project}"
