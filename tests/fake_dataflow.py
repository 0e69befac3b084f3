"""A small Dataflow service on loopback, for tests: it takes jobs over REST as Beam submits them, and runs them for real.

A submitted graph is read from the fake storage where Beam staged it and run by the in-process runner: what workers would unpickle
is unpickled. Jobs, messages, metrics, cancelling, `flexTemplates:launch`, and an OAuth token endpoint for a key made here.
"""

from __future__ import annotations

import json
import re
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_JOBS = re.compile(r"/v1b3/projects/([^/]+)/locations/([^/]+)/jobs(?:/([^/]+))?(?:/(\w+))?")
_LAUNCH = re.compile(r"/v1b3/projects/([^/]+)/locations/([^/]+)/flexTemplates:launch")
_ENDED = ("JOB_STATE_DONE", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED")


class FakeDataflow:
    """Jobs of any project.

    Attributes:
      url: for `runner.endpoint`; holds the word `localhost`, by which Beam chooses REST.
      storage: the folder of the fake storage's buckets. jobs: by id, as submitted, with their state.
      launches: bodies of `flexTemplates:launch`. launcher: is called with each, as the launcher's machine would be started.
      hold: jobs do not end while it is clear.
    """

    def __init__(self, storage: Path) -> None:
        self.storage = storage
        self.url = ""
        self.jobs: dict[str, dict[str, Any]] = {}
        self.launches: list[dict[str, Any]] = []
        self.launcher: Callable[[dict[str, Any]], None] | None = None
        self.hold = threading.Event()
        self.hold.set()
        self._messages: dict[str, list[dict[str, Any]]] = {}
        self._metrics: dict[str, list[dict[str, Any]]] = {}
        self._lock = threading.RLock()

    def create(self, project: str, region: str, job: dict[str, Any]) -> dict[str, Any]:
        """Starts a job; where one of its name runs, that one is answered, as the service does."""
        with self._lock:
            for other in self.jobs.values():
                if other["name"] == job["name"] and other["currentState"] not in _ENDED:
                    return other
            name = f"2026-01-01_00_00_00-{len(self.jobs) + 1}"
            job |= {"id": name, "projectId": project, "location": region, "currentState": "JOB_STATE_RUNNING"}
            self.jobs[name], self._messages[name], self._metrics[name] = job, [], []
        threading.Thread(target=self._run, args=(job,), daemon=True).start()
        return job

    def _run(self, job: dict[str, Any]) -> None:
        self.hold.wait()
        try:
            metrics = run_staged(self.storage, job)
        except Exception as error:
            text = "".join(traceback.format_exception(error))
            with self._lock:
                message = {"id": "1", "time": _now(), "messageImportance": "JOB_MESSAGE_ERROR", "messageText": text}
                self._messages[job["id"]].append(message)
            return self._end(job, "JOB_STATE_FAILED")
        with self._lock:
            self._metrics[job["id"]] = metrics
        self._end(job, "JOB_STATE_DONE")

    def _end(self, job: dict[str, Any], state: str) -> None:
        with self._lock:
            if job["currentState"] not in _ENDED:
                job["currentState"] = state

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and answer of a request."""
        if path == "/token":
            return 200, {"access_token": "worthless", "expires_in": 3600, "token_type": "Bearer"}
        if (found := _LAUNCH.fullmatch(path)) and method == "POST":
            asked = body["launchParameter"]
            self.launches.append(asked)
            if self.launcher is not None:
                threading.Thread(target=self.launcher, args=(asked,), daemon=True).start()
            job = {"id": f"launch-{len(self.launches)}", "name": asked["jobName"], "currentState": "JOB_STATE_QUEUED"}
            return 200, {"job": {**job, "projectId": found[1], "location": found[2]}}
        found = _JOBS.fullmatch(path)
        if found is None:
            return 404, {"error": {"code": 404, "message": f"{method} {path}: not found"}}
        project, region, name, part = found.groups()
        if method == "POST" and name is None:
            return 200, self.create(project, region, named(body))
        if name is None:
            return 200, {"jobs": list(self.jobs.values())}
        if name not in self.jobs:
            return 404, {"error": {"code": 404, "message": f"job {name}: not found"}}
        job = self.jobs[name]
        if method == "PUT":
            self._end(job, named(body)["requestedState"])
        with self._lock:
            parts = {None: job, "messages": {"jobMessages": self._messages[name]}, "metrics": {"metrics": self._metrics[name]}}
            return 200, parts[part]


def named(job: dict[str, Any]) -> dict[str, Any]:
    """A job with names where Beam's client sends numbers."""
    from google.cloud import dataflow
    from google.protobuf import json_format

    return json_format.MessageToDict(json_format.ParseDict(job, dataflow.Job.pb(dataflow.Job())))


def run_staged(storage: Path, job: dict[str, Any]) -> list[dict[str, Any]]:
    """Runs the graph that a job points to in this process; its metrics, as the service answers them."""
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.portability import python_urns
    from apache_beam.portability.api import beam_runner_api_pb2
    from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

    where = job["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"]
    graph = beam_runner_api_pb2.Pipeline.FromString((storage / where.removeprefix("gs://")).read_bytes())
    for environment in graph.components.environments.values():
        environment.urn, environment.payload = python_urns.EMBEDDED_PYTHON, b""
        del environment.dependencies[:]
    result: Any = FnApiRunner().run_via_runner_api(graph, PipelineOptions([]))
    result.wait_until_finish()
    found = result.metrics().query()
    metrics = []
    for each in (*found["counters"], *found["distributions"]):
        context = {"namespace": each.key.metric.namespace, "step": each.key.step}
        value = each.committed
        if hasattr(value, "sum"):
            about = {"distribution": {part: getattr(value, part) for part in ("sum", "count", "min", "max")}}
        else:
            about = {"scalar": value}
        for tried in ({}, {"tentative": "true"}):  # the service tells both, and Beam's client fails without
            metrics.append({"name": {"origin": "user", "name": each.key.metric.name, "context": {**context, **tried}}, **about})
    return metrics


def worthless_key(path: Path, url: str) -> Path:
    """Writes a service account's key that opens nothing, made here; its tokens come from `url`."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    about = {"type": "service_account", "project_id": "a-project", "private_key_id": "none", "private_key": pem.decode()}
    about |= {"client_email": "nobody@a-project.iam.gserviceaccount.com", "client_id": "1", "token_uri": f"{url}/token"}
    path.write_text(json.dumps(about))
    path.chmod(0o600)
    return path


@contextmanager
def serving(storage: Path) -> Iterator[FakeDataflow]:
    """Runs a service on a free port of loopback for the block."""
    fake = FakeDataflow(storage)

    class Handler(_Handler):
        service = fake

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake.url = f"http://localhost:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        fake.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    service: FakeDataflow
    protocol_version = "HTTP/1.1"

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        is_json = self.headers.get("Content-Type", "").startswith("application/json")
        status, answer = self.service.answer(
            self.command, self.path.partition("?")[0], json.loads(body) if is_json and body else {}
        )
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = _any

    def log_message(self, format: str, *args: object) -> None:
        pass


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
