"""Examples a second of the embed step against a bare loop: `tf.data` over the same shards, the same model, no output.

    python benchmarks/embed.py --examples 200000

Both run in this process, one after the other and again in the other order, so that a drift of the machine's speed shows.
The model and its first call are outside the bare loop's time; the embed step is timed whole: graph, model load, Parquet,
checksums and manifest. Prints JSON lines; the last one holds the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from pipelines import embed, shard
from simpipe.config import Config, parse_config
from simpipe.data.examples import DatasetInfo
from simpipe.types import SPLITS


def configuration(folder: Path, filters: int) -> Config:
    return parse_config(
        {
            "name": "bench",
            "root": str(folder),
            "source": {"kind": "npz", "path": str(folder / "x.npz")},
            "shard": {"num_shards": 8, "compression": ""},
            "queries": {"fraction": 0.1},
            "train": {"encoder": {"architecture": "conv4", "filters": filters}},
        }
    )


def bare_loop(encoder: Path, examples: Path, info: DatasetInfo, batch: int) -> float:
    """Seconds for reading, decoding and encoding all examples, dropping the result."""
    import tensorflow as tf

    from simpipe.data.parsing import open_records, parse_batch
    from simpipe.training.encoder import load_model

    model, _ = load_model(encoder)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def encode(serialized: tf.Tensor) -> tf.Tensor:
        return model(parse_batch(serialized, info.input)[2], training=False)

    paths = [path for split in SPLITS for path, _ in info.shards(examples, split)]
    for records in open_records(paths[0], info.compression).batch(batch).take(1):
        encode(records)  # traces and warms up
    started = time.perf_counter()
    count = 0
    for path in paths:
        for records in open_records(path, info.compression).batch(batch).prefetch(4):
            count += len(encode(records).numpy())
    took = time.perf_counter() - started
    assert count == sum(split.num_examples for split in info.splits.values())
    return took


def embed_step(config: Config, examples: Path, encoder: Path, folder: Path) -> float:
    shutil.rmtree(folder, ignore_errors=True)
    started = time.perf_counter()
    embed.run(config, examples=examples, encoder=encoder, folder=folder, key="bench")
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=200_000)
    parser.add_argument("--filters", type=int, default=32)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, size=(options.examples, 28, 28), dtype=np.uint8)
        np.savez(folder / "x.npz", x=images, y=rng.integers(100, size=options.examples))
        config = configuration(folder, options.filters)
        info = shard.run(config, folder=folder / "examples", key="bench")
        encoder = untrained(config, info, folder / "encoder")
        small = embed_start_up(config, folder)
        ratios = []
        for order in (0, 1):
            runs = [
                ("bare_loop", lambda: bare_loop(encoder, folder / "examples", info, config.embed.batch_size)),
                ("embed_step", lambda: embed_step(config, folder / "examples", encoder, folder / "embeddings")),
            ]
            took = {name: run() for name, run in (runs if order == 0 else runs[::-1])}
            ratios.append(took["bare_loop"] / took["embed_step"])
            for name, seconds in took.items():
                print(
                    json.dumps({"what": name, "seconds": round(seconds, 2), "examples_per_s": round(options.examples / seconds)})
                )
            share = small / took["embed_step"]
        print(json.dumps({"what": "start_up", "seconds": round(small, 2), "share_of_embed_step": round(share, 3)}))
        print(
            json.dumps(
                {
                    "what": "ratio",
                    "embed_step_to_bare_loop": round(float(np.median(ratios)), 3),
                    "runs": [round(r, 3) for r in ratios],
                }
            )
        )


def untrained(config: Config, info: DatasetInfo, folder: Path) -> Path:
    """Saves an encoder with random weights: its speed is that of a trained one."""
    from simpipe.architectures import build_encoder
    from simpipe.training.encoder import save_encoder

    folder.mkdir()
    model = build_encoder(info.input, config.train.encoder, seed=1)
    save_encoder(
        model, folder, key="bench", input=info.input, dim=config.train.encoder.dim, distance="cosine",
        train_classes=info.train_classes, training={}, history={}, metrics={},
    )  # fmt: skip
    return folder


def embed_start_up(config: Config, folder: Path) -> float:
    """Seconds that the embed step needs for a handful of examples: imports are done, graph and model are not."""
    images = np.random.default_rng(1).integers(0, 256, size=(64, 28, 28), dtype=np.uint8)
    np.savez(folder / "small.npz", x=images, y=np.arange(64) % 4)
    source = config.source.model_copy(update={"path": str(folder / "small.npz")})
    small = config.model_copy(update={"source": source})
    info = shard.run(small, folder=folder / "small", key="small")
    encoder = untrained(config, info, folder / "small-encoder")
    embed_step(small, folder / "small", encoder, folder / "small-embeddings")
    return embed_step(small, folder / "small", encoder, folder / "small-embeddings")


if __name__ == "__main__":
    main()
