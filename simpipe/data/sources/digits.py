"""scikit-learn's bundled handwritten digits: 1,797 images of 8x8, labels "0" to "9"."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np
import pyarrow as pa

from simpipe import files
from simpipe.config.models import DigitsSource
from simpipe.data.examples import InputSpec
from simpipe.data.sources.base import IMAGE, SourceBlock, as_binary, numbered, row_blocks, sift, table_schema
from simpipe.types import Reject


@functools.cache
def _load() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return np.rint(np.asarray(images) * (255 / 16)).astype(np.uint8), np.asarray(labels)


class Digits:
    """Ids `digits-00000` to `digits-01796`; values 0 to 16 are stretched to 0 to 255."""

    input = InputSpec(name=IMAGE, shape=(8, 8, 1), dtype="uint8", encoding="raw")
    metadata: tuple[pa.Field, ...] = ()

    def __init__(self, config: DigitsSource) -> None:
        self.config = config

    def blocks(self, rows: int) -> list[SourceBlock]:
        return row_blocks("digits", rows, len(_load()[0]))

    def read(self, block: SourceBlock) -> tuple[pa.Table, list[Reject]]:
        images, labels = (array[block.start : block.stop] for array in _load())
        numbers = np.arange(block.start, block.start + len(images))
        columns = [
            numbered("digits-", numbers, 5),
            pa.array(labels.astype(str)),
            as_binary(images),
            numbered("digits row ", numbers),
        ]
        return sift(pa.Table.from_arrays(columns, schema=table_schema(self.input)))


def fingerprint(config: DigitsSource) -> dict[str, str]:
    """The SHA-256 of scikit-learn's file."""
    spec = importlib.util.find_spec("sklearn")
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz" if spec and spec.origin else Path()
    if path.is_file():
        return {"sha256": files.sha256_file(path)}
    import sklearn

    return {"sklearn": sklearn.__version__}
