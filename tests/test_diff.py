"""What differs between two releases, against sets of ids in plain Python."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whole_root import FIRST, SECOND, alter_manifest, items_of, make_root, write_release

from simpipe import cli, files, releases
from simpipe.diff import diff_releases
from simpipe.diff_items import compare_items
from simpipe.embeddings import vectors_column
from simpipe.errors import ReleaseError
from simpipe.verdict import Check, Verdict


@pytest.fixture
def root(tmp_path) -> Path:
    return make_root(tmp_path / "root")


def test_a_reindexed_release_against_its_base(root):
    found = diff_releases(root, "previous", "live")
    assert found["items"] == {
        "by": "digests",
        "added": 3,
        "changed": 1,
        "deleted": 2,
        "in_both": 58,
        "unchanged": 57,
        "ids": {"added": ["i62", "i65", "i68"], "changed": ["i2"], "deleted": ["i1", "i4"]},
    }
    assert found["partitions"] == {"total": 3, "rebuilt": 1, "hidden_only": 1, "same": 1}
    manifest = releases.find(root, SECOND)[1]
    carried = [entry for entry in manifest.files if entry.release is not None]
    assert found["files"]["shared"] == len(carried)
    assert found["files"]["shared_bytes"] == sum(entry.size for entry in carried)
    assert found["files"]["new"] == len(manifest.files) - len(carried)
    assert not any(found[part] for part in ("metrics", "cutpoints", "index", "config"))


def test_a_release_against_itself(root):
    found = diff_releases(root, "live", SECOND)
    assert (found["items"]["unchanged"], found["items"]["ids"]) == (61, {"added": [], "changed": [], "deleted": []})
    assert found["partitions"] == {"total": 3, "rebuilt": 0, "hidden_only": 0, "same": 3}
    assert found["files"]["new"] == 0


@settings(max_examples=20, deadline=None)
@given(st.dictionaries(st.integers(0, 200), st.integers(1, 3)), st.dictionaries(st.integers(0, 200), st.integers(1, 3)),
       st.sampled_from([(2, 2), (4, 2), (2, 4), (3, 4), (6, 4), (1, 5)]), st.booleans())  # fmt: skip
def test_items_against_sets(one, other, store_files, digests):
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for name, items, count in zip((FIRST, SECOND), (one, other), store_files, strict=True):
            write_release(root, name, versions(items), store_files=count)
        if not digests:
            alter = [entry for entry in releases.find(root, FIRST)[1].files if not entry.path.startswith("digests/")]
            releases.find(root, FIRST)[1].model_copy(update={"files": tuple(alter)}).save(root / "releases" / FIRST)
        found = compare_items(releases.find(root, FIRST), releases.find(root, SECOND), ids=500)
    named = {kind: sorted(f"i{number}" for number in numbers) for kind, numbers in (
        ("added", other.keys() - one.keys()),
        ("changed", {number for number in one.keys() & other.keys() if digests and one[number] != other[number]}),
        ("deleted", one.keys() - other.keys()),
    )}  # fmt: skip
    assert found["ids"] == named
    assert found["by"] == ("digests" if digests else "ids")
    assert found["in_both"] == len(one.keys() & other.keys())
    assert found["changed"] == (len(named["changed"]) if digests else None)
    assert found["unchanged"] == (found["in_both"] - len(named["changed"]) if digests else None)
    assert (found["added"], found["deleted"]) == (len(named["added"]), len(named["deleted"]))


def versions(items: dict[int, int]):
    """Items whose label says their version."""
    table = items_of(sorted(items))
    vectors = np.zeros((len(items), 4), np.float32)
    labels = pa.array([f"v{items[number]}" for number in sorted(items)], pa.string())
    return table.set_column(1, "label", labels).set_column(2, "embedding", vectors_column(vectors))


def test_metrics_cutpoints_and_configuration(tmp_path):
    items = items_of(list(range(30)))
    write_release(tmp_path, FIRST, items, metrics={"map": 0.5, "old": 1.0, "same": 0.25, "none": None})
    write_release(
        tmp_path,
        SECOND,
        items,
        metrics={"map": 0.75, "new": 2.0, "same": 0.25, "none": None},
        config={"seed": 1, "build": {"store_files": 2, "backend": {"kind": "exact"}}},
        backend={"kind": "exact", "space": "x"},
    )
    folder = tmp_path / "releases" / SECOND
    cutpoints = {"optimal": {"distance": 0.25, "precision": 0.9, "recall": 0.8}, "strict": {"distance": 0.1, "metric": "f1"}}
    files.write_json(folder / "cutpoints.json", {"cutpoints": cutpoints})
    releases.find(tmp_path, SECOND)[1].with_files(folder, ["cutpoints.json"]).save(folder)
    found = diff_releases(tmp_path, FIRST, SECOND)
    assert found["metrics"] == {
        "map": {"one": 0.5, "other": 0.75, "difference": 0.25},
        "old": {"one": 1.0, "other": None, "difference": None},
        "new": {"one": None, "other": 2.0, "difference": None},
    }
    assert found["cutpoints"] == {
        "optimal": {"distance": {"one": 0.5, "other": 0.25, "difference": -0.25}},
        "strict": {"distance": {"one": None, "other": 0.1, "difference": None}},
    }
    assert found["config"] == {"build.backend.kind": [None, "exact"], "seed": [0, 1]}
    assert found["index"] == {"backend.space": [None, "x"]}


def test_verdicts(root):
    folder = root / "releases" / SECOND
    checks = (Check("ann_recall.min", False, "0.5 is less than 0.9"), Check("items.min", True, "there are"))
    Verdict(SECOND, FIRST, "now", checks).force("me@here", "now").save(folder)
    alter_manifest(root, SECOND, lambda data: data["files"].append(files.entry_of(folder / "verdict.json", folder).to_json()))
    found = diff_releases(root, "previous", "live")
    assert found["one"]["verdict"] is None
    assert found["other"]["verdict"] == {"passed": False, "failed": ["ann_recall.min"], "forced": "me@here"}


def test_an_altered_file_is_named(root):
    path = root / "releases" / FIRST / "digests" / "00000-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ReleaseError, match=r"digests/00000-of-00002\.parquet"):
        diff_releases(root, FIRST, SECOND)


def test_the_verb(root, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.ones((3, 2), np.float32))
    config = tmp_path / "c.yaml"
    config.write_text(f"name: x\nroot: {root}\nsource: {{kind: vectors, path: {tmp_path / 'x.npy'}}}\n")
    assert cli.main(["diff", FIRST, "--config", str(config), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == diff_releases(root, FIRST, "live")
    assert cli.main(["diff", "previous", "live", "--config", str(config), "--ids", "2"]) == 0
    said = capsys.readouterr().out
    assert "3 added, 2 deleted, 1 changed, 57 unchanged" in said
    assert re.search(r"added: i\d\d, i\d\d and 1 more", said)
    assert cli.main(["diff", "nothing", "--config", str(config)]) == 1
    assert "no such release" in capsys.readouterr().err
