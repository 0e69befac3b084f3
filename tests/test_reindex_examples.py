"""`simpipe reindex` of a line with an encoder: nothing is trained, only what changed goes through the encoder."""

from __future__ import annotations

import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from test_changes_examples import WEIGHTS, Rows, config_of, make_rows, present_in, write_rows

import simpipe
from pipelines import build, calibrate, embed, evaluate, gate, reindex, shard
from simpipe import releases
from simpipe.config import Config
from simpipe.embeddings import EmbeddingsInfo
from simpipe.errors import ConfigError
from simpipe.training.encoder import save_encoder

BEFORE = make_rows(120)
MEASURE = {"evaluate": {"latency_queries": 0, "map_at_r": False}, "calibrate": {"bootstrap": 0}}


def encoder(root: Path, name: str, weights: np.ndarray) -> Path:
    """An encoder of one matrix, for the examples that lie under the root."""
    info = shard.run(config_of(root, root / "x.parquet"), folder=root / "examples" / "base", key="base")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, use_bias=False)])
    model.set_weights([weights])
    fields = {"dim": 2, "distance": "euclidean", "train_classes": ("0",), "training": {}, "history": {}, "metrics": {}}
    save_encoder(model, root / "encoders" / name, key=name, input=info.input, **fields)
    return root / "encoders" / name


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("line")
    config = config_of(root, write_rows(root / "x.parquet", BEFORE), **MEASURE)
    folder = encoder(root, "tiny", WEIGHTS)
    vectors = root / "embeddings" / ("b" * 12)
    embed.run(config, examples=root / "examples" / "base", encoder=folder, folder=vectors, key="b" * 64)
    release, manifest = build.run(config, root=root, embeddings=vectors, encoder=folder, key="built")
    release, manifest = calibrate.run(config, release=release, embeddings=vectors, key="measured")
    release, manifest = evaluate.run(config, release=release, embeddings=vectors, key="measured")
    gate.publish(root, *gate.judged(config, root, release, manifest))
    return root


@pytest.fixture
def line(template: Path, tmp_path: Path) -> tuple[Path, Config]:
    shutil.copytree(template, tmp_path / "root")
    root = tmp_path / "root"
    return root, config_of(root, root / "x.parquet", **MEASURE)


def check(root: Path, rows: Rows, weights: np.ndarray) -> None:
    items, _ = present_in(rows)
    with simpipe.open_release(root, verify=True) as searcher:
        assert searcher.items == len(items)
        names = sorted(items)
        wanted = np.array([items[name][1] for name in names], np.float32) @ weights
        np.testing.assert_allclose(searcher.vectors_of(names), wanted, rtol=1e-6)
        table = searcher.items_of(names)
        assert table.column("label").to_pylist() == [items[name][0] for name in names]
        assert table.column("note").to_pylist() == [items[name][2] for name in names]


def test_only_what_changed_goes_through_the_live_encoder(line: tuple[Path, Config]) -> None:
    root, config = line
    rows = {**BEFORE, **make_rows(3, seed=5), **make_rows(4, seed=6, prefix="new")}
    del rows["x50"]
    write_rows(root / "x.parquet", rows)
    summary = reindex.run(config, say=lambda text: None)
    assert (summary.outcome, summary.reasons) == ("published", ())
    check(root, rows, WEIGHTS)
    _, manifest = releases.open_live(root)
    made = EmbeddingsInfo.load(root / "embeddings" / manifest.provenance["embeddings"][:12])
    assert summary.items is not None
    changed = summary.items.added + summary.items.changed
    assert 0 < sum(file.rows for file in made.of_splits("train", "index")) == changed < 10
    assert manifest.has("canaries.npz"), "inputs that the encoder is checked with are carried over"
    assert list(reindex.run(config, say=lambda text: None).seconds) == ["compare"]


def test_another_encoder_embeds_everything_anew(line: tuple[Path, Config], tmp_path: Path) -> None:
    root, config = line
    weights = np.array([[0, 1], [1, 0], [1, 2]], np.float32)
    folder = encoder(root, "other", weights)
    given = config.model_copy(update={"reindex": config.reindex.model_copy(update={"encoder": str(folder)})})
    summary = reindex.run(given, say=lambda text: None)
    assert summary.outcome == "published"
    assert [reason.split()[0] for reason in summary.reasons] == ["encoder"]
    check(root, BEFORE, weights)
    assert reindex.run(given, say=lambda text: None).outcome == "unchanged"
    outside = config.model_copy(update={"reindex": config.reindex.model_copy(update={"encoder": str(tmp_path / "elsewhere")})})
    with pytest.raises(ConfigError, match="is not under"):
        reindex.run(outside, say=lambda text: None)


def test_changes_in_a_folder(line: tuple[Path, Config], tmp_path: Path) -> None:
    root, config = line
    deltas = tmp_path / "deltas"
    new = {**make_rows(2, seed=9), **make_rows(2, seed=8, prefix="new")}
    write_rows(deltas / "upsert" / "a.parquet", new)
    (deltas / "delete").mkdir()
    (deltas / "delete" / "ids.txt").write_text("x60\nx61\n")
    summary = reindex.run(config, deltas=str(deltas), say=lambda text: None)
    assert summary.outcome == "published"
    rows = {**BEFORE, **new}
    del rows["x60"], rows["x61"]
    check(root, rows, WEIGHTS)
