"""The workflows: checks of their text, that these fail on what they must, and runs against made-up services."""

from __future__ import annotations

import json
import re
import shutil
import urllib.parse
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hcl_files import read_module
from workflow_checks import check_workflow
from workflow_runs import Run, WorkflowError

from simpipe.run_summary import GateResult, Problem, RunSummary
from simpipe.template import PARAMETERS

MODULE = Path(__file__).parents[1] / "terraform"
NIGHTLY = MODULE / "workflows" / "nightly.yaml"
RELEASE_AGE = MODULE / "workflows" / "release_age.yaml"


# --- the text -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [NIGHTLY, RELEASE_AGE], ids=lambda path: path.stem)
def test_checks_find_nothing(path):
    assert check_workflow(path) == []


@pytest.mark.parametrize("path", [NIGHTLY, RELEASE_AGE], ids=lambda path: path.stem)
def test_settings_that_are_read_are_those_that_terraform_gives(path):
    (workflow,) = [
        block for block in read_module(MODULE) if block.type == "google_workflows_workflow" and block.labels[1] == path.stem
    ]
    given = workflow.get("user_env_vars")
    assert given is not None
    read = set(re.findall(r'sys\.get_env\("(\w+)"\)', path.read_text()))
    assert read == set(re.findall(r"^\s*(\w+)\s*=", given.text, re.M))


def test_events_that_alerts_count_are_logged():
    text = (MODULE / "alerts.tf").read_text()
    counted = set(re.findall(r'jsonPayload\.event=\\"(\w+)\\"', text))
    logged = set(re.findall(r"event: (\w+)", NIGHTLY.read_text() + RELEASE_AGE.read_text()))
    assert counted == logged - {"live"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("        next: wait\n", "        next: nowhere\n", "next: nowhere is no step"),
        ("        next: verb_failed\n", "        next: publish\n", "next: publish lies inside another block"),
        ("call: run_verb\n", "call: run_all\n", "call: run_all is no subworkflow"),
        ("call: sys.sleep\n", "call: sys.wait\n", "call: sys.wait is no subworkflow"),
        ('bucket: ${sys.get_env("ROOT_BUCKET")}\n          name', "name", "read_json takes bucket, name, not name"),
        ("    - conflict:\n", "    - conflict_of_runs:\n", "next: conflict is no step"),
        ("            next: note_live\n", "            next: log_live\n", "note_live is never reached"),
        (
            "        call: sys.sleep\n        args:\n          seconds: ${delay}\n",
            "        assign:\n          - x: 1\n",
            "does not wait",
        ),
        ("${sys.now() > deadline}", "${delay > 200}", "has no limit"),
        ("          - delay: 30\n", "", "delay may not be set yet"),
        ('          - promote: ${sys.get_env("PROMOTE")}\n', "", "who_publishes: promote may not be set yet"),
        ("        result: summary\n    - has_summary", "    - has_summary", "summary may not be set yet"),
        ("${math.min(delay * 1.5, 300)}", "${math.min(delay * 1.5, 300}", "brackets or quotes do not balance"),
        ("${math.min(delay * 1.5, 300)}", "${math.min(delay * 1.5, 300)", "an expression fills its string"),
        ("${math.min(delay * 1.5, 300)}", "${math.least(delay * 1.5, 300)}", "math.least() is not among the functions"),
        ("${math.min(delay * 1.5, 300)}", "about ${delay}", "an expression fills its string"),
        ("        retry: ${http.default_retry}\n    - state", "    - state", "http.get is not tried again"),
        ("            auth: {type: OAuth2}\n          result: seen", "          result: seen", "http.get without auth"),
        ("    - job:\n", "    - launch:\n", "2 steps are called launch"),
        ("    - pass_on:\n", "    - pass_on: {}\n    - pass_on_too:\n", "does nothing"),
        ("    - launch:\n        try:", "    - launch:\n        times: 3\n        try:", "launch: unknown key times"),
        (
            "  params: [verb, run_id, more]\n",
            "  parameters: [verb, run_id, more]\n",
            "run_verb needs steps, and has params at most",
        ),
        ("stamp:\n  params: [release", "notes:\n  params: [release", "call: stamp is no subworkflow"),
        (
            "            next: gate_failed\n",
            "            assign: []\n",
            "states: a case has a condition and one of next, raise, return",
        ),
        ("main:\n", "begin:\n", "no main"),
        ("main:\n", "main: [\n", "while parsing"),
    ],
)
def test_checks_fail_on_what_is_broken(tmp_path, old, new, said):
    text = NIGHTLY.read_text()
    assert old in text
    path = tmp_path / "nightly.yaml"
    path.write_text(text.replace(old, new, 1))
    found = check_workflow(path)
    assert any(said in finding and (str(path) in finding or said == "while parsing") for finding in found), found


