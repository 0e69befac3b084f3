"""Pictures of examples are found by id, whichever split, shard and run holds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simpipe.config import parse_config
from simpipe.data.pictures import fetch_inputs


@pytest.mark.parametrize("compression", ["", "gzip"])
def test_every_example_is_found_as_it_was_written(tmp_path: Path, compression: str) -> None:
    from pipelines import shard

    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (600, 6, 6)).astype(np.uint8)
    y = np.where(np.arange(600) < 400, 0, np.arange(600) % 7)  # class 0 lies in several shards
    ids = np.array([f"picture {row}" for row in range(600)])
    np.savez(tmp_path / "x.npz", x=x, y=y, ids=ids)
    config = parse_config(
        {
            "name": "pictures",
            "root": str(tmp_path / "root"),
            "source": {"kind": "npz", "path": str(tmp_path / "x.npz"), "ids": "ids"},
            "classes": {"train": ["0-3"]},
            "shard": {"num_shards": 3, "compression": compression, "class_run": 50},
        }
    )
    info = shard.run(config, folder=tmp_path / "examples", key="key")
    labels = dict(zip(ids.tolist(), y.astype(str).tolist(), strict=True))
    half = dict(list(labels.items())[::2])
    for known in (labels, half, None):
        found = fetch_inputs(tmp_path / "examples", info, [*ids.tolist(), "picture 0"], known)
        assert found.keys() == labels.keys()
        for name, picture in zip(ids.tolist(), x, strict=True):
            np.testing.assert_array_equal(found[name][..., 0], picture)
        plain = fetch_inputs(tmp_path / "examples", info, [*ids.tolist(), "picture 0"], known, plain=True)
        assert plain.keys() == labels.keys()
        for name in labels:
            np.testing.assert_array_equal(plain[name], found[name])
    few = {"picture 5": "0", "picture 599": labels["picture 599"], "nobody": "0", "stranger": "no such class", "plain": None}
    assert fetch_inputs(tmp_path / "examples", info, list(few), few).keys() == {"picture 5", "picture 599"}
