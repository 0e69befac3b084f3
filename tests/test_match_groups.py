"""Match applies a calibration as it was made: cutpoints of groups, further matchers, probabilities, earlier records."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import clustered
from release_maker import RELEASE, make_release

from simpipe import cli, files, releases
from simpipe.calibration import PairCounts, calibrate
from simpipe.errors import QueryError, ReleaseError
from simpipe.index.router import Router
from simpipe.index.searcher import Searcher, open_release
from simpipe.manifest import Manifest
from simpipe.matchers import match_labels
from simpipe.probability import fit_probability
from simpipe.types import Matches, Neighbors, keep_where

ITEMS, _ = clustered(400, dim=4)
QUERIES, _ = clustered(150, dim=4, seed=3)
TRUTH = np.array([f"l{row % 5}" for row in range(150)], object)
OLD = ("matcher", "k", "cutpoints")  # of a record, before there was more


def record_of(neighbors: Neighbors, matcher: str, k: int) -> dict[str, Any]:
    """A matcher's part of `cutpoints.json`."""
    labels, distances = match_labels(neighbors.first(k), matcher)
    pairs = PairCounts.of(distances, np.asarray(labels == TRUTH, bool))
    fitted = fit_probability(pairs, method="isotonic")
    assert fitted is not None
    # A round number of the middle, and one that the last bit of a distance decides.
    middle = float(np.sort(distances)[75])
    cutpoints = {**calibrate(pairs).cutpoints, "middle": {"name": "middle", "distance": middle}}
    return {"matcher": matcher, "k": k, "cutpoints": cutpoints, "probability": fitted.to_json()}


@pytest.fixture(scope="module")
def first_root(tmp_path_factory) -> Path:
    """A release of 400 items in three partitions, calibrated at depth 5, without cutpoints of groups."""
    root = tmp_path_factory.mktemp("match")
    make_release(root, ITEMS, Router(3))
    folder = releases.releases_folder(root) / RELEASE
    found = Searcher(folder, Manifest.load(folder)).lookup(QUERIES, 6).first(5)
    record = {**record_of(found, "match_nearest", 1), "depth": 5, "metric": "f1", "by": None}
    write(folder, {**record, "matchers": {"match_majority_vote@5": record_of(found, "match_majority_vote", 5)}})
    return root


def limits_of(matches: Matches) -> np.ndarray:
    assert matches.limits is not None
    return matches.limits


def write(folder: Path, record: dict[str, Any], table: pa.Table | None = None) -> None:
    names = ["cutpoints.json"]
    files.write_json(folder / names[0], record)
    if table is not None:
        names.append("cutpoints_by.parquet")
        pq.write_table(table, folder / names[1])
    Manifest.load(folder).with_files(folder, names, calibrate="key").save(folder)


@pytest.fixture
def make(first_root, tmp_path):
    """A copy of the release with cutpoints of groups, as `by` says."""

    def made(by: str | None, rows: Sequence[tuple[str, str, float]] = (), **changes: Any) -> Path:
        folder = tmp_path / RELEASE
        shutil.copytree(releases.releases_folder(first_root) / RELEASE, folder)
        record = files.read_json(folder / "cutpoints.json")
        if by is not None:
            record["by"] = {"column": by, "groups": len(rows), "file": "cutpoints_by.parquet", "min_queries": 50}
        columns = list(zip(*rows, strict=True)) if rows else [[], [], []]
        kinds = {"value": pa.string(), "cutpoint": pa.string(), "distance": pa.float32()}
        table = pa.table({name: pa.array(column, kind) for (name, kind), column in zip(kinds.items(), columns, strict=True)})
        write(folder, {**record, **changes}, table if by is not None else None)
        return folder

    return made


@pytest.fixture
def searcher(first_root) -> Searcher:
    return open_release(first_root / "releases" / RELEASE)


def test_the_cutpoint_itself_is_near_and_the_next_float_is_not(searcher):
    nearest = searcher.lookup(QUERIES, 1)
    matches = searcher.match(QUERIES, "middle")
    limit = np.float32(searcher.cutpoints["middle"]["distance"])
    assert limit in matches.distances
    np.testing.assert_array_equal(matches.distances, nearest.distances[:, 0])
    assert matches.labels.tolist() == [
        label if distance <= limit else None
        for label, distance in zip(nearest.labels[:, 0], nearest.distances[:, 0], strict=True)
    ]
    below = float(np.nextafter(limit, np.float32(0)))
    searcher.calibrated = {**searcher.calibration(), "cutpoints": {"middle": {"distance": below}}}
    closer = searcher.match(QUERIES, "middle")
    at = np.flatnonzero(matches.distances == limit)
    assert (closer.labels[at] == None).all()  # noqa: E711
    assert (limits_of(matches) == limit).all()
    assert limits_of(matches).dtype == matches.distances.dtype == np.float32


def test_at_every_cutpoint_match_accepts_what_calibration_counted(searcher):
    for name, cut in searcher.cutpoints.items():
        if name == "middle":
            continue
        matches = searcher.match(QUERIES, name)
        kept = matches.distances <= matches.limits
        assert cut["precision"] == (matches.labels[kept] == TRUTH[kept]).mean()


