"""Training on real digits: it learns, repeats to the bit, and says what is wrong. Kills: test_trainer_resume.py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trainer_runs
from make_examples import make_examples
from trainer_runs import config_of

from simpipe.errors import ConfigError, ContractError, SimpipeError
from simpipe.losses import MultiSimilarityLoss, Pairs
from simpipe.training import recipes, trainer
from simpipe.training.backup import Backup
from simpipe.training.encoder import EncoderInfo, load_model
from simpipe.training.trainer import train


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    return trainer_runs.digits()


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory, digits: tuple[np.ndarray, np.ndarray]) -> Path:
    """Classes 0 to 7 train; 8 and 9 are never seen."""
    folder = tmp_path_factory.mktemp("examples")
    x, y = digits
    make_examples(folder, x, y, split=np.where(y < 8, 0, 1), num_shards=3, train_classes=[str(i) for i in range(8)])
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, examples: Path) -> EncoderInfo:
    return train(config_of(), examples=examples, folder=tmp_path_factory.mktemp("encoder"), key="k")


def test_learns_unseen_classes(tmp_path: Path, examples: Path, digits: tuple[np.ndarray, np.ndarray]) -> None:
    augment = {"rotate": 15, "scale": 0.15, "shear": 10, "translate": 0.1}
    run = config_of(encoder={"filters": 32, "dim": 64}, augment=augment, epochs=2, steps_per_epoch=60)
    info = train(run, examples=examples, folder=tmp_path, key="the key")
    model, loaded = load_model(tmp_path)
    assert loaded == info
    assert (info.key, info.dim, info.distance) == ("the key", 64, "cosine")
    assert info.train_classes == tuple("01234567")
    assert len(info.history["loss"]) == 2
    assert info.metrics == {"loss": info.history["loss"][-1]}
    assert info.training["seed"] == 42
    assert info.training["replicas"] == 1
    assert set(info.training["versions"]) == {"tensorflow", "keras", "numpy"}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["encoder.json", "losses.npy", "train.json", info.model_file]
    )
    x, y = digits
    embeddings = model.encode(x)
    similar = embeddings @ embeddings.T
    np.fill_diagonal(similar, -1)
    right = y[similar.argmax(axis=1)] == y
    assert right.mean() > 0.93
    assert right[y >= 8].mean() > 0.75


def test_repeats_to_the_bit(tmp_path: Path, examples: Path, undisturbed: EncoderInfo) -> None:
    again = train(config_of(), examples=examples, folder=tmp_path, key="k")
    assert again.fingerprint == undisturbed.fingerprint
    assert again.history == undisturbed.history
    other = train(config_of(seed=1, epochs=1), examples=examples, folder=tmp_path / "other", key="k")
    assert other.fingerprint != undisturbed.fingerprint


def test_stopped_before_the_encoder_was_written(
    tmp_path: Path, examples: Path, undisturbed: EncoderInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "save_encoder", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(config_of(), examples=examples, folder=tmp_path, key="k")
    monkeypatch.undo()
    info = train(config_of(), examples=examples, folder=tmp_path, key="k")
    assert (info.fingerprint, info.history) == (undisturbed.fingerprint, undisturbed.history)


def test_state_of_another_run_or_a_damaged_one_is_ignored(
    tmp_path: Path, examples: Path, undisturbed: EncoderInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Backup.save

    def save_and_stop(self: Backup, *args: Any, **kwargs: Any) -> None:
        save(self, *args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(Backup, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train(config_of(learning_rate=0.5), examples=examples, folder=tmp_path, key="k")
    monkeypatch.undo()
    state = tmp_path / ".backup" / "state.npz"
    assert state.exists()
    assert train(config_of(), examples=examples, folder=tmp_path, key="k").fingerprint == undisturbed.fingerprint
    state.parent.mkdir()
    state.write_bytes(b"PK\x03\x04 not a zip")
    assert train(config_of(), examples=examples, folder=tmp_path, key="k").fingerprint == undisturbed.fingerprint


def test_loss_without_a_number(tmp_path: Path, examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(MultiSimilarityLoss):
        def anchor_values(self, pairs: Pairs) -> Any:
            return super().anchor_values(pairs) * float("nan")

    monkeypatch.setattr(recipes, "make_loss", lambda *args, **kwargs: Broken())
    with pytest.raises(SimpipeError, match=r"(?s)loss is nan at step 1\n.*cure: lower train\.learning_rate"):
        train(config_of(), examples=examples, folder=tmp_path, key="k")
    assert not (tmp_path / "encoder.json").exists()


def test_weights_without_a_number(tmp_path: Path, digits: tuple[np.ndarray, np.ndarray]) -> None:
    """Batch norm hides an overflow from the loss."""
    x, y = digits
    make_examples(tmp_path / "examples", x.reshape(len(x), -1) * np.float32(1e30), y, num_shards=2)
    run = config_of(encoder={"architecture": "mlp", "filters": 8}, augment={}, epochs=1)
    with pytest.raises(SimpipeError, match=r"(?s)standardize.*extreme values"):
        train(run, examples=tmp_path / "examples", folder=tmp_path / "encoder", key="k")
    assert not (tmp_path / "encoder" / "encoder.json").exists()


def test_damaged_shard_ends_training_with_its_name(tmp_path: Path, digits: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = digits
    info = make_examples(tmp_path / "examples", x, y, num_shards=2, compression="")
    path = tmp_path / "examples" / info.splits["train"].shards[1].path
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ContractError, match=path.name):
        train(config_of(), examples=tmp_path / "examples", folder=tmp_path / "encoder", key="k")
    assert not (tmp_path / "encoder" / "encoder.json").exists()


def test_vectors(tmp_path: Path, digits: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = digits
    make_examples(tmp_path / "examples", x.reshape(len(x), -1).astype(np.float32), y, num_shards=2)
    mlp = {"encoder": {"architecture": "mlp", "filters": 8, "dim": 8}}
    triplet = {"kind": "triplet", "distance": "squared_euclidean", "margin": 0.2}
    run = config_of(**mlp, loss=triplet, augment={}, epochs=1)
    info = train(run, examples=tmp_path / "examples", folder=tmp_path / "encoder", key="k")
    assert info.distance == "euclidean"
    with pytest.raises(ConfigError, match=r"train\.augment"):
        train(config_of(**mlp), examples=tmp_path / "examples", folder=tmp_path / "other", key="k")
