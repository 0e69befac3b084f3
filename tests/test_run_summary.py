"""What a run of a verb leaves behind, however it ends."""

from __future__ import annotations

import json
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from simpipe import files, releases, run_summary
from simpipe.cli import main, parser
from simpipe.config import parse_config
from simpipe.fsck import check_root
from simpipe.prune import prune
from simpipe.run_summary import KEPT, RunSummary, Step
from simpipe.verbs.options import RECORDED

pytestmark = pytest.mark.usefixtures("undrawn")

FIELDS = {
    *("format", "run_id", "verb", "config", "state", "outcome", "started_at", "finished_at", "seconds", "cpu_seconds"),
    *("simpipe_version", "runner", "release", "items", "live", "message", "error", "steps", "jobs", "gate", "facts"),
}
LINE = ["import", "build", "calibrate", "evaluate", "report", "gate", "publish"]


@pytest.fixture(scope="module")
def line(vectors_config, tmp_path_factory) -> Path:
    """A folder with `line.yaml` and a root on which `run --run-id first` went well; not to be changed."""
    folder = tmp_path_factory.mktemp("line")
    config = vectors_config(folder / "root", gates={"items": {"min": 10}})
    (folder / "line.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
    assert main(["run", "--config", str(folder / "line.yaml"), "--run-id", "first"]) == 0
    return folder


@pytest.fixture
def copy(line: Path, tmp_path: Path) -> Path:
    shutil.copytree(line, tmp_path / "line")
    return tmp_path / "line"


def verb(folder: Path, name: str, *args: str, run_id: str = "again") -> tuple[int, dict[str, Any]]:
    """Exit code and summary of a verb on the copied root."""
    how = ["--config", str(folder / "line.yaml"), "--set", f"root={folder / 'root'}", "--run-id", run_id]
    code = main([name, *args, *how])
    return code, told(folder, run_id)


def told(folder: Path, run_id: str) -> dict[str, Any]:
    return files.read_json(folder / "root" / "runs" / f"{run_id}.json")


# --- how runs end -----------------------------------------------------------------------------------------------------


def test_a_run_that_published(line):
    summary = told(line, "first")
    assert set(summary) == FIELDS
    assert (summary["format"], summary["verb"], summary["state"], summary["outcome"]) == (1, "run", "done", "published")
    pointer = releases.read_pointer(line / "root")
    assert pointer is not None
    assert summary["release"] == summary["live"] == pointer.release
    assert summary["error"] is None
    assert summary["gate"] == {"passed": True, "failed": []}
    assert summary["config"] == str(line / "line.yaml")
    assert summary["runner"] == "local"
    assert [step["step"] for step in summary["steps"]] == LINE
    assert {step["state"] for step in summary["steps"]} == {"done"}
    assert f"{summary['items']:,} items" in summary["steps"][1]["detail"]
    jobs = summary["jobs"]
    assert [job["verb"] for job in jobs] == ["import", "build", "calibrate", "evaluate"]
    assert {job["state"] for job in jobs} == {"DONE"}
    assert jobs[1]["counters"]["out-items"] == summary["items"]
    assert set(jobs[1]["distributions"]["build-msec"]) == {"sum", "count", "min", "max"}
    began, ended = (datetime.fromisoformat(summary[name]) for name in ("started_at", "finished_at"))
    assert began.tzinfo == ended.tzinfo == UTC
    assert abs((ended - began).total_seconds() - summary["seconds"]) < 1.5
    assert sum(step["seconds"] for step in summary["steps"]) <= summary["seconds"] + 0.1
    assert summary["cpu_seconds"] > 0


def test_a_second_run_skips_every_step_and_finds_its_release_live(copy):
    code, summary = verb(copy, "run")
    assert code == 0
    assert (summary["state"], summary["outcome"]) == ("done", "unchanged")
    assert [(step["step"], step["state"]) for step in summary["steps"]] == [(name, "skipped") for name in LINE]
    assert summary["jobs"] == []
    assert summary["release"] == told(copy, "first")["release"]
    assert told(copy, "first")["outcome"] == "published", "each run has its own file"


def test_a_failed_run_names_error_cure_and_step(copy, capsys):
    code, summary = verb(copy, "build", "--set", "build.router.partitions=5", "--set", "build.rejects.max_share=0.5")
    assert code == 0
    embeddings = next((copy / "root" / "embeddings").glob("*/index-*.parquet"))
    embeddings.write_bytes(embeddings.read_bytes()[:-1] + b"x")
    code, summary = verb(copy, "build", "--set", "build.router.partitions=6", run_id="damaged")
    assert code == 1
    assert (summary["state"], summary["outcome"]) == ("failed", "failed")
    assert "SHA-256" in summary["error"]["message"]
    assert embeddings.name in summary["error"]["message"]
    assert "restore it" in summary["error"]["cure"]
    assert summary["error"]["exit_code"] == 1
    assert summary["message"] == summary["error"]["message"]
    assert [(step["step"], step["state"]) for step in summary["steps"]] == [("build", "failed")]
    assert [job["state"] for job in summary["jobs"]] == ["FAILED"]
    assert summary["live"] == told(copy, "first")["release"]


def test_a_failed_gate_is_told_with_its_names(copy):
    changed = ("--set", "build.router.partitions=5", "--set", "gates.items.min=9999")
    code, summary = verb(copy, "run", *changed)
    assert code == 4
    assert (summary["state"], summary["outcome"], summary["error"]["exit_code"]) == ("gate_failed", "gate_failed", 4)
    assert summary["gate"] == {"passed": False, "failed": ["items.min"]}
    assert "9,999 are asked" in summary["error"]["message"]
    assert summary["release"] != summary["live"]
    code, judged = verb(copy, "gate", *changed, run_id="judged")
    assert code == 4
    assert (judged["state"], judged["gate"]) == ("gate_failed", summary["gate"])
    assert judged["error"]["message"].startswith("1 of")


def test_a_conflict_is_told_as_such(copy):
    with files.locked(copy / "root" / ".locks" / "reindex"):
        code, summary = verb(copy, "reindex")
    assert code == 3
    assert (summary["state"], summary["outcome"]) == ("conflict", "conflict")
    assert "another re-index" in summary["error"]["message"]
    assert summary["live"] == told(copy, "first")["release"]


def test_a_reindex_tells_its_changes_and_stages(copy):
    code, summary = verb(copy, "reindex", "--no-publish", "--set", "build.router.partitions=9")
    assert code == 0
    assert (summary["state"], summary["outcome"]) == ("done", "built")
    assert summary["release"] != summary["live"] == told(copy, "first")["release"]
    assert summary["facts"]["base"] == summary["live"]
    assert summary["facts"]["partitions"]["total"] == 9
    assert summary["facts"]["reasons"]
    names = [step["step"] for step in summary["steps"]]
    assert names == list(dict.fromkeys(names)), "stages and steps of one name are one"
    assert {"compare", "build", "calibrate", "evaluate", "gate"} <= set(names)
    code, summary = verb(copy, "reindex", run_id="nothing")
    assert (code, summary["outcome"], summary["release"]) == (0, "unchanged", summary["live"])


@pytest.mark.parametrize("name", ["tag", "rollback", "prune", "fsck"])
def test_verbs_without_jobs(copy, name):
    first = told(copy, "first")["release"]
    if name == "rollback":
        assert verb(copy, "run", "--set", "build.router.partitions=5", run_id="second")[0] == 0
    code, summary = verb(copy, name, *(["mine"] if name == "tag" else []))
    assert code == 0
    assert (summary["state"], summary["live"], summary["jobs"]) == ("done", first, [])
    assert summary["release"] == (first if name in ("tag", "rollback") else None)
    assert summary["message"]
    if name == "fsck":
        assert summary["facts"] == {"errors": 0, "warnings": 0, "releases": 1}


def test_fsck_that_finds_an_error_fails(copy):
    store = next((copy / "root" / "releases").glob("*/store/*.parquet"))
    store.write_bytes(store.read_bytes() + b"x")
    code, summary = verb(copy, "fsck")
    assert (code, summary["state"], summary["facts"]["errors"]) == (1, "failed", 1)
    assert summary["error"]["message"] == "1 errors and 0 warnings in 1 releases"


def test_files_of_queries(copy):
    embeddings = str(next((copy / "root" / "embeddings").glob("*/query-*.parquet")))
    code, summary = verb(copy, "lookup", "--queries", embeddings, "--out", str(copy / "out.parquet"))
    assert code == 0
    assert summary["jobs"][0]["counters"]["out-items"] > 0
    release = str(next((copy / "root" / "releases").glob("2*")))
    how = ["--queries", embeddings, "--out", str(copy / "out.parquet"), "--run-id", "of-release"]
    assert main(["lookup", "--root", release, *how]) == 0
    assert told(copy, "of-release")["config"] == ""
    shutil.copytree(release, copy / "alone")
    assert main(["lookup", "--root", str(copy / "alone"), *how[:-1], "of-copy"]) in (0, 1)
    assert not (copy / "alone" / "runs").exists(), "a release without a root keeps no summaries"


def test_a_verb_without_a_root_makes_none(tmp_path, vectors_config):
    config = vectors_config(tmp_path / "root")
    (tmp_path / "line.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
    main(["fsck", "--config", str(tmp_path / "line.yaml")])
    assert not (tmp_path / "root").exists()


# --- the folder -------------------------------------------------------------------------------------------------------


def write_runs(root: Path, count: int, *, days: float) -> None:
    """Summaries `r000` on, the first one newest, all older than `days`."""
    now = time.time()
    for number in range(count):
        summary = RunSummary(f"r{number:03d}", "build", "", "done", "done", "", "", 1.0, 1.0, "0", "local", steps=(Step("build", "done", 1.0),))  # fmt: skip  # noqa: E501
        summary.save(root)
        written = now - 86400 * days - number
        os.utime(root / "runs" / f"r{number:03d}.json", (written, written))


def test_the_latest_runs_come_first_and_a_damaged_one_is_told(tmp_path, capsys):
    write_runs(tmp_path, 5, days=1)
    for name, text in (("r001", "{"), ("r002", "[]")):
        path = tmp_path / "runs" / f"{name}.json"
        written = path.stat().st_mtime
        path.write_text(text)
        os.utime(path, (written, written))
    found = run_summary.latest_runs(tmp_path, limit=4)
    assert [run["run_id"] for run in found] == ["r000", "r001", "r002", "r003"]
    assert [run["state"] for run in found] == ["done", "unreadable", "unreadable", "done"]
    assert run_summary.latest_runs(tmp_path / "none", limit=4) == []


def test_runs_are_listed(copy, capsys):
    verb(copy, "tag", "mine", run_id="tagged")
    how = ["--config", str(copy / "line.yaml"), "--set", f"root={copy / 'root'}"]
    capsys.readouterr()
    assert main(["runs", "--json", *how]) == 0
    assert {run["run_id"] for run in json.loads(capsys.readouterr().out)} == {"tagged", "first"}
    assert main(["runs", *how]) == 0
    said = capsys.readouterr().out
    row = next(row for row in said.splitlines() if "first" in row)
    cells = [cell.strip() for cell in row.split("│")[1:-1]]
    summary = told(copy, "first")
    assert cells[:4] == ["first", "run", "published", summary["release"]]
    assert cells[4:] == [f"{summary['items']:,}", "0", f"{summary['seconds']:,.1f}"]
    assert main(["runs", "--last", "0", *how]) == 2
    assert {file.name for file in (copy / "root" / "runs").iterdir()} == {"first.json", "tagged.json"}, "it leaves none itself"


def test_prune_forgets_old_runs_beyond_the_newest(copy):
    root = copy / "root"
    (root / "runs" / "first.json").unlink()
    write_runs(root, KEPT + 3, days=10)
    assert not prune(root, older_than_days=11).cleaned
    seen = prune(root, older_than_days=9, dry_run=True)
    assert [(each.path, each.files) for each in seen.cleaned] == [("runs", 3)]
    assert len(list((root / "runs").iterdir())) == KEPT + 3
    assert prune(root, older_than_days=9).cleaned == seen.cleaned
    assert sorted(path.stem for path in (root / "runs").iterdir()) == [f"r{number:03d}" for number in range(KEPT)]


def test_fsck_finds_nothing_wrong_with_the_folder_but_a_temporary_file(copy):
    assert check_root(copy / "root").findings == ()
    (copy / "root" / "runs" / f"{files.TMP_PREFIX}0000-x.json").write_text("{")
    assert [(each.severity, each.path) for each in check_root(copy / "root").findings] == [
        ("warning", f"runs/{files.TMP_PREFIX}0000-x.json")
    ]


def test_every_verb_that_changes_something_takes_a_run_id(capsys):
    verbs = parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    takes = {name for name, verb in verbs.items() if any("--run-id" in each.option_strings for each in verb._actions)}
    assert takes == set(RECORDED)
    for bad in ("", "-a", "../x", "a/b", "a.json", "x" * 64, "ä"):
        with pytest.raises(SystemExit):
            parser().parse_args(["fsck", f"--run-id={bad}"])
    assert parser().parse_args(["fsck", "--run-id", "20261201t063219z-1a2b"]).run_id == "20261201t063219z-1a2b"


def test_the_configuration_is_named_and_not_told(line):
    """Nothing of the configuration's values is in a summary, but what the steps say themselves."""
    text = (line / "root" / "runs" / "first.json").read_text()
    config = parse_config(yaml.safe_load((line / "line.yaml").read_text()))
    assert str(config.source.path) not in text  # type: ignore[union-attr]
