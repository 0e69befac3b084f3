"""Items of a release by id, and a sample of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from simpipe.arrow import pc
from simpipe.index.rows import Rows
from simpipe.index.searcher import Searcher
from simpipe.serve.blocks import shown

_BLOCK = 1 << 16
_OWN = ("id", "label", "partition")


def item_records(searcher: Searcher, ids: list[str]) -> list[dict[str, Any]]:
    """Id, label, partition and metadata of items, in the order of `ids`.

    Raises:
      QueryError: an id is not in the release.
    """
    if not ids:
        return []
    table = searcher.items_of(ids)
    more = table.select([name for name in shown(table.schema) if name not in _OWN]).to_pylist()
    lines = zip(*(table.column(name).to_pylist() for name in _OWN), more, strict=True)
    return [{"id": name, "label": label, "partition": part, "metadata": rest} for name, label, part, rest in lines]


def sample_ids(searcher: Searcher, count: int, label: str | None = None) -> list[str]:
    """The `count` items with the lowest hashes of their ids, in that order; reads no more rows than it takes to find them.

    Args:
      label: only items of this label.
    """
    ties, ids = [np.zeros(0, np.uint64)], []
    for number in range(len(searcher.manifest.partitions)):
        rows, hidden = searcher.rows(number), searcher.hidden(number)
        chosen = _first(rows, count, label, hidden)
        if len(chosen):
            ties.append(rows.tie[chosen])
            ids.append(rows.take_ids(chosen))
    if not ids:
        return []
    tie, names = np.concatenate(ties), np.concatenate(ids)
    ordered = names[np.lexsort((names.astype(str), tie))]
    return list(dict.fromkeys(ordered.tolist()))[:count]  # a spilled item is in two partitions


def _first(rows: Rows, count: int, label: str | None, hidden: np.ndarray | None) -> np.ndarray:
    """The first `count` rows that answer, of a label: int64[m]."""
    found: list[np.ndarray] = []
    for first in range(0, len(rows), _BLOCK):
        if sum(map(len, found)) >= count:
            break
        stop = min(first + (_BLOCK if label is not None or hidden is not None else count), len(rows))
        here = np.arange(first, stop)
        if label is not None:
            here = here[_of_label(rows.labels.slice(first, stop - first), label)]
        found.append(here if hidden is None else np.setdiff1d(here, hidden, assume_unique=True))
    return np.concatenate(found)[:count] if found else np.zeros(0, np.int64)


def _of_label(labels: pa.Array, label: str) -> np.ndarray:
    """bool[n]: which rows are of a label."""
    if pa.types.is_dictionary(labels.type):
        code = pc.index(labels.dictionary, pa.scalar(label, labels.dictionary.type)).as_py()
        return pc.fill_null(pc.equal(labels.indices, code), False).to_numpy(zero_copy_only=False)
    return pc.fill_null(pc.equal(labels, pa.scalar(label, labels.type)), False).to_numpy(zero_copy_only=False)
