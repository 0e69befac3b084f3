"""Dataflow: the options of a verb's job."""

from __future__ import annotations

from simpipe.config.runner import DataflowRunner
from simpipe.job import Job


def dataflow_arguments(job: Job, runner: DataflowRunner) -> list[str]:
    """Beam's options for a job on Dataflow, the runner's name left out."""
    workers = runner.workers_of(job.verb)
    found = [
        f"--project={runner.project}",
        f"--region={runner.region}",
        f"--temp_location={runner.temp}",
        f"--sdk_container_image={runner.image}",
        "--sdk_location=container",
        f"--worker_machine_type={workers.machine_type}",
        f"--disk_size_gb={workers.disk_gb}",
        f"--max_num_workers={workers.max_workers}",
    ]
    return found
