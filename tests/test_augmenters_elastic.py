"""The elastic change against a plain loop over pixels, and what it promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from simpipe.augmenters.elastic import GRID, random_elastic


def by_hand(images: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Bilinear reading at shifted places, clipped to the image: one pixel at a time."""
    out = np.empty(images.shape, np.float64)
    _, height, width, _ = images.shape
    for place in np.ndindex(*images.shape[:3]):
        row = np.clip(place[1] + shifts[place][0], 0, height - 1)
        column = np.clip(place[2] + shifts[place][1], 0, width - 1)
        r, c = min(int(row), max(height - 2, 0)), min(int(column), max(width - 2, 0))
        dr, dc = row - r, column - c
        below, beside = min(r + 1, height - 1), min(c + 1, width - 1)
        image = images[place[0]].astype(np.float64)
        upper = image[r, c] * (1 - dc) + image[r, beside] * dc
        out[place] = upper * (1 - dr) + (image[below, c] * (1 - dc) + image[below, beside] * dc) * dr
    return out


@pytest.mark.parametrize("shape", [(3, 9, 7, 1), (2, 6, 8, 3), (2, 1, 5, 1)])
def test_equals_a_loop_over_pixels(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    seen: list[Any] = []
    resize = tf.image.resize
    monkeypatch.setattr(tf.image, "resize", lambda *args, **kwargs: seen.append(resize(*args, **kwargs)) or seen[-1])
    moved = random_elastic(tf.constant(images), 0.1, seed=3, step=5)
    shifts = seen[0].numpy()
    assert shifts.shape == (*shape[:3], 2)
    np.testing.assert_allclose(moved, by_hand(images, shifts), atol=2e-5)


def test_strength_is_the_deviation_of_the_shifts(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    resize = tf.image.resize
    monkeypatch.setattr(
        tf.image, "resize", lambda values, *args, **kwargs: drawn.append(values) or resize(values, *args, **kwargs)
    )
    random_elastic(tf.zeros((400, 20, 40, 1)), 0.05, seed=1, step=0)
    assert drawn[0].shape == (400, GRID, GRID, 2)
    np.testing.assert_allclose(np.std(drawn[0], axis=(0, 1, 2)), [1.0, 2.0], rtol=0.05)


def test_follows_from_seed_and_step() -> None:
    images = tf.constant(np.random.default_rng(0).integers(0, 256, (4, 12, 12, 1)).astype(np.uint8))
    one, again = (random_elastic(images, 0.05, seed=1, step=2) for _ in range(2))
    assert one.dtype == tf.uint8
    assert (one.numpy() == again.numpy()).all()
    assert (random_elastic(images, 0.05, seed=1, step=3).numpy() != one.numpy()).any()
    assert (random_elastic(images, 0.05, seed=2, step=2).numpy() != one.numpy()).any()
    assert (random_elastic(images, 0.0, seed=1, step=2).numpy() == images.numpy()).all()
