"""`simpipe reindex`: outcomes, exit codes, what forces more than what changed, and files of changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reindex_model as model
import yaml

import simpipe
from pipelines import reindex
from pipelines.line import Line
from simpipe import files, releases
from simpipe.cli import main
from simpipe.config import Config
from simpipe.errors import ConfigError, ReleaseError

pytestmark = pytest.mark.usefixtures("undrawn")

Catalogue = tuple[Path, model.Truth]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """40 items in a published release that was measured."""
    folder = tmp_path_factory.mktemp("catalogue")
    rng = np.random.default_rng(0)
    truth = {name: model.new_item(rng, 0) for name in model.names()[0][:40]}
    model.write_source(folder / "source", truth)
    line = Line(model.config_of(folder), say=lambda text: None)
    line.embed()
    line.build()
    line.calibrate()
    line.evaluate()
    line.publish()
    return folder, truth


@pytest.fixture
def catalogue(template: Catalogue, tmp_path: Path) -> Catalogue:
    folder, truth = template
    model.copy_of(folder, tmp_path)
    model.write_source(tmp_path / "source", truth)
    return tmp_path, dict(truth)


def run(config: Config, **named: Any) -> reindex.ReindexSummary:
    return reindex.run(config, say=lambda text: None, **named)


def change(folder: Path, truth: model.Truth, count: int = 5) -> model.Truth:
    """Some items changed, one went, two came."""
    rng = np.random.default_rng(7)
    names = model.names()[0]
    truth = truth | {name: model.new_item(rng, 1) for name in [*names[:count], *names[40:42]]}
    del truth[names[20]]
    model.write_source(folder / "source", truth)
    return truth


def with_(config: Config, **parts: Any) -> Config:
    return Config.model_validate({**config.model_dump(mode="json"), **parts})


def live_of(folder: Path) -> str:
    pointer = releases.read_pointer(folder / "root")
    assert pointer is not None
    return pointer.release


def test_publishes_what_changed_and_then_has_nothing_to_do(catalogue: Catalogue) -> None:
    folder, truth = catalogue
    config, before = model.config_of(folder), live_of(folder)
    truth = change(folder, truth)
    summary = run(config)
    assert (summary.outcome, summary.exit_code, summary.base, summary.live) == ("published", 0, before, live_of(folder))
    assert summary.items is not None
    assert summary.items.model_dump() == {"added": 2, "changed": 5, "deleted": 1, "unchanged": 34}
    assert summary.partitions["total"] >= 4
    assert summary.untouched == 1 - summary.partitions["rebuilt"] / summary.partitions["total"]
    model.check_live(folder / "root", truth)
    _, manifest = releases.open_live(folder / "root")
    assert {"build", "calibrate", "evaluate", "gate"} <= set(manifest.steps)
    assert manifest.provenance["reindex"]["base"] == before
    count = len(releases.finished(folder / "root"))
    again = run(config)
    assert (again.outcome, again.exit_code, again.release) == ("unchanged", 0, None)
    assert list(again.seconds) == ["compare"], "the source was not read"
    model.write_source(folder / "source", truth)  # other times, same content
    read = run(config)
    assert (read.outcome, read.items and read.items.unchanged) == ("unchanged", len(truth))
    assert list(run(config).seconds) == ["compare"], "remembered"
    assert len(releases.finished(folder / "root")) == count


def test_queries_alone_make_a_release_with_all_partitions_carried_over(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, truth = catalogue
    items, queries = model.names()
    monkeypatch.setattr(model, "names", lambda: (items, queries[:2]))
    model.write_source(folder / "source", truth)
    summary = run(model.config_of(folder))
    assert summary.queries is not None
    assert (summary.outcome, summary.queries.deleted, summary.untouched) == ("published", 1, 1.0)
    _, manifest = releases.open_live(folder / "root")
    assert all(entry.release for entry in manifest.files if entry.path.startswith("partitions/"))
    model.check_live(folder / "root", truth)


def test_without_publishing(catalogue: Catalogue) -> None:
    folder, truth = catalogue
    before = live_of(folder)
    truth = change(folder, truth)
    summary = run(model.config_of(folder), publish=False)
    assert (summary.outcome, summary.exit_code, live_of(folder)) == ("built", 0, before)
    published = run(model.config_of(folder))
    assert (published.outcome, published.release) == ("published", summary.release), "not built again"
    model.check_live(folder / "root", truth)


def test_a_failed_gate_leaves_live_as_it_is_until_it_is_forced(catalogue: Catalogue, capsys: pytest.CaptureFixture[str]) -> None:
    folder, truth = catalogue
    before = live_of(folder)
    kept = dict(list(truth.items())[:20])
    model.write_source(folder / "source", kept)
    config = with_(model.config_of(folder), gates={"items": {"max_drop": 0.3}})
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)))
    assert main(["reindex", "--config", str(path), "--json"]) == 4
    said = json.loads(capsys.readouterr().out)
    assert (said["outcome"], said["failed"], said["live"], said["exit_code"]) == ("gate_failed", ["items.max_drop"], before, 4)
    assert live_of(folder) == before
    model.check_live(folder / "root", truth)
    assert main(["reindex", "--config", str(path), "--json", "--force"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["outcome"], said["forced"], said["live"]) == ("published", True, live_of(folder))
    pointer = releases.read_pointer(folder / "root")
    assert pointer is not None
    assert pointer.forced == ("items.max_drop",)
    found, manifest = releases.open_live(folder / "root")
    verdict = files.read_json(releases.resolve(found, manifest.file("verdict.json")))
    assert verdict["forced"]["gates"] == ["items.max_drop"]
    model.check_live(folder / "root", kept)


def test_two_at_once(catalogue: Catalogue) -> None:
    folder, truth = catalogue
    change(folder, truth)
    with files.locked(folder / "root" / ".locks" / "reindex"):
        summary = run(model.config_of(folder))
    assert (summary.outcome, summary.exit_code) == ("conflict", 3)
    assert "another re-index" in summary.message
    model.check_live(folder / "root", truth)


def test_another_publish_meanwhile(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, truth = catalogue
    first = change(folder, truth)
    built = run(model.config_of(folder), publish=False)
    assert built.release is not None
    model.write_source(folder / "source", truth | {model.names()[0][50]: model.new_item(np.random.default_rng(1), 2)})

    def publish_other(*found: Any) -> Any:
        releases.publish(folder / "root", str(built.release))
        return found[1], found[2]

    monkeypatch.setattr("pipelines.reindex._Reindex._measure", publish_other)
    summary = run(model.config_of(folder))
    assert (summary.outcome, summary.exit_code, summary.live) == ("conflict", 3, built.release)
    assert "went live meanwhile" in summary.message
    model.check_live(folder / "root", first)


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ({"build": {"router": {"kind": "kmeans", "partitions": 5}}}, "build.router is another"),
        ({"build": {"store_files": 5}}, "build.store_files is another"),
        ({"build": {"storage": "float16"}}, "build.storage is another"),
        ({"source": {"distance": "cosine"}}, "distance euclidean -> cosine"),
        ({"source": {"metadata": []}}, "metadata columns version -> none"),
    ],
)
@pytest.mark.parametrize("items_change", [True, False])
def test_what_forces_more(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch, part: dict[str, Any], reason: str, items_change: bool
) -> None:
    """What is measured of such a release does not depend on why it was built."""
    model.without_measuring(monkeypatch)
    folder, truth = catalogue
    config = model.config_of(folder)
    changed = {name: {**getattr(config, name).model_dump(mode="json"), **value} for name, value in part.items()}
    truth = change(folder, truth) if items_change else truth
    summary = run(with_(config, **changed))
    assert summary.outcome == "published"
    assert summary.reasons == (reason,)
    assert (summary.untouched, summary.partitions["rebuilt"]) == (0.0, summary.partitions["total"])
    searcher = simpipe.open_release(folder / "root", verify=True)
    assert searcher.items_of(sorted(truth)).num_rows == searcher.items == len(truth)
    assert run(with_(config, **changed)).outcome == "unchanged"


def test_deltas(catalogue: Catalogue, tmp_path: Path) -> None:
    folder, truth = catalogue
    names, rng = model.names()[0], np.random.default_rng(3)
    deltas = tmp_path / "deltas"
    upserts = {name: model.new_item(rng, 9) for name in (names[0], names[45])}
    (deltas / "upsert").mkdir(parents=True)
    (deltas / "delete").mkdir()
    model.write_items(list(upserts.items()), deltas / "upsert" / "a.parquet")
    (deltas / "delete" / "a.txt").write_text(f"{names[1]}\nnobody\n")
    summary = run(model.config_of(folder), deltas=str(deltas))
    truth = {name: item for name, item in {**truth, **upserts}.items() if name != names[1]}
    assert summary.items is not None
    assert summary.items.model_dump() == {"added": 1, "changed": 1, "deleted": 1, "unchanged": 38}
    model.check_live(folder / "root", truth)
    assert run(model.config_of(folder), deltas=str(deltas)).outcome == "unchanged"
    source = {**model.config_of(folder).source.model_dump(), "distance": "cosine"}
    with pytest.raises(ConfigError, match="--deltas holds changes only"):
        run(with_(model.config_of(folder), source=source), deltas=str(deltas))


def test_items_as_queries_are_those_of_the_release(catalogue: Catalogue) -> None:
    folder, truth = catalogue
    truth = change(folder, truth)
    measured = {"calibrate": {"queries": "items"}, "evaluate": {"queries": "items", "latency_queries": 0}}
    summary = run(with_(model.config_of(folder), **measured))
    assert summary.outcome == "published"
    found, manifest = releases.open_live(folder / "root")
    metrics = files.read_json(releases.resolve(found, manifest.file("metrics.json")))
    assert metrics["queries"] == len(truth)


def test_what_it_refuses(catalogue: Catalogue, tmp_path: Path) -> None:
    folder, _ = catalogue
    config = model.config_of(folder)
    with pytest.raises(ConfigError, match="representatives"):
        run(with_(config, build={**config.build.model_dump(mode="json"), "representatives": "x"}))
    with pytest.raises(ReleaseError, match="nothing is published"):
        run(with_(config, root=str(tmp_path / "nothing")))


def test_errors_are_json_as_well(catalogue: Catalogue, capsys: pytest.CaptureFixture[str]) -> None:
    folder, truth = catalogue
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump(model.config_of(folder).model_dump(mode="json", exclude_none=True)))
    model.write_source(folder / "source", truth, twice=model.names()[0][2])
    assert main(["reindex", "--config", str(path), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["outcome"], said["exit_code"]) == ("error", 1)
    assert model.names()[0][2] in said["message"]


def test_a_damaged_note_of_the_last_comparison_is_not_believed(catalogue: Catalogue) -> None:
    folder, truth = catalogue
    truth = change(folder, truth)
    (folder / "root" / reindex.SEEN_JSON).write_bytes(b"[")
    assert run(model.config_of(folder)).outcome == "published"
    model.check_live(folder / "root", truth)
