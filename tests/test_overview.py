"""The table of releases: one record each, whatever an earlier version did not write, whatever is damaged."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from whole_root import FIRST, SECOND, alter_manifest, items_of, make_root, write_release

from simpipe import cli, files, releases, tables, tags
from simpipe.overview import overview
from simpipe.verdict import Check, Verdict

COUNTS = {"added": 12_345, "changed": 1_234, "deleted": 123, "unchanged": 199_000}


@pytest.fixture
def root(tmp_path) -> Path:
    return make_root(tmp_path / "root")


def as_reindexed(data):
    made = {"by": "somebody@a-host-with-a-long-name", "verb": "reindex", "at": "2025-01-02T00:00:00Z"}
    about = {"base": FIRST, "items": COUNTS, "partitions": {"total": 3, "rebuilt": 1}}
    data["provenance"] = {"embeddings": "fedcba9876543210", "reindex": about, "made": made}


def judge(root: Path, name: str, *, passed: bool, forced: bool = False) -> None:
    folder = releases.releases_folder(root) / name
    verdict = Verdict(name, None, "now", (Check("items.min", passed, "said"),))
    (verdict.force("me@here", "now") if forced else verdict).save(folder)
    entry = files.entry_of(folder / "verdict.json", folder).to_json()
    alter_manifest(root, name, lambda data: data["files"].append(entry))


def test_a_record_a_release_newest_first(root):
    alter_manifest(root, SECOND, as_reindexed)
    judge(root, SECOND, passed=True)
    tags.set_tag(root, "best", SECOND)
    tags.set_tag(root, "also", SECOND)
    live, first = overview(root)
    assert first == {
        "release": FIRST,
        "state": "previous",
        "created": "2025-01-01T00:00:00Z",
        "made": None,
        "base": None,
        "embeddings": "0123456789abcdef",
        "changes": None,
        "items": 60,
        "partitions": 3,
        "rebuilt": None,
        "backend": "exact",
        "encoder": "none",
        "precision@1": 0.9,
        "ann_recall": 1.0,
        "verdict": None,
    }
    assert list(live) == list(first)
    assert live["state"] == "live #also #best"
    assert (live["base"], live["changes"], live["rebuilt"], live["made"]["verb"]) == (FIRST, COUNTS, 1, "reindex")
    assert (live["verdict"], live["items"]) == ("pass", 61)


@pytest.mark.parametrize(
    ("passed", "forced", "verdict", "state"), [(False, False, "FAIL", "live"), (False, True, "forced", "live forced")]
)
def test_verdicts(root, passed, forced, verdict, state):
    judge(root, SECOND, passed=passed, forced=forced)
    row = overview(root)[0]
    assert (row["verdict"], row["state"]) == (verdict, state)


def test_a_pointer_that_was_forced(root):
    pointer = files.read_json(root / "live.json")
    files.write_json(root / "live.json", {**pointer, "forced": ["items.min"]})
    assert [row["state"] for row in overview(root)] == ["live forced", "previous"]


@pytest.mark.parametrize("name", ["metrics.json", "partitions/00001/rows.arrow"])
def test_a_missing_file(root, name):
    (root / "releases" / FIRST / name).unlink()
    states = ["live" if name == "metrics.json" else "live damaged", "previous damaged"]
    assert [row["state"] for row in overview(root)] == states


@pytest.mark.parametrize("content", [b"", b"[]", b'{"metrics": 3}', b"[" * 100_000])
def test_metrics_of_anything(root, content):
    path = root / "releases" / FIRST / "metrics.json"
    path.write_bytes(content)
    live, first = overview(root)
    assert (first["state"], first["precision@1"]) == ("previous damaged", None)
    assert live["precision@1"] == 0.9


def test_a_manifest_that_cannot_be_read(root):
    (root / "releases" / FIRST / "manifest.json").write_text("{")
    live, first = overview(root)
    assert live["state"] == "live", "the files that it carries over are there"
    assert (first["release"], first["state"], first["items"]) == (FIRST, "previous damaged", None)
    assert list(first) == list(live)


@pytest.mark.parametrize("provenance", [{}, {"reindex": 3, "made": "me"}, {"reindex": {"items": [], "partitions": None}}])
def test_provenance_of_anything(root, provenance):
    alter_manifest(root, SECOND, lambda data: data.update(provenance=provenance))
    assert overview(root)[0]["changes"] is None


def test_no_releases(tmp_path):
    assert overview(tmp_path) == []


def test_the_table_fits_160_columns(root, monkeypatch):
    write_release(root, "20250103T000000Z-cccccc", items_of(list(range(30))))
    alter_manifest(root, SECOND, as_reindexed)
    alter_manifest(root, SECOND, lambda data: data["encoder"].update(fingerprint="0123456789abcdef" * 4))
    judge(root, SECOND, passed=False, forced=True)
    tags.set_tag(root, "best", SECOND)
    said = io.StringIO()
    monkeypatch.setattr(tables, "console_of", lambda: Console(file=said, width=160, highlight=False))
    tables.print_releases(overview(root), str(root))
    lines = said.getvalue().rstrip("\n").split("\n")
    assert max(map(len, lines[1:])) <= 160
    assert len(lines) == 5, "a title, the head, and one line a release"
    live = next(line for line in lines if SECOND in line)
    parts = ("live #best ", "reindex somebody", " -aaaaaa ", "+12,345 ~1,234 -123", " 1/3 ", "01234567 ", "0.9000", "forced")
    for part in parts:
        assert part in live


def test_the_verb(root, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.ones((3, 2), np.float32))
    config = tmp_path / "c.yaml"
    config.write_text(f"name: x\nroot: {root}\nsource: {{kind: vectors, path: {tmp_path / 'x.npy'}}}\n")
    assert cli.main(["releases", "--config", str(config), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == overview(root)
    assert cli.main(["releases", "--config", str(config)]) == 0
    assert FIRST in capsys.readouterr().out
