"""Trains the encoder on the `train` split.

python -m pipelines.train --config configs/digits.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from simpipe.config import Config

if TYPE_CHECKING:
    from simpipe.training.encoder import EncoderInfo


def run(config: Config, *, examples: Path, folder: Path, key: str) -> EncoderInfo:
    """See `simpipe.training.trainer.train`."""
    from simpipe.training.trainer import train

    return train(config, examples=examples, folder=folder, key=key)


if __name__ == "__main__":
    from simpipe.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
