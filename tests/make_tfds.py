"""Small prepared TFDS data sets without network, for tests: scikit-learn's digits under the names `mnist` and `cifar10`.

`tfds.load(name, data_dir=...)` reads them as it reads the real ones: same version, features, splits and shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

_TEST_PER_CLASS = 30  # digits of each class that only the test split shows


def make_mnist(data_dir: Path | str, *, train_copies: int = 3, test_copies: int = 2) -> None:
    """`mnist` 3.0.1: uint8 [28, 28, 1] and label; each digit comes `*_copies` times, at another place in the frame.

    By default 4,491 train and 600 test examples.
    """
    splits = {}
    for name, (digits, labels) in _digits(train_copies, test_copies).items():
        splits[name] = {"image": _placed(digits, 28)[..., None].astype(np.uint8), "label": labels}
    _store("mnist", "3.0.1", splits, data_dir)


def make_cifar10(data_dir: Path | str, *, train_copies: int = 2, test_copies: int = 4) -> None:
    """`cifar10` 3.0.2: uint8 [32, 32, 3], id and label: digits in a random colour on a random darker ground.

    By default 2,994 train and 1,200 test examples (120 of each class).
    """
    splits = {}
    for name, (digits, labels) in _digits(train_copies, test_copies).items():
        rng = np.random.default_rng(len(labels))
        ink = _placed(digits, 32)[..., None] / 255
        ground, colour = rng.integers(0, 90, (len(ink), 1, 1, 3)), rng.integers(140, 256, (len(ink), 1, 1, 3))
        ids = np.array([f"{name}_{row:05d}" for row in range(len(ink))], object)
        splits[name] = {"id": ids, "image": (ground + ink * (colour - ground)).astype(np.uint8), "label": labels}
    _store("cifar10", "3.0.2", splits, data_dir)


def _digits(train_copies: int, test_copies: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{split: (float [n, 8, 8] in 0..255, int64[n])}, no digit in both."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images, labels = bunch.images * (255 / 16), bunch.target.astype(np.int64)
    order = np.argsort(labels, kind="stable")
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels)) - np.searchsorted(labels[order], labels[order])
    test = rank < _TEST_PER_CLASS
    return {
        "train": (np.tile(images[~test], (train_copies, 1, 1)), np.tile(labels[~test], train_copies)),
        "test": (np.tile(images[test], (test_copies, 1, 1)), np.tile(labels[test], test_copies)),
    }


def _placed(digits: np.ndarray, side: int) -> np.ndarray:
    """The digits three times as large, smoothed, each at a random place of a black frame: float [n, side, side]."""
    large = np.pad(np.kron(digits, np.ones((1, 3, 3))), ((0, 0), (1, 1), (1, 1)))
    rows = (large[:, :-2] + large[:, 1:-1] + large[:, 2:]) / 3
    smooth = (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) / 3
    rng = np.random.default_rng([len(digits), side])
    top, left = rng.integers(0, side - 24 + 1, (2, len(digits), 1, 1))
    frames = np.zeros((len(digits), side, side))
    span = np.arange(24)
    frames[np.arange(len(digits))[:, None, None], top + span[:, None], left + span] = smooth
    return frames


def _store(name: str, version: str, splits: Mapping[str, Mapping[str, np.ndarray]], data_dir: Path | str) -> None:
    import tensorflow_datasets as tfds

    side, channels = next(iter(splits.values()))["image"].shape[2:]
    features = {"image": tfds.features.Image(shape=(side, side, channels)), "label": tfds.features.ClassLabel(num_classes=10)}
    if name == "cifar10":
        features["id"] = tfds.features.Text()

    def examples(columns: Mapping[str, np.ndarray]) -> Iterator[tuple[int, dict[str, object]]]:
        for row in range(len(columns["label"])):
            yield row, {key: values[row] for key, values in columns.items()}

    tfds.disable_progress_bar()
    tfds.dataset_builders.store_as_tfds_dataset(
        name,
        version,
        features=tfds.features.FeaturesDict(features),
        split_datasets={split: examples(columns) for split, columns in splits.items()},
        data_dir=str(data_dir),
    )
