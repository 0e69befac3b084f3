"""What the Flex Template's launcher runs: submits a job of one worker that runs a verb, and does not wait for it.

python -m pipelines.template --verb=run --config=gs://BUCKET/configs/catalogue.yaml --runner=DataflowRunner --project=... (as the
launcher writes it; see docs/dataflow.md)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, WorkerOptions

from simpipe.beam.dataflow import worker_arguments
from simpipe.beam.drive import Drive
from simpipe.beam.options import pipeline_options
from simpipe.config.runner import Workers
from simpipe.errors import ConfigError, SimpipeError
from simpipe.template import IMAGE, PARAMETERS, Cloud, Launch, command_of

# Training and everything that runs in the driver itself runs here; the launch may name another machine.
_WORKER = Workers(machine_type="n2-standard-8", disk_gb=100, max_workers=1, one_process=True, threads=1)


def main(argv: Sequence[str] | None = None) -> int:
    """Submits the job; returns the exit code. Errors of simpipe are printed without a traceback."""
    try:
        submit(list(sys.argv[1:] if argv is None else argv))
    except SimpipeError as error:
        print(f"simpipe template: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def submit(arguments: list[str]) -> None:
    """Submits the job that the parameters ask for.

    Args:
      arguments: `--NAME=VALUE` of the template's parameters, and Beam's options as the launcher adds them.

    Raises:
      ConfigError: a parameter is wrong, or the launch says too little of where jobs run.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    for parameter in PARAMETERS:
        if parameter is not IMAGE:  # Beam's own option
            parser.add_argument(f"--{parameter.name}", default="")
    own, rest = parser.parse_known_args(arguments)
    launch = Launch.of(vars(own))
    asked = PipelineOptions(rest).view_as(GoogleCloudOptions).job_name or f"simpipe-template-{launch.verb}"
    fixed = ["--sdk_location=container", "--no_save_main_session", "--no_use_public_ips", "--num_workers=1"]
    options = pipeline_options([*worker_arguments(_WORKER), *fixed, *_labels(launch), *rest], job_name=asked)
    command = command_of(launch, cloud_of(options))
    pipeline = beam.Pipeline(options=options)
    _ = pipeline | "Drive" >> Drive(tuple(command))
    pipeline.run()


def cloud_of(options: PipelineOptions) -> Cloud:
    """Where the launched job runs.

    Raises:
      ConfigError: the launch does not say it; or says it in a way that the configuration refuses.
    """
    cloud, workers = options.view_as(GoogleCloudOptions), options.view_as(WorkerOptions)
    image = workers.sdk_container_image or ""
    if not IMAGE.accepts(image):
        raise ConfigError(f"sdk_container_image: {image!r} does not match {IMAGE.regex}", "name the image by its digest")
    missing = [name for name in ("project", "region", "temp_location") if not getattr(cloud, name)]
    if missing:
        raise ConfigError(f"the launch does not say: {', '.join(missing)}", "launch with --project, --region and --temp-location")
    # The endpoint has a default, which is nobody's choice.
    endpoint = None if cloud.dataflow_endpoint == GoogleCloudOptions.DATAFLOW_ENDPOINT else cloud.dataflow_endpoint
    return Cloud(
        project=cloud.project,
        region=cloud.region,
        image=image,
        temp=cloud.temp_location,
        service_account=cloud.service_account_email,
        subnetwork=workers.subnetwork,
        endpoint=endpoint,
    )


def _labels(launch: Launch) -> list[str]:
    found = {"simpipe-verb": launch.verb, "simpipe-run": launch.run_id}
    return [f"--labels={name}={value}" for name, value in found.items() if value is not None]


if __name__ == "__main__":
    sys.exit(main())
