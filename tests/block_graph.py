"""A graph of big blocks, for runners whose workers are other processes: these import it by name."""

from __future__ import annotations

from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.pvalue import AsSingleton

from simpipe.beam.io import Outcome, WriteSummary
from simpipe.types import Counts

ROWS, DIM = 4096, 64  # 1 MiB of float32


def _block(number: int) -> tuple[int, np.ndarray]:
    return number, np.full((ROWS, DIM), number, np.float32)


def _rows(block: tuple[int, np.ndarray]) -> int:
    return len(block[1])


def _outcome(block: tuple[int, np.ndarray], expected: int) -> Outcome:
    number, values = block
    good = int((values == number).all(axis=1).sum())
    return Outcome(Counts(len(values), good, len(values) - good), ({"path": f"{number:05d}", "expected": expected},))


def build(pipeline: beam.Pipeline, blocks: int, path: str) -> None:
    """Blocks wait for a side input made of themselves, so that they are kept and then sent to the workers all together."""
    made: Any = pipeline | "Numbers" >> beam.Create(range(blocks)) | "Spread" >> beam.Reshuffle() | "Block" >> beam.Map(_block)
    total = made | "Rows" >> beam.Map(_rows) | "Sum" >> beam.CombineGlobally(sum)
    _ = made | "Check" >> beam.Map(_outcome, expected=AsSingleton(total)) | "Summary" >> WriteSummary(path)