def test_findings_name_the_line(tmp_path):
    path = Path(shutil.copy(NIGHTLY, tmp_path))
    lines = path.read_text().splitlines()
    line = lines.index("    - look:") + 1
    path.write_text(path.read_text().replace("url: ${job_url}", "url: ${address}", 1))
    assert check_workflow(path) == [f"{path}:{line}: run_verb: look: address may not be set yet"]


# --- runs ---------------------------------------------------------------------------------------------------------------

_PARAMETERS = {
    "config": "gs://deploy/configs/line.yaml",
    "jobs_on": "dataflow",
    "root": "gs://root-bucket/root",
    "sdk_container_image": f"host/project/images/simpipe@sha256:{7:064x}",
}
_ENVIRONMENT = {
    "ENVIRONMENT": json.dumps({"ipConfiguration": "WORKER_IP_PRIVATE"}),
    "JOBS_URL": "https://dataflow/jobs/",
    "JOB_NAME": "simpipe-small-nightly",
    "LAUNCH_URL": "https://dataflow/launch",
    "MAX_RUN_HOURS": "2",
    "NAME": "small",
    "PARAMETERS": json.dumps(_PARAMETERS),
    "PROMOTE": "reindex",
    "ROOT_BUCKET": "root-bucket",
    "ROOT_PREFIX": "root",
    "STAMP": "status/nightly.json",
    "TEMPLATE": "gs://deploy/templates/simpipe.json",
    "TEMP_BUCKET": "temp-bucket",
}
_TEMPLATE = {parameter.name: parameter for parameter in PARAMETERS}
_OLD = {"release": "20261130T031500Z-aaaaaa", "previous": None, "published_at": "2026-11-30T03:15:00Z"}
_NEW = {"release": "20261201T031500Z-bbbbbb", "previous": _OLD["release"], "published_at": "2026-12-01T03:15:00Z"}
_SUMMARY: dict[str, Any] = {
    "state": "done",
    "outcome": "published",
    "started_at": "2026-12-01T03:15:00Z",
    "finished_at": "2026-12-01T03:35:00Z",
    "seconds": 1200.0,
    "cpu_seconds": 60.0,
    "simpipe_version": "1",
    "runner": "dataflow",
}


@dataclass
class Cloud:
    """Dataflow and Cloud Storage. `ends`: of each launch, the job's last state, its summary and the new pointer, or None."""

    ends: list[tuple[str, dict[str, Any] | None, dict[str, Any] | None]]
    polls: int = 3
    live: dict[str, Any] | None = field(default_factory=lambda: dict(_OLD))
    errors: list[tuple[str, int]] = field(default_factory=list)  # of URLs that begin so, one by one
    launches: list[dict[str, Any]] = field(default_factory=list)
    objects: dict[str, Any] = field(default_factory=dict)
    cancelled: int = 0

    def answer(self, method: str, url: str, args: dict[str, Any]) -> Any:
        for error in self.errors:
            if url.startswith(error[0]):
                self.errors.remove(error)
                raise WorkflowError({"code": error[1], "message": "no", "tags": ["HttpError"]})
        assert args["auth"] == {"type": "OAuth2"}
        if url == "https://dataflow/launch":
            launch = args["body"]["launchParameter"]
            assert all(_TEMPLATE[name].accepts(value) for name, value in launch["parameters"].items()), launch
            self.launches.append(launch)
            self.left = self.polls
            return {"job": {"id": f"job-{len(self.launches)}"}}
        if url.startswith("https://dataflow/jobs/job-"):
            return self._job(method, args)
        if url.startswith("https://storage.googleapis.com/upload/storage/v1/b/temp-bucket/o"):
            self.objects[args["query"]["name"]] = args["body"]
            return {}
        found = re.fullmatch(r"https://storage\.googleapis\.com/storage/v1/b/([\w-]+)/o/([^/?]+)\?alt=media", url)
        assert found, url
        name = urllib.parse.unquote(found.group(2))
        body = self.live if name == "root/live.json" else self.objects.get(name)
        if body is None:
            raise WorkflowError({"code": 404, "message": "Not Found", "tags": ["HttpError"]})
        return body if name == "root/live.json" else json.dumps(body).encode()  # decoded or not, as their types may be

    def _job(self, method: str, args: dict[str, Any]) -> dict[str, Any]:
        if method == "PUT":
            assert args["body"] == {"requestedState": "JOB_STATE_CANCELLED"}
            self.cancelled += 1
            return {}
        self.left -= 1
        if self.left > 0:
            return {"currentState": "JOB_STATE_RUNNING"} if self.left > 1 else {}
        state, summary, live = self.ends[len(self.launches) - 1]
        run_id = self.launches[-1]["parameters"]["run_id"]
        if summary is not None:
            told = RunSummary(run_id, "reindex", "line.yaml", **{**_SUMMARY, **summary}).to_json()
            self.objects[f"root/runs/{run_id}.json"] = json.loads(json.dumps(told))
        self.live = live or self.live
        return {"currentState": state}


