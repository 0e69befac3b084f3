"""Fan out of a block of queries to partitions in threads, and the merge of what comes back."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from simpipe.index.merge import Found, merge_found
from simpipe.index.partitions import Partition
from simpipe.index.rows import Rows, place_of, same_ids
from simpipe.index.setting import SearchSetting

_ALONE = 64  # pairs of query and partition below which threads cost more than they bring
_LEAST = 128  # queries of a task


@dataclass(frozen=True)
class Answered:
    """Distances float32[n, k] and places int64[n, k] of candidates, nearest first, and the tables that name them."""

    distances: np.ndarray
    place: np.ndarray
    tables: Mapping[int, Rows]


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    """Threads of this process (none survive a fork)."""
    del process
    return ThreadPoolExecutor(processors(), thread_name_prefix="simpipe-search")


def fan_out(
    queries: np.ndarray,
    k: int,
    asked: np.ndarray,
    partition: Callable[[int], Partition],
    *,
    setting: SearchSetting,
    exact: bool = False,
    copies: bool = True,
    ready: Callable[[int], bool] = lambda number: True,
) -> Answered:
    """The k nearest items over the partitions that each query asks.

    Args:
      queries: float32[n, dim], prepared.
      asked: bool[n, partitions].
      partition: loads a partition, or gives it at once where `ready`.
      setting, exact: see `Partition.find`.
      copies: an item may lie in several partitions.
    """
    tasks = _tasks(asked)
    threads = 1
    if int(asked.sum()) < _ALONE and not exact and all(ready(number) for number, _ in tasks):
        run: Callable[..., Iterable[tuple[int, Rows, Found]]] = map
    else:
        run = _pool(os.getpid()).map
        if len(tasks) == 1 and not partition(tasks[0][0]).takes_several:
            threads = processors()
        else:
            tasks = _split(tasks)
    ask = functools.partial(_ask, queries, k, partition, setting, exact, threads)
    done = list(run(ask, tasks))
    tables = {number: rows for number, rows, _ in done}
    same = functools.partial(same_ids, tables) if copies else None
    distances, place = merge_found([found for _, _, found in done], len(queries), k, same=same, copies=copies)
    return Answered(distances, place, tables)


def _tasks(asked: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Partitions that are asked, and the queries that ask each."""
    if asked.shape[1] == 1 and asked.all():
        return [(0, np.arange(len(asked)))] if len(asked) else []
    numbers, queries = np.nonzero(asked.T)
    bounds = np.searchsorted(numbers, np.arange(asked.shape[1] + 1)).tolist()
    spans = zip(range(asked.shape[1]), bounds, bounds[1:], strict=False)
    return [(number, queries[first:last]) for number, first, last in spans if last > first]


def _split(tasks: list[tuple[int, np.ndarray]]) -> list[tuple[int, np.ndarray]]:
    """The same work in pieces for all processors, where there are fewer partitions than these."""
    pieces = -(-processors() // max(len(tasks), 1))
    if pieces == 1:
        return tasks
    return [
        (number, part)
        for number, queries in tasks
        for part in np.array_split(queries, max(1, min(pieces, len(queries) // _LEAST)))
    ]


def _ask(
    queries: np.ndarray,
    k: int,
    partition: Callable[[int], Partition],
    setting: SearchSetting,
    exact: bool,
    threads: int,
    task: tuple[int, np.ndarray],
) -> tuple[int, Rows, Found]:
    number, asking = task
    part = partition(number)
    mine = queries if len(asking) == len(queries) else queries[asking]
    distances, rows = part.find(mine, k, exact=exact, setting=setting, threads=threads)
    return number, part.rows, Found(asking, distances, place_of(number, rows), lambda lines: part.tie_of(rows[lines]))
