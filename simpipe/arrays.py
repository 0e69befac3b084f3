"""NumPy files, read or memory-mapped by several threads."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

# `np.load` parses a file's header with `ast.literal_eval`, which in CPython before 3.11.9 may raise SystemError where two threads
# do so at once (cpython gh-106905). Headers are read in a moment.
_ONE_AT_A_TIME = threading.Lock()


def load_array(path: str | Path, *, mapped: bool = False) -> np.ndarray:
    """An `.npy` file without pickled objects; `mapped`: its pages are read when they are touched.

    Raises:
      OSError, ValueError, EOFError: it is missing, damaged, or empty and to be mapped.
    """
    with _ONE_AT_A_TIME:
        return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
