"""Fan out of a block of queries to partitions in threads, and the merge of what comes back."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from simpipe.index.merge import merge_lines, nearest_rows, stack_lines
from simpipe.index.partitions import Partition
from simpipe.index.rows import ROW_BITS, Rows, same_ids, ties_of
from simpipe.index.setting import SearchSetting

Task = tuple[int, np.ndarray]
Result = tuple[Rows, np.ndarray, np.ndarray]
_ALONE = 64  # pairs of query and partition below which threads cost more than they bring
_LEAST = 512  # queries of a task: libraries answer large blocks at less CPU a query


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
      setting, exact: see `Partition.candidates`.
      copies: an item may lie in several partitions.
    """
    tasks = _tasks(asked)
    threads, several = 1, int(asked.sum()) >= _ALONE or exact or not all(ready(number) for number, _ in tasks)
    if several and len(tasks) == 1 and not partition(tasks[0][0]).takes_several:
        threads = processors()
    elif several:
        tasks = _split(tasks)
    ask = functools.partial(_ask, queries, k, partition, setting, exact, threads)
    done = _in_threads(ask, tasks) if several and len(tasks) > 1 else list(map(ask, tasks))
    if not done:
        return Answered(np.full((len(queries), k), np.inf, np.float32), np.full((len(queries), k), -1, np.int64), {})
    # From here on one pass over all partitions' lines: with many of them and few queries, calls cost more than numbers.
    numbers = np.repeat(np.array([number for number, _ in tasks], np.int64), [len(asking) for _, asking in tasks])
    found, rows = stack_lines([found for _, found, _ in done]), stack_lines([rows for _, _, rows in done])
    distances, rows = nearest_rows(found, rows, k)
    place = np.where(rows < 0, -1, rows | (numbers[:, None] << ROW_BITS))
    tables = {number: result[0] for (number, _), result in zip(tasks, done, strict=True)}
    distances, place = merge_lines(
        np.concatenate([asking for _, asking in tasks]),
        distances,
        place,
        len(queries),
        k,
        tie=lambda lines: ties_of(tables, place[lines]),
        same=functools.partial(same_ids, tables) if copies else None,
        copies=copies,
    )
    return Answered(distances, place, tables)


def _in_threads(ask: Callable[[Task], Result], tasks: list[Task]) -> list[Result]:
    """Results in the order of the tasks. Each thread takes the next task when it is done with one."""
    left = iter(list(enumerate(tasks)))

    def work(_: int) -> list[tuple[int, Result]]:
        return [(index, ask(task)) for index, task in left]

    workers = min(processors(), len(tasks))
    done = dict(pair for pairs in _pool(os.getpid()).map(work, range(workers)) for pair in pairs)
    return [done[index] for index in range(len(tasks))]


def _tasks(asked: np.ndarray) -> list[Task]:
    """Partitions that are asked, and the queries that ask each."""
    if asked.shape[1] == 1 and asked.all():
        return [(0, np.arange(len(asked)))] if len(asked) else []
    numbers, queries = np.nonzero(asked.T)
    bounds = np.searchsorted(numbers, np.arange(asked.shape[1] + 1)).tolist()
    spans = zip(range(asked.shape[1]), bounds, bounds[1:], strict=False)
    return [(number, queries[first:last]) for number, first, last in spans if last > first]


def _split(tasks: list[Task]) -> list[Task]:
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
    task: Task,
) -> Result:
    number, asking = task
    part = partition(number)
    mine = queries if len(asking) == len(queries) else queries[asking]
    return part.rows, *part.candidates(mine, k, exact=exact, setting=setting, threads=threads)
