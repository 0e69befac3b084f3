"""Hidden rows: those of a partition that do not answer any more, while its files stay as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from simpipe import files
from simpipe.arrays import load_array
from simpipe.errors import ContractError


def hidden_file(partition: int) -> str:
    """`hidden/00003.npy`, relative to the release: rows of a partition that do not answer any more."""
    return f"hidden/{partition:05d}.npy"


def write_hidden(rows: np.ndarray, path: Path) -> None:
    """Writes hidden rows int[h], ascending, as int32."""
    with files.replacing(path) as temporary, open(temporary, "wb") as handle:
        np.save(handle, rows.astype(np.int32), allow_pickle=False)


def read_hidden(path: Path, *, hidden: int, rows: int) -> np.ndarray:
    """Reads what `write_hidden` wrote: int64[hidden].

    Args:
      path: of a file that was verified. hidden: how many it has to hold. rows: of the partition.

    Raises:
      ContractError: they are not rows of that partition, or not so many.
    """
    try:
        found = load_array(path)
    except (OSError, ValueError, EOFError) as error:
        raise ContractError(f"{path}: cannot be read ({error})", "build the release again") from None
    good = found.dtype == np.int32 and found.shape == (hidden,) and (np.diff(found) > 0).all()
    if not good or (hidden and not 0 <= found[0] <= found[-1] < rows):
        raise ContractError(f"{path}: not {hidden} ascending rows below {rows}", "build the release again")
    return found.astype(np.int64)