def _run(cloud: Cloud, **environment: str) -> tuple[Run, Any]:
    run = Run(NIGHTLY, {**_ENVIRONMENT, **environment}, cloud.answer)
    try:
        return run, run.main()
    except WorkflowError as error:
        return run, error.value


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _events(run: Run) -> list[tuple[str, str]]:
    assert all(log["environment"] == "small" and log["run"].startswith("nightly-2") for log in run.logs)
    return [(log["event"], log["severity"]) for log in run.logs]


def test_a_release_is_published():
    cloud = Cloud([("JOB_STATE_DONE", {"release": _NEW["release"]}, _NEW)], polls=12)
    run, result = _run(cloud)
    (launch,) = cloud.launches
    assert launch["jobName"] == "simpipe-small-nightly"
    assert launch["containerSpecGcsPath"] == _ENVIRONMENT["TEMPLATE"]
    assert launch["environment"] == {"ipConfiguration": "WORKER_IP_PRIVATE"}
    assert launch["parameters"] == {**_PARAMETERS, "verb": "reindex", "run_id": result["run"]}
    assert re.fullmatch(r"nightly-\d{8}t\d{6}z-[0-9a-f]{8}", result["run"])
    assert result == {"state": "done", "run": result["run"], "release": _NEW["release"]}
    assert _events(run) == [("live", "INFO")]
    assert run.logs[0]["published_at"] == _NEW["published_at"]
    assert run.slept == [min(30 * 1.5**n, 300) for n in range(12)]
    stamp = cloud.objects["status/nightly.json"]
    assert stamp == {"release": _NEW["release"], "run": result["run"], "checked_at": _time(run.now)}


def test_nothing_changed():
    run, result = _run(cloud := Cloud([("JOB_STATE_DONE", {"outcome": "unchanged"}, None)]))
    assert result["release"] == _OLD["release"]
    assert _events(run) == [("live", "INFO")]
    assert cloud.objects["status/nightly.json"]["release"] == _OLD["release"]


@pytest.mark.parametrize("state", ["JOB_STATE_DONE", "JOB_STATE_FAILED"])
def test_a_gate_failed(state):
    summary = {
        "state": "gate_failed",
        "release": _NEW["release"],
        "outcome": "gate_failed",
        "message": "recall fell",
        "gate": GateResult(False, ("ann_recall",)),
    }
    run, result = _run(cloud := Cloud([(state, summary, None)]))
    assert (result["state"], result["release"], result["failed"]) == ("gate_failed", _NEW["release"], ["ann_recall"])
    assert _events(run) == [("gate_failed", "WARNING")]
    assert run.logs[0]["message"] == "recall fell"
    assert "status/nightly.json" not in cloud.objects


def test_another_release_went_live_meanwhile():
    summary = {"state": "conflict", "outcome": "conflict", "error": Problem("another one runs", "run again", 3)}
    run, result = _run(Cloud([("JOB_STATE_DONE", summary, None)]))
    assert result["state"] == "conflict"
    assert _events(run) == [("busy", "WARNING")]
    assert run.logs[0]["message"] == "another one runs"


def test_another_job_is_active():
    run, result = _run(cloud := Cloud([], errors=[("https://dataflow/launch", 409)]))
    assert result["state"] == "busy"
    assert _events(run) == [("busy", "WARNING")]
    assert not cloud.launches


