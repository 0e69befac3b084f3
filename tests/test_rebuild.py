"""Rebuilds against a dictionary of items and against builds in full, round after round."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from conftest import clustered
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rebuild_data import Item, change, check, full_build, in_this_process, make_config, make_truth, reindex

from pipelines.rebuild import RetrainNeeded

DIM = 8


@pytest.fixture
def serial(monkeypatch):
    monkeypatch.setattr("pipelines.rebuild._Rebuild._graph", in_this_process)


def rounds(config, folder, truth, count, *, seed=0, tolerance=0.0, **sizes):
    """Builds in full, then re-indexes several times; checks after each, and yields it."""
    rng = np.random.default_rng(seed)
    built = full_build(config, folder, truth, DIM)
    check(*built, truth, tolerance=tolerance)
    for number in range(count):
        new = change(truth, rng, dim=DIM, **sizes)
        made = reindex(config, folder, built, truth, new, f"delta-{number}")
        assert not isinstance(made, RetrainNeeded)
        check(*made, new, tolerance=tolerance)
        yield built, made, truth, new
        built, truth = made, new


@pytest.mark.parametrize(
    ("router", "spill"),
    [("kmeans", "none"), ("kmeans", "nearest"), ("packed", "none"), ("packed", "nearest"), ("hash", "none")],
)
def test_several_rounds(tmp_path, monkeypatch, router, spill):
    if (router, spill) != ("kmeans", "nearest"):
        monkeypatch.setattr("pipelines.rebuild._Rebuild._graph", in_this_process)
    kind = {"kind": router, "partitions": 5} | ({} if router == "hash" else {"spill": spill})
    config = make_config(tmp_path / "root", build={"router": kind}, reindex={"max_hidden": 0.1})
    truth = make_truth(clustered(400, dim=DIM)[0])
    new = truth
    for _, (folder, manifest), _, new in rounds(config, tmp_path, truth, 3, add=6, alter=4, drop=9):  # noqa: B007  used below
        about = manifest.provenance["reindex"]["partitions"]
        assert about["total"] == about["rebuilt"] + about["carried"] + about["hidden_only"] == len(manifest.partitions)
        owners = {entry.release for entry in manifest.files if entry.release}
        assert owners == set(manifest.parents)
        carried = [entry for entry in manifest.files if entry.release]
        assert all((folder.parent / str(entry.release) / entry.path).is_file() for entry in carried), "no chains"
    check(*full_build(config, tmp_path, new, DIM, "again"), new)


@pytest.mark.usefixtures("serial")
def test_few_deletes_hide_rows_and_carry_the_files(tmp_path):
    config = make_config(tmp_path / "root", build={"router": {"kind": "kmeans", "partitions": 12}, "store_files": 11})
    truth = make_truth(clustered(1500, dim=DIM)[0])
    seen = []
    for (_, before), (_, manifest), old, new in rounds(config, tmp_path, truth, 4, add=0, alter=0, drop=3):
        about = manifest.provenance["reindex"]["partitions"]
        seen.append(about["hidden_only"])
        assert about["rebuilt"] + about["hidden_only"] <= 3
        touched = {part.partition for part, was in zip(manifest.partitions, before.partitions, strict=True) if part != was}
        for entry in manifest.under("partitions"):
            if int(entry.path.split("/")[1]) not in touched:
                was = before.file(entry.path)
                assert (entry.sha256, entry.release) == (was.sha256, was.release or before.release)
        assert len([entry for entry in manifest.under("store") if entry.release is None]) <= len(set(old) - set(new))
    assert sum(seen) > 4
    assert sum(part.hidden for part in manifest.partitions) > 3, "hidden rows add up from release to release"


@pytest.mark.usefixtures("serial")
def test_many_deletes_rebuild_and_forget_what_was_hidden(tmp_path):
    config = make_config(tmp_path / "root", reindex={"max_hidden": 0.2})
    truth = make_truth(clustered(200, dim=DIM)[0])
    built = full_build(config, tmp_path, truth, DIM)
    few = {name: item for name, item in truth.items() if item.number % 20}
    hidden = reindex(config, tmp_path, built, truth, few, "few")
    check(*hidden, few)
    assert sum(part.hidden for part in hidden[1].partitions) == 10
    assert hidden[1].provenance["reindex"]["partitions"]["rebuilt"] == 0
    fewer = {name: item for name, item in few.items() if item.number % 3}
    made = reindex(config, tmp_path, hidden, few, fewer, "fewer")
    check(*made, fewer)
    assert not sum(part.hidden for part in made[1].partitions)
    assert not made[1].under("hidden")
    # What went comes back, under another label.
    back = {**fewer, "i0": Item(truth["i0"].vector, "back", -1)}
    check(*reindex(config, tmp_path, made, fewer, back, "back"), back)


@pytest.mark.usefixtures("serial")
@pytest.mark.parametrize("spill", ["none", "soar"])
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_sequence_of_changes(tmp_path, spill, data):
    seed = data.draw(st.integers(0, 1 << 20))
    folder = tmp_path / f"{spill}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    router = {"kind": "kmeans", "partitions": data.draw(st.integers(3, 13)), "spill": spill}
    limits = {"max_hidden": data.draw(st.sampled_from([0.0, 0.05, 0.5]))}
    config = make_config(folder / "root", build={"router": router, "store_files": data.draw(st.integers(1, 12))}, reindex=limits)
    truth = make_truth(clustered(120, dim=DIM, clusters=6, seed=seed)[0])
    rng = np.random.default_rng(seed)
    built = full_build(config, folder, truth, DIM)
    for number in range(2):
        sizes = {name: data.draw(st.sampled_from([0, 1, 7, 30])) for name in ("add", "alter", "drop")}
        new = change(truth, rng, dim=DIM, **sizes)
        made = reindex(config, folder, built, truth, new, f"{seed}-{number}")
        if isinstance(made, RetrainNeeded):
            return
        check(*made, new)
        built, truth = made, new


@pytest.mark.usefixtures("serial")
def test_large_partitions_are_divided_and_small_ones_merged(tmp_path):
    limits = {"split_above": 1.3, "merge_below": 0.5, "retrain_balance": 20.0}
    router = {"kind": "kmeans", "partitions": 6, "spill": "nearest"}
    config = make_config(tmp_path / "root", build={"router": router}, reindex=limits)
    vectors, labels = clustered(900, dim=DIM, clusters=6)
    truth = make_truth(vectors)
    built = full_build(config, tmp_path, truth, DIM)
    # One cluster nearly goes, another one grows.
    new = {name: item for name, item in truth.items() if labels[item.number] != 0 or item.number % 9 == 0}
    for row in np.flatnonzero(labels == 1):
        vector = (vectors[row] + 0.1 * np.sin(np.arange(DIM) + row)).astype(np.float32)
        new[f"new{row}"] = Item(tuple(vector.tolist()), "new", int(row))
        new[f"more{row}"] = Item(tuple((vector * 1.02).astype(np.float32).tolist()), None, int(row))
    made = reindex(config, tmp_path, built, truth, new, "surgery")
    assert not isinstance(made, RetrainNeeded)
    about = made[1].provenance["reindex"]["partitions"]
    assert about["split"]
    assert about["rebuilt"] < about["total"] or about["total"] <= 6
    check(*made, new)
    again = dict(list(new.items())[20:])
    last = reindex(config, tmp_path, made, new, again, "after")
    check(*last, again)


def test_only_queries_changed(tmp_path):
    config = make_config(tmp_path / "root")
    truth = make_truth(clustered(100, dim=DIM)[0])
    built = full_build(config, tmp_path, truth, DIM)
    folder, manifest = reindex(config, tmp_path, built, truth, truth, "queries")
    check(folder, manifest, truth)
    assert all(entry.release == built[1].release for entry in manifest.files)
    assert manifest.release != built[1].release
    assert not (folder / ".work").exists()


@pytest.mark.usefixtures("serial")
def test_a_new_value_of_the_routing_column_asks_for_a_new_router(tmp_path):
    router = {"kind": "column", "column": "number"}
    config = make_config(tmp_path / "root", build={"router": router})
    truth = {name: Item(item.vector, item.label, item.number % 3) for name, item in make_truth(clustered(90, dim=DIM)[0]).items()}
    built = full_build(config, tmp_path, truth, DIM)
    known = {**truth, "x": Item(truth["i0"].vector, None, 2)}
    made = reindex(config, tmp_path, built, truth, known, "known")
    check(*made, known)
    before = sorted(path.name for path in (tmp_path / "root" / "releases").iterdir())
    unknown = {**known, "y": Item(truth["i0"].vector, None, 7)}
    answer = reindex(config, tmp_path, made, known, unknown, "unknown")
    assert answer == RetrainNeeded("number has a new value, '7'")
    assert sorted(path.name for path in (tmp_path / "root" / "releases").iterdir()) == before
