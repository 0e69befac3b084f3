"""A few raw inputs with their embeddings, kept beside the vectors: whoever opens the encoder checks that it still embeds alike.

The fingerprint tells one model from another. It cannot tell that another version of a library, or another machine, makes
something else of the same weights.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from simpipe import files
from simpipe.data.examples import DatasetInfo
from simpipe.embeddings import EmbeddingsFile, vectors_of
from simpipe.errors import ContractError, IncompatibleError
from simpipe.ids import hash_ids

if TYPE_CHECKING:
    from simpipe.index.searcher import Searcher

CANARIES_NPZ = "canaries.npz"
COUNT = 8
# Float noise of machines: products in TF32 differ by 5e-4 of a value. Another model's embeddings differ by about their length.
TOLERANCE = 1e-2


@dataclass(frozen=True)
class EncoderCanaries:
    """What an encoder made of some inputs.

    Attributes:
      encoder: its fingerprint. ids: str[n], of the examples.
      inputs: [n, *shape] as the encoder reads them. embeddings: float32[n, dim].
    """

    encoder: str
    ids: np.ndarray
    inputs: np.ndarray
    embeddings: np.ndarray

    def save(self, path: Path) -> None:
        with files.replacing(path) as temporary, open(temporary, "wb") as handle:
            np.savez(handle, encoder=np.array(self.encoder), ids=self.ids, inputs=self.inputs, embeddings=self.embeddings)

    @classmethod
    def load(cls, path: Path) -> EncoderCanaries:
        """Reads what `save` wrote.

        Raises:
          ContractError: it is something else.
        """
        try:
            with np.load(path, allow_pickle=False) as held:
                return cls(str(held["encoder"]), held["ids"], held["inputs"], held["embeddings"])
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise ContractError(f"{path}: no inputs with embeddings ({error})", "run `simpipe embed` again") from None

    def check(self, model: Any) -> None:
        """Embeds the inputs again.

        Raises:
          IncompatibleError: an embedding is further from the one that is kept than TOLERANCE times its length.
        """
        again = np.asarray(model(self.inputs, training=False), np.float32)
        if again.shape != self.embeddings.shape:
            apart = f"dim {again.shape[-1]} instead of {self.embeddings.shape[-1]}"
        else:
            distance = np.linalg.norm(again - self.embeddings, axis=1) / np.linalg.norm(self.embeddings, axis=1)
            if (distance <= TOLERANCE).all():
                return
            worst = int(np.argmax(np.nan_to_num(distance, nan=np.inf)))
            apart = f"that of {self.ids[worst]} is {distance[worst]:.3g} of its length away, {TOLERANCE:g} is noise"
        raise IncompatibleError(
            f"encoder {self.encoder[:12]} does not embed as it did when the items were embedded: {apart}",
            "use the versions of TensorFlow and Keras that embedded the items, or embed and build again",
        )


def check_canaries(searcher: Searcher, model: Any) -> bool:
    """Checks that an opened encoder embeds as the one that embedded a release's items.

    Args:
      searcher: of the release. model: raw inputs in, embeddings out.

    Returns:
      Whether the release keeps inputs to check with.

    Raises:
      IncompatibleError: it does not. ReleaseError: the release's file was altered.
    """
    if not searcher.manifest.has(CANARIES_NPZ):
        return False
    EncoderCanaries.load(searcher.file(CANARIES_NPZ)).check(model)
    return True


def choose(embeddings: Path, listed: list[EmbeddingsFile], count: int = COUNT) -> dict[str, np.ndarray]:
    """Examples to keep, by the hash of their ids: those with the lowest hashes in the first file that has rows.

    Args:
      embeddings: the data set. listed: its files. count: at most so many.

    Returns:
      Their embeddings, float32[dim], by id.
    """
    file = next((file for file in sorted(listed, key=lambda file: file.path) if file.rows), None)
    if file is None:
        return {}
    path = files.inside(embeddings, file.path)
    ids = pq.read_table(path, columns=["id"]).column("id")
    rows = np.argsort(hash_ids(ids), kind="stable")[:count]
    names = ids.take(rows).to_pylist()
    table = pq.read_table(path, columns=["id", "embedding"], filters=[("id", "in", names)])
    return dict(zip(table.column("id").to_pylist(), vectors_of(table), strict=True))


def keep(vectors: Mapping[str, np.ndarray], examples: Path, info: DatasetInfo, *, encoder: str, path: Path) -> None:
    """Writes examples with their embeddings. Imports TensorFlow.

    Args:
      vectors: from `choose`. examples, info: the data set that holds them. encoder: fingerprint. path: where to.

    Raises:
      ContractError: an example is gone.
    """
    from simpipe.data.pictures import fetch_inputs

    inputs = fetch_inputs(examples, info, list(vectors))
    ids = sorted(vectors)
    missing = [name for name in ids if name not in inputs]
    if missing:
        raise ContractError(f"{examples}: no example {missing[0]!r}, which was embedded", "run `simpipe shard` again")
    kept = (np.stack([inputs[name] for name in ids]), np.stack([vectors[name] for name in ids]))
    EncoderCanaries(encoder, np.array(ids, str), *kept).save(path)