def test_a_verb_failed():
    summary = {"state": "failed", "outcome": "failed", "error": Problem("no such file", "name another", 1)}
    run, error = _run(Cloud([("JOB_STATE_FAILED", summary, None)]))
    assert error["message"].endswith("no such file")
    assert _events(run) == [("run_failed", "ERROR")]


def test_a_job_left_no_summary():
    run, error = _run(Cloud([("JOB_STATE_FAILED", None, None)]))
    assert re.search(r"job job-1 ended as JOB_STATE_FAILED and left no root/runs/nightly-.*\.json", error["message"])
    assert _events(run) == [("run_failed", "ERROR")]


def test_a_job_takes_too_long():
    run, error = _run(cloud := Cloud([("JOB_STATE_DONE", None, None)], polls=10_000))
    assert (error["code"], cloud.cancelled) == (504, 1)
    assert "job-1 was cancelled after 2 hours" in error["message"]
    assert 7200 <= sum(run.slept) <= 7200 + 300
    assert _events(run) == [("run_failed", "ERROR")]


def test_the_workflow_publishes():
    ends = [
        ("JOB_STATE_DONE", {"outcome": "built", "release": _NEW["release"]}, None),
        ("JOB_STATE_DONE", {"release": _NEW["release"]}, _NEW),
    ]
    run, result = _run(cloud := Cloud(ends), PROMOTE="workflow")
    first, second = [launch["parameters"] for launch in cloud.launches]
    assert first == {**_PARAMETERS, "verb": "reindex", "run_id": result["run"], "no_publish": "true"}
    assert second == {**_PARAMETERS, "verb": "publish", "run_id": result["run"] + "-publish", "release": _NEW["release"]}
    assert result["release"] == _NEW["release"]
    assert _events(run) == [("live", "INFO")]


@pytest.mark.parametrize("release", [None, _OLD["release"]])
def test_the_workflow_publishes_nothing_where_nothing_changed(release):
    run, _ = _run(cloud := Cloud([("JOB_STATE_DONE", {"outcome": "unchanged", "release": release}, None)]), PROMOTE="workflow")
    assert len(cloud.launches) == 1
    assert _events(run) == [("live", "INFO")]


def test_the_workflow_does_not_publish_what_failed_a_gate():
    summary = {
        "state": "gate_failed",
        "release": _NEW["release"],
        "outcome": "gate_failed",
        "gate": GateResult(False, ("items",)),
    }
    run, _ = _run(cloud := Cloud([("JOB_STATE_DONE", summary, None)]), PROMOTE="workflow")
    assert len(cloud.launches) == 1
    assert _events(run) == [("gate_failed", "WARNING")]


def test_requests_are_tried_again():
    errors = [("https://dataflow/launch", 503), ("https://dataflow/jobs/", 502), ("https://storage.googleapis.com/", 429)]
    _, result = _run(cloud := Cloud([("JOB_STATE_DONE", {"outcome": "unchanged"}, None)], errors=errors))
    assert result["state"] == "done"
    assert not cloud.errors
    assert len(cloud.launches) == 1


def test_a_launch_whose_answer_was_lost_is_not_sent_again():
    run, error = _run(Cloud([], errors=[("https://dataflow/launch", 504)]))
    assert error["code"] == 504
    assert [method for method, url, _ in run.requests if url == "https://dataflow/launch"] == ["POST"]
    assert _events(run) == [("run_failed", "ERROR")]


@pytest.mark.parametrize(
    ("live", "stamp", "hours"),
    [
        (None, None, 1_000_000),
        (_NEW, None, 50.0),
        (_NEW, {"release": _NEW["release"], "checked_at": "2026-12-03T03:15:00.000000Z"}, 2.0),
        (_NEW, {"release": _OLD["release"], "checked_at": "2026-12-03T03:15:00.000000Z"}, 50.0),
    ],
    ids=["nothing is live", "published", "found up to date", "a note about another release"],
)
def test_age_of_the_release(live, stamp, hours):
    cloud = Cloud([], live=live)
    if stamp:
        cloud.objects["status/nightly.json"] = stamp
    run = Run(RELEASE_AGE, _ENVIRONMENT, cloud.answer, now=1_796_274_900.0)  # 2026-12-03T05:15:00Z
    assert run.main()["hours"] == pytest.approx(hours)
    (log,) = run.logs
    assert (log["event"], log["environment"], log["release"]) == ("release_age", "small", live and live["release"])
    assert log["hours"] == pytest.approx(hours)
