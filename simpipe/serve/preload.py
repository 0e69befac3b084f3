"""What every process of a release needs: imported once by the process that they are forked from.

No thread of ours may run there: a fork copies none, and what it held would stay locked. (One does, of the allocator that pyarrow
brings along; that one sees to forks itself.)
"""

from __future__ import annotations

import contextlib
import os
import signal

# Before NumPy is imported: OpenBLAS starts its threads with it. Searches share out their work by threads of their own.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy  # noqa: F401
import orjson  # noqa: F401
import pyarrow.parquet  # noqa: F401

import simpipe.serve.release_process  # noqa: F401
from simpipe.index.scann_backend import preload as _preload_scann

with contextlib.suppress(ImportError):  # pyarrow imports it with the first conversion, where it is installed
    import pandas  # noqa: F401
with contextlib.suppress(ImportError):  # a release may have another backend
    _preload_scann()
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the server ends its processes when it has answered