@pytest.mark.parametrize("own", [False, True])
def test_neighbors_are_searched_as_deep_as_in_calibration(searcher, monkeypatch, own):
    asked = []
    fan_out = searcher._fan_out
    monkeypatch.setattr(searcher, "_fan_out", lambda queries, k, *rest: asked.append(k) or fan_out(queries, k, *rest))
    ids = [f"i{row}" for row in range(20)]
    matches = searcher.match(ITEMS[:20], query_ids=ids if own else None)
    assert asked == [6]
    assert matches.neighbors.ids.shape == (20, 5)
    assert (matches.distances > 0).all() == own
    assert own != (matches.neighbors.ids[:, 0] == np.array(ids, object)).all()


def test_a_further_matcher_looks_at_its_own_k(searcher):
    matches = searcher.match(QUERIES, "middle", matcher="match_majority_vote@5")
    labels, distances = match_labels(searcher.lookup(QUERIES, 5), "match_majority_vote")
    np.testing.assert_array_equal(matches.distances, distances)
    limit = np.float32(searcher.calibration()["matchers"]["match_majority_vote@5"]["cutpoints"]["middle"]["distance"])
    assert matches.labels.tolist() == [x if d <= limit else None for x, d in zip(labels, distances, strict=True)]
    first, named = searcher.match(QUERIES), searcher.match(QUERIES, matcher="match_nearest@1")
    assert named.labels.tolist() == first.labels.tolist()
    with pytest.raises(QueryError, match="there are: match_nearest@1, match_majority_vote@5"):
        searcher.match(QUERIES, matcher="match_majority_vote@3")
    with pytest.raises(QueryError, match="no cutpoint 'f1>=2'\n  cure: there are: optimal, middle"):
        searcher.match(QUERIES, "f1>=2", matcher="match_majority_vote@5")


