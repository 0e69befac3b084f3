"""Quarter turns: whole classes turn together, into classes of their own, as (seed, step) say."""

from __future__ import annotations

import numpy as np
import pytest
from make_examples import make_examples

from simpipe.augmenters.turns import turn_classes
from simpipe.config import parse_config
from simpipe.errors import ConfigError
from simpipe.training.trainer import train


def test_classes_turn_together_into_classes_of_their_own():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (48, 7, 7, 2)).astype(np.uint8)
    labels = np.repeat(rng.permutation(200)[:12], 4).astype(np.int64)
    seen = set()
    for step in range(6):
        turned, named = (tensor.numpy() for tensor in turn_classes(images, labels, seed=3, step=step))
        assert (named // 4 == labels).all()
        for row, turn in enumerate(named % 4):
            assert (turned[row] == np.rot90(images[row], turn)).all()
        assert all(len(set(named[labels == label])) == 1 for label in labels)
        seen |= set((named % 4).tolist())
        again = turn_classes(images, labels, seed=3, step=step)[1].numpy()
        assert (again == named).all()
    assert seen == {0, 1, 2, 3}
    others = [turn_classes(images, labels, seed=seed, step=step)[1].numpy() for seed, step in ((3, 0), (3, 1), (4, 0))]
    assert len({other.tobytes() for other in others}) == 3


def test_training_with_turns(tmp_path):
    """The trainer takes turned classes: it learns, and the encoder says how it was trained."""
    rng = np.random.default_rng(0)
    shapes = (rng.random((4, 8, 8, 1)) > 0.6).astype(np.float32)
    x = np.clip(np.repeat(shapes, 30, axis=0) * 200 + rng.normal(0, 25, (120, 8, 8, 1)), 0, 255).astype(np.uint8)
    make_examples(tmp_path / "examples", x, np.repeat(np.arange(4), 30))
    raw = {
        "name": "t",
        "root": str(tmp_path),
        "source": "digits",
        "train": {
            "encoder": {"filters": 8, "dim": 8},
            "sampler": {"classes_per_batch": 4, "examples_per_class": 4},
            "augment": {"turns": True},
            "epochs": 2,
            "steps_per_epoch": 25,
        },
    }
    info = train(parse_config(raw), examples=tmp_path / "examples", folder=tmp_path / "encoder", key="k")
    assert info.training["augment"]["turns"] is True
    assert info.history["loss"][1] < info.history["loss"][0]


def test_turns_need_squares(tmp_path):
    make_examples(tmp_path / "examples", np.zeros((16, 8, 6, 1), np.uint8), np.repeat(np.arange(4), 4))
    raw = {"name": "t", "root": str(tmp_path), "source": "digits", "train": {"augment": {"turns": True}}}
    raw["train"]["sampler"] = {"classes_per_batch": 4, "examples_per_class": 4}
    with pytest.raises(ConfigError, match="8 x 6"):
        train(parse_config(raw), examples=tmp_path / "examples", folder=tmp_path / "encoder", key="k")
