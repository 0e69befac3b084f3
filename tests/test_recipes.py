"""What is trained: every loss by its kind, and recipes without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from make_examples import make_examples
from trainer_runs import config_of, digits, losses_of, record_of, train_here, write_examples

from simpipe import losses
from simpipe.architectures import build_encoder
from simpipe.config import parse_config
from simpipe.config.losses import Loss
from simpipe.config.recipes import Recipe
from simpipe.data.examples import DatasetInfo
from simpipe.errors import ConfigError
from simpipe.training.encoder import load_model
from simpipe.training.losses import MAKERS, make_loss
from simpipe.training.recipes import VIEW_LOSSES

# By kind: the class, settings that are no defaults, and what the loss says of itself then.
CASES: dict[str, tuple[type, dict[str, Any], dict[str, Any]]] = {
    "triplet": (
        losses.TripletLoss,
        {"positive_mining": "easy", "negative_mining": "hard", "margin": 0.3},
        {"positive_mining_strategy": "easy", "negative_mining_strategy": "hard", "margin": 0.3},
    ),
    "pn": (losses.PNLoss, {"negative_mining": "easy", "margin": 0.2}, {"negative_mining_strategy": "easy", "margin": 0.2}),
    "multi_similarity": (
        losses.MultiSimilarityLoss,
        {"alpha": 3, "beta": 30, "epsilon": 0.2, "lmda": 0.4, "center": 0.9},
        {"alpha": 3, "beta": 30, "epsilon": 0.2, "lmda": 0.4, "center": 0.9},
    ),
    "circle": (
        losses.CircleLoss,
        {"gamma": 64, "margin": 0.25, "formula": "paper"},
        {"gamma": 64, "margin": 0.25, "formula": "paper"},
    ),
    "soft_nearest_neighbor": (losses.SoftNearestNeighborLoss, {"temperature": 0.5}, {"temperature": 0.5}),
    "lifted_structure": (
        losses.LiftedStructLoss,
        {"positive_mining": "all", "margin": 0.8},
        {"positive_mining_strategy": "all", "margin": 0.8, "formula": "paper"},
    ),
    "supcon": (losses.SupConLoss, {"temperature": 0.2}, {"temperature": 0.2}),
    "contrastive": (losses.ContrastiveLoss, {"margin": 0.9, "positive_margin": 0.1}, {"margin": 0.9, "positive_margin": 0.1}),
    "proxy_anchor": (
        losses.ProxyAnchorLoss,
        {"margin": 0.2, "alpha": 16, "num_sampled": 3},
        {"num_classes": 12, "margin": 0.2, "alpha": 16, "num_sampled": 3, "seed": 5},
    ),
    "arcface": (
        losses.ArcFaceLoss,
        {"margin": 0.4, "scale": 30, "num_sampled": 50},
        {"num_classes": 12, "margin": 0.4, "scale": 30, "num_sampled": None, "seed": 5},
    ),
    "xbm": (
        losses.XBM,
        {"loss": {"kind": "supcon", "temperature": 0.3}, "memory_size": 77, "warmup_steps": 9},
        {"memory_size": 77, "warmup_steps": 9},
    ),
}


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_examples(tmp_path_factory.mktemp("examples"))


@pytest.mark.parametrize("kind", CASES)
def test_a_loss_is_as_configured(kind: str) -> None:
    expected, given, own = CASES[kind]
    loss = make_loss(config_of(loss={"kind": kind, **given}).train.loss, num_classes=12, seed=5)
    assert type(loss) is expected
    assert loss.get_config().items() >= own.items()
    default = config_of(loss={"kind": kind}).train.loss
    assert type(make_loss(default, num_classes=12, seed=5)) is expected
    if kind == "xbm":
        assert loss.loss.temperature == 0.3


def test_every_kind_is_made_and_tested() -> None:
    kinds = {get_args(part.model_fields["kind"].annotation)[0] for part in get_args(get_args(Loss)[0])}
    assert kinds == set(MAKERS) == set(CASES)
    recipes = {get_args(part.model_fields["kind"].annotation)[0] for part in get_args(get_args(Recipe)[0])}
    assert recipes == {"supervised", *VIEW_LOSSES}


@pytest.mark.parametrize("kind", ["circle", "proxy_anchor", "soft_nearest_neighbor"])
def test_it_is_the_loss_that_is_trained(kind: str, tmp_path: Path, examples: Path) -> None:
    """The first loss of a run is that of the initial encoder's embeddings of the first batch."""
    from simpipe.samplers.shard_sampler import ShardSampler

    config = config_of(loss={"kind": kind}, epochs=1, steps_per_epoch=1, augment={})
    info = train_here(config, examples, tmp_path)
    assert info.distance == ("euclidean" if kind == "soft_nearest_neighbor" else "cosine")
    sampler = ShardSampler(examples, config.train.sampler, seed=config.seed)
    inputs, labels = next(sampler.batches())
    encoder: Any = build_encoder(sampler.info.input, config.train.encoder, seed=config.seed)
    loss = make_loss(config.train.loss, num_classes=10, seed=config.seed)
    if hasattr(loss, "build"):
        loss.build(8)
    expected = float(np.asarray(loss(labels, encoder(inputs, training=True))))
    np.testing.assert_allclose(losses_of(tmp_path), [expected], rtol=1e-4)


