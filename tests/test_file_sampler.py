"""The sampler over image files, and how an image is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simpipe.errors import SourceError
from simpipe.samplers import MultiShotFileSampler, SamplerError, load_image


def test_files(tmp_path: Path) -> None:
    paths = []
    for row in range(12):
        paths.append(tmp_path / f"{row}.png")
        Image.fromarray(np.full((6 + row % 3, 5, 3), 20 * row, np.uint8)).save(paths[-1])
    y = np.repeat([0, 1, 2], 4)
    sampler = MultiShotFileSampler(paths, y, load_example_fn=lambda path: load_image(path, (4, 3)), classes_per_batch=3, seed=1)
    inputs, labels = sampler[0]
    assert inputs.shape == (6, 4, 3, 3)
    assert inputs.dtype == np.float32
    rows = np.round(inputs[:, 0, 0, 0] * 255 / 20).astype(int)
    assert (y[rows] == labels).all()
    assert sampler.example_shape == (4, 3, 3)
    with pytest.raises(SamplerError, match="different shapes"):
        MultiShotFileSampler(paths, y, classes_per_batch=3, examples_per_class_per_batch=3)[0]
    same = MultiShotFileSampler([str(path) for path in paths[::3]], [0, 0, 1, 1])
    assert same[0][0].shape == (4, 6, 5, 3)


def test_load_image(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "a.jpg")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_allclose(load_image(tmp_path / "a.png"), pixels / 255, atol=1e-6)
    np.testing.assert_allclose(load_image(str(tmp_path / "a.jpg")), np.asarray(Image.open(tmp_path / "a.jpg")) / 255, atol=0.02)
    assert (load_image(tmp_path / "grey.png") == load_image(tmp_path / "grey.png")[..., :1]).all()
    # Enlarged, Lanczos of radius 3 is the same in PIL, given floats.
    planes = [Image.fromarray(pixels[..., c].astype(np.float32)).resize((60, 80), Image.Resampling.LANCZOS) for c in range(3)]
    expected = np.clip(np.stack([np.asarray(plane) for plane in planes], axis=-1) / 255, 0, 1)
    np.testing.assert_allclose(load_image(tmp_path / "a.png", (80, 60)), expected, atol=1e-4)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    for name in ("broken.jpg", "missing.jpg"):
        with pytest.raises(SourceError, match=name):
            load_image(tmp_path / name)
