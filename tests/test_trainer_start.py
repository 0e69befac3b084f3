"""Fine-tuning: training begins with an earlier encoder's weights, and says where that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_examples import make_examples
from trainer_runs import config_of, digits, record_of, train_here, write_examples

from pipelines.line import Line
from simpipe.config import parse_config
from simpipe.errors import ConfigError, ContractError
from simpipe.training.encoder import EncoderInfo, load_model

# So short a step that weights stay as they were; moving statistics do not depend on it.
STANDING: dict[str, Any] = {"epochs": 1, "steps_per_epoch": 1, "optimizer": "sgd", "learning_rate": 1e-12}


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_examples(tmp_path_factory.mktemp("examples"))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, examples: Path) -> Path:
    folder = tmp_path_factory.mktemp("first")
    train_here(config_of(epochs=1, seed=3), examples, folder)
    return folder


def trainable(folder: Path) -> list[np.ndarray]:
    return [np.asarray(weight) for weight in load_model(folder)[0].trainable_weights]


@pytest.mark.parametrize("recipe", ["supervised", "barlow"])
def test_begins_with_the_weights(recipe: str, tmp_path: Path, examples: Path, first: Path) -> None:
    train_here(config_of(**STANDING, start_from=str(first), recipe=recipe), examples, tmp_path)
    for before, after in zip(trainable(first), trainable(tmp_path), strict=True):
        np.testing.assert_allclose(after, before, atol=1e-7)
    assert record_of(tmp_path)["start_fingerprint"] == EncoderInfo.load(first).fingerprint
    train_here(config_of(**STANDING), examples, tmp_path / "alone")
    assert record_of(tmp_path / "alone")["start_fingerprint"] is None


def test_what_does_not_fit_is_named(tmp_path: Path, examples: Path, first: Path) -> None:
    def fails(problem: str, where: Path = examples, **settings: Any) -> None:
        with pytest.raises(ConfigError, match=problem):
            train_here(config_of(**STANDING, start_from=str(first), **settings), where, tmp_path / "no")

    fails(
        r"(?s)train\.start_from: .* has dim 8, this run's is 16\n.*set train\.encoder\.dim: 8", encoder={"filters": 8, "dim": 16}
    )
    fails(r"has the architecture .*'filters': 8.*, this run's is .*'filters': 4", encoder={"filters": 4, "dim": 8})
    x, y = digits()
    make_examples(tmp_path / "wide", np.repeat(x, 2, axis=2), y)
    fails(r"takes inputs \[8, 8, 1\] of uint8, this run's is \[8, 16, 1\] of uint8", tmp_path / "wide")
    with pytest.raises(ContractError, match="nowhere"):
        train_here(config_of(start_from=str(tmp_path / "nowhere")), examples, tmp_path / "no")


def test_the_step_s_key_is_of_the_weights_not_of_their_place(tmp_path: Path, examples: Path, first: Path) -> None:
    def key(start: Path | None) -> str:
        train = {} if start is None else {"start_from": str(start)}
        line = Line(parse_config({"name": "d", "root": str(tmp_path), "source": "digits", "train": train}))
        folder = line.examples[0]
        if not folder.exists():
            make_examples(folder, *digits())
        return line.encoder[1]

    other = tmp_path / "other"
    train_here(config_of(**STANDING, seed=4), examples, other)
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "encoder.json").write_bytes((first / "encoder.json").read_bytes())
    assert key(first) == key(moved)
    assert len({key(None), key(first), key(other)}) == 3