def neighbor_accuracy(vectors: np.ndarray, labels: np.ndarray) -> float:
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -2)
    return float((labels[similar.argmax(axis=1)] == labels).mean())


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine tenths of the digits lost their labels."""
    folder = tmp_path_factory.mktemp("unlabelled")
    x, y = digits()
    make_examples(folder, x, y, num_shards=3, unlabelled=np.arange(len(x)) % 10 > 0)
    return folder


@pytest.mark.parametrize("kind", VIEW_LOSSES)
def test_views_alone_teach_to_tell_classes_apart(kind: str, tmp_path: Path, unlabelled: Path) -> None:
    """On shards that are mostly without labels: the nearest neighbor's class is right more often than untrained."""
    run: dict[str, Any] = {"encoder": {"filters": 8, "dim": 16}, "epochs": 2, "steps_per_epoch": 40, "learning_rate": 3e-3}
    run["augment"] = {"rotate": 15, "scale": 0.2, "shear": 10, "translate": 0.15}
    config = config_of(**run, recipe=kind, sampler={"classes_per_batch": 8, "examples_per_class": 8})
    info = train_here(config, unlabelled, tmp_path)
    x, y = digits()
    spec = DatasetInfo.load(unlabelled).input
    before = neighbor_accuracy(build_encoder(spec, config.train.encoder, seed=config.seed).encode(x), y)
    vectors = load_model(tmp_path)[0].encode(x)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    after = neighbor_accuracy(vectors, y)
    assert after > before + 0.02
    assert (info.dim, info.distance) == (16, "cosine")
    sampled = record_of(tmp_path)["sampler"]
    assert (sampled["classes"], sampled["examples"]) == (1, 1797)


def test_views_by_crops(tmp_path: Path, examples: Path) -> None:
    recipe = {"kind": "simclr", "views": "simclr", "flip": False, "jitter": 0.4, "projector_dim": 32}
    run: dict[str, Any] = {"augment": {}, "epochs": 2, "steps_per_epoch": 25}
    run["sampler"] = {"classes_per_batch": 8, "examples_per_class": 8}
    train_here(config_of(**run, recipe=recipe), examples, tmp_path)
    curve = losses_of(tmp_path)
    assert curve[-10:].mean() < curve[:10].mean()


def test_what_a_recipe_cannot_do(tmp_path: Path, examples: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)train\.recipe\.views: `affine`.*views: simclr"):
        train_here(config_of(recipe="vicreg", augment={}), examples, tmp_path / "no")
    x, y = digits()
    make_examples(tmp_path / "columns", x.reshape(len(x), -1).astype(np.float32), y)
    columns = config_of(recipe="vicreg", encoder={"architecture": "mlp"})
    with pytest.raises(ConfigError, match=r"train\.recipe\.kind: vicreg makes views of images"):
        train_here(columns, tmp_path / "columns", tmp_path / "no")
    raw = {"name": "d", "root": "r", "source": "digits"}
    for wrong, said in (
        ({"recipe": "simclr", "augment": {"turns": True}}, r"leave out augment\.turns"),
        ({"recipe": "simclr", "sampler": {"hard_classes": {}}}, r"leave out sampler\.hard_classes"),
        ({"sampler": {"ignore_labels": True}}, r"sampler\.ignore_labels"),
        ({"weight_decay": 0.1}, "use `adamw`"),
    ):
        with pytest.raises(ConfigError, match=said):
            parse_config({**raw, "train": wrong})
