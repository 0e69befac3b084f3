"""Releases and the pointer: what is published stays as it is; stale, altered and damaged ones are refused or made anew."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from test_line_vectors import items_of, run

import simpipe
from pipelines.line import Line
from simpipe import files, releases
from simpipe.errors import PublishConflictError, ReleaseError
from simpipe.overview import overview

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def made(vectors_config, tmp_path_factory):
    """A root whose line ran; not to be changed."""
    line, _ = run(vectors_config(tmp_path_factory.mktemp("made") / "r"))
    return line.root


@pytest.fixture
def published(made, vectors_config, tmp_path):
    """The line of a copy, at `r`."""
    shutil.copytree(made, tmp_path / "r")
    return Line(vectors_config(tmp_path / "r"), say=lambda text: None)


def test_a_changed_calibration_makes_a_new_release_that_shares_the_partitions(vectors_config, published, tmp_path):
    before = releases.read_pointer(published.root)
    second, said = run(vectors_config(tmp_path / "r", calibrate={"k": 3, "matcher": "match_majority_vote"}))
    after = releases.read_pointer(published.root)
    assert "skipped" in said[1]
    assert "done" in said[2]
    assert after.previous == before.release != after.release
    folder, manifest = second.release()
    assert manifest.parents == (before.release,)
    assert not (folder / "partitions").exists()
    assert items_of(published.root), "opens and verifies"
    assert releases.rollback(published.root).release == before.release
    assert [row["state"] for row in overview(published.root)] == ["previous", "live"]
    _, said = run(vectors_config(tmp_path / "r", calibrate={"k": 3, "matcher": "match_majority_vote"}))
    assert releases.read_pointer(published.root).release == after.release, "the finished release is found and published again"


def test_publish_is_conditional_and_needs_a_finished_release(vectors_config, tmp_path):
    line = Line(vectors_config(tmp_path / "r"), say=lambda text: None)
    line.embed()
    line.build()
    with pytest.raises(ReleaseError, match="calibrate"):
        line.publish()
    with pytest.raises(ReleaseError, match="nothing is published"):
        simpipe.open_release(tmp_path / "r")
    line.calibrate()
    line.evaluate()
    name = line.release()[1].release
    with pytest.raises(PublishConflictError):
        releases.publish(line.root, name, expected="somebody-else")
    releases.publish(line.root, name)
    with pytest.raises(ReleaseError, match="no previous"):
        releases.rollback(line.root)
    with pytest.raises(ReleaseError, match="no such release"):
        releases.publish(line.root, "20200101T000000Z-abcdef")


@pytest.mark.parametrize("victim", ["vectors.npy", "rows.arrow", "router.npz", "cutpoints.json", "manifest.json", "store"])
def test_an_altered_release_is_refused(published, tmp_path, victim):
    folder, _ = published.release()
    path = next(path for path in sorted(folder.rglob("*")) if path.is_file() and victim in path.as_posix())
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if victim != "manifest.json" else data.index(b":")] ^= 1  # the manifest is no JSON any more
    path.write_bytes(bytes(data))

    def use():
        searcher = simpipe.open_release(tmp_path / "r")
        searcher.match(np.ones((1, 16), np.float32))
        searcher.items_of(searcher.partition(0).ids[:40].tolist())

    with pytest.raises(ReleaseError, match=r"SHA-256|altered") as caught:
        use()
    assert path.name in str(caught.value)
    assert caught.value.cure


@pytest.mark.usefixtures("published")
def test_a_stale_calibration_is_neither_evaluated_nor_published(vectors_config, tmp_path):
    other = Line(vectors_config(tmp_path / "r", calibrate={"k": 3, "matcher": "match_majority_vote"}), say=lambda text: None)
    with pytest.raises(ReleaseError, match="`calibrate` has not run with this configuration"):
        other.evaluate()
    other.calibrate()
    with pytest.raises(ReleaseError, match="`evaluate` has not run"):
        other.publish()
    other.evaluate()
    live = other.publish()
    assert simpipe.open_release(tmp_path / "r", live.release).calibration()["matcher"] == "match_majority_vote"


@pytest.mark.usefixtures("published")
def test_other_probes_need_no_new_index(vectors_config, tmp_path):
    line, said = run(vectors_config(tmp_path / "r", search={"probes": 2}))
    state = {text.split()[0]: "skipped" in text for text in said}
    assert state["build"]
    assert not state["calibrate"]
    searcher = simpipe.open_release(line.root)
    searcher.lookup(np.ones((1, 16), np.float32))
    assert len(searcher._partitions) == 2, "one query loads only the partitions that it asks"


def test_a_damaged_release_is_built_anew(vectors_config, published, tmp_path):
    folder, _ = published.release()
    (folder / "partitions" / "00002" / "vectors.npy").unlink()
    again, said = run(vectors_config(tmp_path / "r"))
    assert "done" in said[1]
    assert again.release()[0] != folder
    assert items_of(tmp_path / "r")


@pytest.mark.parametrize("content", ["", "[]", '{"release": 5, "published_at": 1, "manifest_sha256": null}', "{}"])
def test_a_damaged_pointer_is_named_with_a_cure(published, content):
    (published.root / "live.json").write_text(content)
    for use in (lambda: simpipe.open_release(published.root), published.publish, lambda: releases.rollback(published.root)):
        with pytest.raises(ReleaseError, match=r"live\.json: damaged") as caught:
            use()
        assert "delete" in caught.value.cure
    (published.root / "live.json").unlink()
    published.publish()
    assert items_of(published.root)


def test_a_live_release_whose_manifest_was_altered_is_not_called_live(published):
    folder, manifest = published.release()
    with open(folder / "manifest.json", "a") as handle:
        handle.write("\n")
    for use in (published.publish, lambda: releases.publish(published.root, manifest.release)):
        with pytest.raises(ReleaseError, match="altered after it was published"):
            use()


def test_one_damaged_release_does_not_hide_the_others(vectors_config, published, tmp_path):
    damaged = published.release()[0]
    run(vectors_config(tmp_path / "r", build={"router": {"kind": "hash", "partitions": 2}, "backend": {"kind": "exact"}}))
    (damaged / "metrics.json").unlink()
    assert [row["state"].split() for row in overview(published.root)] == [["live"], ["previous", "damaged"]]


def test_what_a_killed_step_left_half_written_goes(vectors_config, tmp_path):
    line = Line(vectors_config(tmp_path / "r"), say=lambda text: None)
    line.embed()
    folder, _ = line.build()
    (folder / f"{files.TMP_PREFIX}1234-cutpoints.json").write_text("{")
    line.calibrate()
    assert not list(folder.rglob(f"{files.TMP_PREFIX}*"))
