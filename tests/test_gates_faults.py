"""Every gate trips on a planted fault, over releases that the line made; an honest rebuild passes all of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipelines import gate
from pipelines.line import Line
from simpipe import files, releases
from simpipe.errors import ConfigError, GateFailedError
from simpipe.manifest import Manifest
from simpipe.release_facts import draw_sample
from simpipe.verdict import VERDICT_JSON, Verdict

GATES = {
    "encoder": "same",
    "ann_recall": {"min": 0.95, "max_drop": 0.02},
    "metrics": {"label_precision_at_1": {"min": 0.8, "max_drop": 0.05}},
    "cutpoints": [{"name": "optimal", "max_change": 0.3}],
    "items": {"max_drop": 0.2, "max_growth": 0.2},
    "rejected": 0.01,
    "drift": {"sample": 1500, "centroid_cosine": 0.95, "norm": 0.2, "psi": 0.1},
}
pytestmark = pytest.mark.usefixtures("undrawn")
REBUILT = {"router": {"kind": "kmeans", "partitions": 3}, "backend": {"kind": "exact"}, "store_files": 2}


class Made:
    """Configurations over a root that already has a live release, each in a copy of its own."""

    def __init__(self, folder: Path, make) -> None:
        self.folder, self._make = folder, make
        self.source = make(folder).source
        self.gates = {**GATES, "canaries": {"path": str(folder / "canaries.jsonl")}}
        self.vectors, self.ids, self.labels = (np.load(getattr(self.source, name)) for name in ("path", "ids", "labels"))
        rows = [
            {"name": f"id {i}", "vector": self.vectors[i].tolist(), "k": 3, "expect_id": self.ids[i]} for i in range(0, 3000, 60)
        ]
        rows += [
            {"name": f"label {i}", "vector": self.vectors[i].tolist(), "expect_label": self.labels[i]} for i in range(0, 3000, 60)
        ]
        rows += [{"name": "far", "vector": (-self.vectors.mean(axis=0)).tolist(), "expect_none": True}]
        (folder / "canaries.jsonl").write_text("\n".join(map(json.dumps, rows)))
        self.gates["canaries"]["min_share"] = 0.85  # held-out queries are no items
        self.live = self.line(folder / "live")
        self.live.run()

    def line(self, root: Path, **changes) -> Line:
        unneeded = {"evaluate": {"latency_queries": 0}, "calibrate": {"bootstrap": 0}}
        config = self._make(root, **{"gates": self.gates, **unneeded, **changes})
        return Line(config, say=lambda text: None)

    def copy(self, root: Path, *, vectors=None, labels=None, keep=slice(None), **changes) -> Line:
        """A line over a changed source, in a root where the honest release is live."""
        shutil.copytree(self.folder / "live", root)
        source = dict(self.source)
        for name, given, own in (
            ("path", vectors, self.vectors),
            ("labels", labels, self.labels),
            ("ids", None, self.ids),
        ):
            source[name] = str(root / f"{name}.npy")
            np.save(source[name], (own if given is None else given)[keep])
        return self.line(root, source=source, **changes)


@pytest.fixture(scope="module")
def made(vectors_config, tmp_path_factory) -> Made:
    return Made(tmp_path_factory.mktemp("gates"), vectors_config)


@pytest.fixture(scope="module")
def rebuilt(made) -> Path:
    """A root with an honest rebuild, measured and not judged yet."""
    root = made.folder / "rebuilt"
    shutil.copytree(made.folder / "live", root)
    line = made.line(root, build=REBUILT)
    measure(line)
    return root


def measure(line: Line) -> Line:
    for step in (line.embed, line.build, line.calibrate, line.evaluate):
        step()
    return line


def refused(line: Line) -> Verdict:
    """The verdict of a line whose run may not go live; what is live stays as it was."""
    before = (line.root / "live.json").read_bytes()
    with pytest.raises(GateFailedError):
        line.run()
    assert (line.root / "live.json").read_bytes() == before
    folder, manifest = line.release()
    verdict = Verdict.load(releases.verify_file(folder, manifest.file(VERDICT_JSON)))
    assert verdict.against == releases.read_pointer(line.root).release != manifest.release
    return verdict


def of_copy(made: Made, rebuilt: Path, tmp_path: Path) -> tuple[Line, Path, Manifest]:
    shutil.copytree(rebuilt, tmp_path / "r")
    line = made.line(tmp_path / "r", build=REBUILT)
    return line, *line.release()


def test_an_honest_rebuild_passes_every_gate_and_goes_live(made, rebuilt, tmp_path):
    line, _, manifest = of_copy(made, rebuilt, tmp_path)
    verdict = line.gate()
    assert verdict is not None
    assert verdict.failed == ()
    assert all(check.judged for check in verdict.checks), "each one has a limit, and something to compare with"
    drifts = {check.name: check.value for check in verdict.checks if check.name.startswith("drift.")}
    assert drifts == {"drift.centroid_cosine": pytest.approx(1), "drift.norm": 0, "drift.psi": 0}, "the same items"
    assert line.publish().release == manifest.release


def test_the_sample_does_not_depend_on_partitions(made, rebuilt):
    from simpipe import open_release

    live = draw_sample(open_release(made.folder / "live"), 500)
    other = made.line(rebuilt, build=REBUILT).release()[1].release
    np.testing.assert_array_equal(live, draw_sample(open_release(rebuilt, other), 500))
    assert live.shape == (500, 16)


def test_half_the_items_missing(made, tmp_path):
    assert "items.max_drop" in refused(made.copy(tmp_path / "r", keep=slice(0, None, 2))).failed


def test_shuffled_labels(made, tmp_path):
    shuffled = np.random.default_rng(0).permutation(made.labels)
    failed = refused(made.copy(tmp_path / "r", labels=shuffled)).failed
    assert {"metrics.label_precision_at_1.min", "metrics.label_precision_at_1.max_drop", "canaries.min_share"} <= set(failed)


def test_drifted_vectors(made, tmp_path):
    shifted = made.vectors + np.float32(1.5) * np.eye(16, dtype=np.float32)[0]
    verdict = refused(made.copy(tmp_path / "r", vectors=shifted))
    assert {"drift.psi", "drift.centroid_cosine", "drift.norm"} <= set(verdict.failed)


def test_rotated_vectors_that_answer_among_themselves_as_before(made, tmp_path):
    """What a swapped encoder makes: recall and labels are as good as ever, every vector lies elsewhere."""
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(16, 16)))[0].astype(np.float32)
    verdict = refused(made.copy(tmp_path / "r", vectors=made.vectors @ turn))
    assert {"drift.psi", "drift.centroid_cosine", "canaries.min_share"} == set(verdict.failed)


def test_a_swapped_encoder(made, rebuilt, tmp_path):
    line, folder, manifest = of_copy(made, rebuilt, tmp_path)
    manifest.model_copy(update={"encoder": manifest.encoder.model_copy(update={"fingerprint": "e" * 64})}).save(folder)
    verdict = line.gate()
    assert verdict is not None
    assert verdict.failed == ("encoder",)
    skipped = {check.name for check in verdict.checks if not check.judged}
    assert skipped == {"cutpoints.optimal.max_change", "drift.centroid_cosine", "drift.norm", "drift.psi"}


def test_flipped_bytes_of_a_partition(made, rebuilt, tmp_path):
    line, folder, _ = of_copy(made, rebuilt, tmp_path)
    path = folder / "partitions" / "00001" / "vectors.npy"
    data = bytearray(path.read_bytes())
    data[-100] ^= 0xFF
    path.write_bytes(data)
    verdict = line.gate()
    assert verdict is not None
    assert "files" in verdict.failed
    (check,) = [check for check in verdict.checks if check.name == "files"]
    assert "partitions/00001/vectors.npy" in check.reason
    with pytest.raises(releases.ReleaseError, match="SHA-256"):
        line.publish(force=True)


def test_permuted_vectors_under_right_checksums(made, tmp_path):
    shutil.copytree(made.folder / "live", tmp_path / "r")
    line = made.line(tmp_path / "r", build=REBUILT)
    line.embed()
    folder, manifest = line.build()
    permute(folder, manifest)
    assert {"metrics.label_precision_at_1.max_drop", "canaries.min_share"} <= set(refused(line).failed)


def test_permuted_vectors_after_the_release_was_measured(made, rebuilt, tmp_path):
    line, folder, manifest = of_copy(made, rebuilt, tmp_path)
    permute(folder, manifest)
    verdict = line.gate()
    assert verdict is not None
    assert verdict.failed == ("canaries.min_share",), "metrics are those of before, checksums are right"


def permute(folder: Path, manifest: Manifest) -> None:
    names = [f"partitions/{number:05d}/vectors.npy" for number in range(3)]
    for name in names:
        vectors = np.load(folder / name)
        np.save(folder / name, np.random.default_rng(0).permutation(vectors))
    manifest.with_files(folder, names).save(folder)


def test_a_damaged_live_release_does_not_stand_in_the_way(made, rebuilt, tmp_path):
    line, _, manifest = of_copy(made, rebuilt, tmp_path)
    live, _ = releases.open_live(line.root)
    (live / "metrics.json").write_text("{}")
    verdict = line.gate()
    assert verdict is not None
    assert verdict.passed
    assert any("live release cannot be read" in check.reason for check in verdict.checks)
    assert verdict.against == live.name
    assert line.publish().release == manifest.release


# --- force, and the command line -----------------------------------------------------------------------------------


def test_force_is_recorded_in_the_release_and_in_the_pointer(made, rebuilt, tmp_path, capsys):
    from simpipe.cli import main

    line, folder, manifest = of_copy(made, rebuilt, tmp_path)
    config = line.config.model_dump(mode="json")
    config["gates"]["items"]["min"] = 10_000
    (tmp_path / "c.yaml").write_text(json.dumps(config))
    options = ["--config", str(tmp_path / "c.yaml")]
    before = (line.root / "live.json").read_bytes()
    assert main(["gate", *options]) == 4
    assert "items.min" in capsys.readouterr().out
    assert main(["publish", *options]) == 4
    assert main(["publish", *options, "--release", manifest.release]) == 4
    assert "1 of 15 gates failed" in capsys.readouterr().err
    assert (line.root / "live.json").read_bytes() == before
    assert main(["publish", *options, "--force"]) == 0
    verdict = Verdict.load(folder / VERDICT_JSON)
    assert not verdict.passed
    assert verdict.forced is not None
    assert verdict.forced.gates == ("items.min",)
    assert "@" in verdict.forced.by
    assert files.read_json(line.root / "live.json")["forced"] == ["items.min"]
    releases.verify_release(folder, Manifest.load(folder))
    capsys.readouterr()
    manifest_now = (folder / "manifest.json").read_bytes()
    assert main(["gate", *options, "--json", "--release", manifest.release]) == 4
    assert json.loads(capsys.readouterr().out)["checks"]
    assert (folder / "manifest.json").read_bytes() == manifest_now, "a published release is judged, not changed"


def test_a_release_without_a_verdict_is_judged_before_it_is_published_by_name(made, rebuilt, tmp_path):
    line, folder, manifest = of_copy(made, rebuilt, tmp_path)
    assert not manifest.has(VERDICT_JSON)
    pointer = gate.publish_by_name(line.config, line.root, manifest.release)
    assert pointer.release == manifest.release
    assert Manifest.load(folder).has(VERDICT_JSON)
    said: list[str] = []
    Line(line.config, say=said.append).run()
    assert all("skipped" in text for text in said)
    back = releases.rollback(line.root)
    assert gate.publish_by_name(line.config, line.root, manifest.release).previous == back.release


def test_a_verdict_is_made_anew_where_limits_or_the_live_release_changed(made, rebuilt, tmp_path):
    line, *_ = of_copy(made, rebuilt, tmp_path)
    first = line.gate()
    assert line.gate() == first
    changed = made.line(line.root, build=REBUILT, gates={**made.gates, "items": {"min": 10_000}})
    verdict = changed.gate()
    assert verdict is not None
    assert verdict.failed == ("items.min",)
    assert line.gate().passed, "and again with the first limits"
    (line.root / "live.json").unlink()
    alone = line.gate()
    assert alone.against is None
    assert alone.passed


def test_a_mistake_among_the_canaries_is_told_before_anything_runs(made, tmp_path):
    (tmp_path / "c.jsonl").write_text("{")
    line = made.line(tmp_path / "r", gates={"canaries": {"path": str(tmp_path / "c.jsonl")}})
    with pytest.raises(ConfigError, match="line 1: not valid JSON"):
        line.run()
    assert not (tmp_path / "r").exists()
