"""The sampler over catalogue data sets, on small ones prepared without network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from simpipe.errors import SourceError
from simpipe.samplers import SamplerError, TFDatasetMultiShotMemorySampler

pytest.importorskip("tensorflow_datasets")

import tensorflow_datasets as tfds
from make_tfds import make_cifar10, make_mnist


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tfds")
    make_mnist(folder, train_copies=1, test_copies=1)
    make_cifar10(folder, train_copies=1, test_copies=4)
    return folder


def loaded(data_dir: Path, name: str, *splits: str) -> tuple[np.ndarray, np.ndarray]:
    parts = [next(iter(tfds.load(name, split=split, data_dir=str(data_dir)).batch(10_000))) for split in splits]
    return np.concatenate([part["image"] for part in parts]), np.concatenate([part["label"] for part in parts])


def as_pairs(x: np.ndarray, y: np.ndarray) -> list[tuple[bytes, int]]:
    return sorted((image.tobytes(), int(label)) for image, label in zip(x, y, strict=True))


def test_the_readme_call(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    sampler = TFDatasetMultiShotMemorySampler(dataset_name="mnist", classes_per_batch=10)
    x, y = sampler.get_slice()
    assert as_pairs(x, y) == as_pairs(*loaded(data_dir, "mnist", "train", "test"))
    assert sampler.example_shape == (28, 28, 1)
    assert len(sampler) == 1000
    bx, by = sampler[0]
    assert bx.shape == (20, 28, 28, 1)
    assert bx.dtype == np.uint8
    assert sorted(by.tolist()) == sorted([*range(10)] * 2)
    sx, sy = sampler.get_slice(0, 100)
    assert (sx.shape, sy.shape) == ((100, 28, 28, 1), (100,))
    assert len(set(sy.tolist())) == 10


def test_the_walkthrough_calls(data_dir: Path) -> None:
    train = TFDatasetMultiShotMemorySampler(
        "cifar10",
        classes_per_batch=3,
        splits="train",
        steps_per_epoch=4000,
        examples_per_class_per_batch=8,
        class_list=[7, 2, 5],
        data_dir=data_dir,
    )
    x, y = loaded(data_dir, "cifar10", "train")
    wanted = np.isin(y, [2, 5, 7])
    assert as_pairs(*train.get_slice()) == as_pairs(x[wanted], y[wanted])
    assert sorted(train[3999][1].tolist()) == [2] * 8 + [5] * 8 + [7] * 8
    test = TFDatasetMultiShotMemorySampler(
        "cifar10", classes_per_batch=10, splits="test", total_examples_per_class=100, data_dir=data_dir
    )
    assert np.bincount(test.get_slice()[1]).tolist() == [100] * 10


@pytest.mark.parametrize("traced", [True, False])
def test_preprocess(data_dir: Path, traced: bool) -> None:
    def in_graph(x, y):
        return tf.image.resize(tf.cast(x, tf.float32), (8, 8)) / 255, y * 2

    def in_numpy(x, y):
        return x.numpy()[::4, ::4].astype(np.float32) / 255, y.numpy() * 2

    sampler = TFDatasetMultiShotMemorySampler(
        "mnist",
        2,
        splits=["train[:40]", "test[:20]"],
        preprocess_fn=in_graph if traced else in_numpy,
        class_list=[0, 6, 12],
        data_dir=data_dir,
        seed=1,
    )
    x, y = sampler.get_slice()
    assert x.shape[1:] == ((8, 8, 1) if traced else (7, 7, 1))
    assert 0 < x.max() <= 1
    _, labels = loaded(data_dir, "mnist", "train[:40]", "test[:20]")
    assert sorted(y.tolist()) == sorted((labels[np.isin(labels, [0, 3, 6])] * 2).tolist())


def test_mistakes_are_named(data_dir: Path) -> None:
    def sampler(name: str = "mnist", **arguments: object) -> TFDatasetMultiShotMemorySampler:
        return TFDatasetMultiShotMemorySampler(name, 2, **{"data_dir": data_dir, **arguments})  # type: ignore[arg-type]

    with pytest.raises(SamplerError, match=r"x_key 'picture' is no feature of mnist[^$]*'image', 'label'"):
        sampler(x_key="picture")
    with pytest.raises(SamplerError, match="y_key 'id' is no feature"):
        sampler(y_key="id")
    with pytest.raises(SamplerError, match=r"splits \['dev'\] of mnist[^$]*'test', 'train'"):
        sampler(splits="dev")
    with pytest.raises(SamplerError, match="no examples of the wanted classes"):
        sampler(class_list=[77])
    with pytest.raises(SamplerError, match="have no examples: 77"):
        sampler(class_list=[3, 77])
    with pytest.raises(SamplerError, match="differ in shape"):
        sampler(preprocess_fn=lambda x, y: (tf.zeros((y + 1,)), y))
    with pytest.raises(SourceError, match=r"'no_such_data' cannot be read[^$]*cure: check the name"):
        sampler("no_such_data")


def test_data_that_are_not_prepared(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        SourceError, match=r"'fashion_mnist' is not prepared under [^$]*cure: name the data_dir \(or TFDS_DATA_DIR\)"
    ):
        TFDatasetMultiShotMemorySampler("fashion_mnist", 2, data_dir=data_dir, download=False)

    def no_network(builder: object) -> None:
        raise ConnectionError("Failed to resolve 'somewhere'")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", no_network)
    with pytest.raises(
        SourceError, match=r"ConnectionError: Failed to resolve[^$]*prepare it elsewhere with tfds.load\('fashion_mnist'"
    ):
        TFDatasetMultiShotMemorySampler("fashion_mnist", 2, data_dir=data_dir)