def test_the_second_half_alone_gives_the_same(searcher):
    found = searcher.lookup(QUERIES, searcher.rules.depth + 1)
    for matcher in (None, "match_majority_vote@5"):
        one = searcher.match(QUERIES, "middle", matcher=matcher)
        other = searcher.match_found(found, "middle", matcher=matcher)
        for name in ("labels", "distances", "probabilities", "limits"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_probability_is_that_of_the_derived_label(searcher):
    matches = searcher.match(QUERIES, "middle")
    labels, distances = match_labels(searcher.lookup(QUERIES, 1), "match_nearest")
    pairs = PairCounts.of(distances, np.asarray(labels == TRUTH, bool))
    fitted = fit_probability(pairs, method="isotonic")
    assert fitted is not None
    unlabelled = np.array([label is None for label in labels])
    assert unlabelled.any()
    assert matches.probabilities is not None
    np.testing.assert_array_equal(matches.probabilities, np.where(unlabelled, 0, fitted.of(distances)))
    refused = (matches.distances > limits_of(matches)) & ~unlabelled
    assert (matches.probabilities[refused] > 0).any(), "also where the label was not kept"
    searcher.calibrated = {**searcher.calibration(), "probability": None}
    assert searcher.match(QUERIES).probabilities is None, "another calibration, another rule"


def test_by_label_the_group_is_the_derived_label(make):
    rows = [("l1", "middle", 0.0), ("l2", "middle", 9.0), ("l1", "optimal", 0.5), ("l3", "optimal", 0.25)]
    searcher = open_release(make("label", rows))
    nearest = searcher.lookup(QUERIES, 1)
    overall = np.float32(searcher.cutpoints["middle"]["distance"])
    own = {"l1": np.float32(0), "l2": np.float32(9)}
    expected = [own.get(label, overall) for label in nearest.labels[:, 0]]
    matches = searcher.match(QUERIES, "middle", by_group=True)
    assert limits_of(matches).tolist() == expected
    kept = nearest.distances[:, 0] <= np.array(expected)
    assert matches.labels.tolist() == keep_where(nearest.labels[:, 0], kept).tolist()
    assert set(matches.labels) >= {"l2", "l3", None}
    assert "l1" not in set(matches.labels)
    assert (limits_of(searcher.match(QUERIES, "middle")) == overall).all(), "only on request"
    with pytest.raises(QueryError, match="leave out the group"):
        searcher.match(QUERIES, groups="l1")
    with pytest.raises(QueryError, match="are of matcher match_nearest@1"):
        searcher.match(QUERIES, by_group=True, matcher="match_majority_vote@5")


def test_by_a_metadata_column_the_group_is_the_querys(make):
    searcher = open_release(make("hand", [("left", "middle", 0.125), ("right", "middle", 0.375), ("7", "middle", 1.0)]))
    overall = np.float32(searcher.cutpoints["middle"]["distance"])
    groups = ["left", "right", None, "elsewhere", "left"] * 30
    own = {"left": 0.125, "right": 0.375}
    matches = searcher.match(QUERIES, "middle", groups=groups)
    assert limits_of(matches).tolist() == [own.get(str(group), float(overall)) for group in groups]
    assert matches.labels.tolist() == searcher.match(QUERIES, "middle", by_group=True, groups=groups).labels.tolist()
    assert (limits_of(searcher.match(QUERIES, "middle", groups="right")) == 0.375).all()
    assert (limits_of(searcher.match(QUERIES, "middle", groups=[7] * 150)) == 1.0).all(), "values are compared as text"
    assert (
        limits_of(searcher.match(QUERIES, "optimal", groups="right")) == np.float32(searcher.cutpoints["optimal"]["distance"])
    ).all()
    with pytest.raises(QueryError, match="a value of hand\n  cure: there are: 7, left, right"):
        searcher.match(QUERIES, by_group=True)
    with pytest.raises(QueryError, match="2 groups for 150 queries"):
        searcher.match(QUERIES, groups=["left", "right"])


def test_no_group_has_enough_queries(make):
    searcher = open_release(make("label"))
    assert searcher.match(QUERIES, by_group=True).labels.tolist() == searcher.match(QUERIES).labels.tolist()


def test_without_cutpoints_of_groups_they_are_refused(searcher):
    for how in ({"by_group": True}, {"groups": "left"}):
        with pytest.raises(QueryError, match=r"has no cutpoints by group\n  cure: set calibrate.by"):
            searcher.match(QUERIES, **how)


def test_an_altered_table_of_groups_is_refused(make):
    folder = make("hand", [("left", "middle", 0.125)])
    path = folder / "cutpoints_by.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    searcher = open_release(folder)
    searcher.match(QUERIES)
    with pytest.raises(ReleaseError, match=r"cutpoints_by\.parquet"):
        searcher.match(QUERIES, groups="left")


def test_a_record_of_an_earlier_version(searcher, first_root):
    now = searcher.match(QUERIES, "middle")
    searcher.calibrated = {name: value for name, value in searcher.calibration().items() if name in OLD}
    then = searcher.match(QUERIES, "middle")
    assert then.labels.tolist() == now.labels.tolist()
    assert then.neighbors.ids.shape == (150, 1)
    assert then.probabilities is None
    with pytest.raises(QueryError, match=r"there are: match_nearest@1$"):
        searcher.match(QUERIES, matcher="match_majority_vote@5")


def told(capsys, folder: Path, *options: str) -> str:
    code = cli.main(["match", "--root", str(folder), *options])
    out = capsys.readouterr()
    return out.out + out.err if code == 0 else f"{code}: {out.err}"


def test_the_command_line(make, tmp_path, capsys):
    folder = make("hand", [("left", "middle", 9.0)])
    np.save(tmp_path / "q.npy", QUERIES[1:3])
    searcher = open_release(folder)
    matches = searcher.match(QUERIES[1:3], "middle")
    assert matches.probabilities is not None
    ask = ("--vectors", str(tmp_path / "q.npy"), "--cutpoint", "middle")
    for row, line in enumerate(line for line in told(capsys, folder, *ask).splitlines() if "match" in line):
        label, distance, limit = matches.labels[row], matches.distances[row], limits_of(matches)[row]
        said, sign = (f"match: {label}", "<=") if distance <= limit else ("no match", ">")
        probability = f"probability {matches.probabilities[row]:.3f}"
        assert line == f"{said}  (distance {distance:.4f} {sign} cutpoint middle {limit:.4f}, {probability})"
    assert "<= cutpoint middle 9.0000 of group left, prob" in told(capsys, folder, *ask, "--group", "left")
    assert ", group up has none of its own, prob" in told(capsys, folder, *ask, "--group", "up")
    shown = json.loads(told(capsys, folder, *ask, "--json", "--matcher", "match_majority_vote@5"))["results"][0]["match"]
    vote = searcher.match(QUERIES[1:2], "middle", matcher="match_majority_vote@5")
    assert vote.probabilities is not None
    assert shown["matcher"] == "match_majority_vote@5"
    assert (shown["distance"], shown["cutpoint_distance"]) == (vote.distances[0], limits_of(vote)[0])
    assert shown["probability"] == vote.probabilities[0]
    for options, text in (
        (("--matcher", "other@5"), "there are: match_nearest@1, match_majority_vote@5"),
        (("--by-label",), "a value of hand\n  cure: there are: left"),
    ):
        assert text in told(capsys, folder, *ask, *options)


def test_the_command_line_by_label(make, tmp_path, capsys):
    folder = make("label", [(f"l{i}", "middle", 8.5) for i in range(5)])
    row = np.flatnonzero(open_release(folder).lookup(QUERIES, 1).labels[:, 0] != None)[:1]  # noqa: E711
    np.save(tmp_path / "q.npy", QUERIES[row])
    ask = ("--vectors", str(tmp_path / "q.npy"), "--cutpoint", "middle")
    assert "<= cutpoint middle 8.5000, prob" in told(capsys, folder, *ask, "--by-label")
    assert "cutpoint middle 8.5000" not in told(capsys, folder, *ask)
