"""Starts one SDK worker process for a cluster whose machines have simpipe installed: the command of a PROCESS environment.

  --environment_type=PROCESS --environment_config='{"command": "/path/to/sdk-worker"}'

The runner calls it with an id and the address of a provision service, where job options and the other addresses are asked
for, and the worker runs in this same process, so that who kills it kills the worker. Unlike the start program of Beam's
containers it installs nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile

import grpc
from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc, endpoints_pb2
from apache_beam.runners.worker import sdk_worker_main
from google.protobuf import json_format, text_format

_ANSWER_WITHIN_S = 60


def _descriptor(url: str) -> str:
    return text_format.MessageToString(endpoints_pb2.ApiServiceDescriptor(url=url))


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--id", required=True, help="the worker's name, from the runner")
    parser.add_argument("--provision_endpoint", required=True, help="host:port of the runner's provision service")
    args, _ = parser.parse_known_args(argv)  # some runners say more than these two
    with grpc.insecure_channel(args.provision_endpoint) as channel:
        service = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        request = beam_provision_api_pb2.GetProvisionInfoRequest()
        info = service.GetProvisionInfo(request, metadata=[("worker_id", args.id)], timeout=_ANSWER_WITHIN_S).info
    os.environ.update(
        WORKER_ID=args.id,
        PIPELINE_OPTIONS=json_format.MessageToJson(info.pipeline_options),
        RUNNER_CAPABILITIES=" ".join(info.runner_capabilities),
        CONTROL_API_SERVICE_DESCRIPTOR=_descriptor(info.control_endpoint.url),
        LOGGING_API_SERVICE_DESCRIPTOR=_descriptor(info.logging_endpoint.url),
    )
    if info.status_endpoint.url:
        os.environ["STATUS_API_SERVICE_DESCRIPTOR"] = _descriptor(info.status_endpoint.url)
    with tempfile.TemporaryDirectory(prefix="sdk-worker-") as folder:
        os.environ["SEMI_PERSISTENT_DIRECTORY"] = folder
        sdk_worker_main.main(sys.argv[:1])


if __name__ == "__main__":
    main(sys.argv[1:])
