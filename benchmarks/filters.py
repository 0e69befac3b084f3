"""Filters that return k: recall against exact filtered search, time against unfiltered search, and which way was taken.

    python -m benchmarks.filters [--n 200000] [--data medium] [--variant auto-4] [--block 1000] [--scratch FOLDER]
    python -m benchmarks.filters --data hard --variant auto-16
    python -m benchmarks.filters --variant auto@nmslib

Columns are planted (see `filter_data`): `lot` is independent of the vectors, `shelf` goes by cluster, `rack` is half of each.
Filters fit 0.5, 0.05, 0.005 and 0.0005 of the items. Queries are fresh and asked in blocks; filters and unfiltered search take
turns in one run, time is CPU time of all threads, and medians of the rounds are printed. The first round pays for reading columns
and for the comparison with exact scans, and is printed apart. JSON lines:

- `unfiltered`: microseconds a query, and recall@10.
- `filter`: recall@10 against exact filtered search, `short`: queries that got fewer than k although k exist, microseconds a query
  of the first round and of later ones, `times`: the latter over unfiltered search, and how the last block was answered.
- `bars`: whether every recall is at least 0.95 and no query got fewer than k.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.filter_data import COLUMNS, STEPS, attributes, filtered_release
from benchmarks.releases import Data, exact, recall, workplace
from simpipe.index.searcher import Searcher, open_release

K = 10
SHARES = (0.5, 0.05, 0.005, 0.0005)
_BAR = 0.95


class Case:
    """A filter (None: no filter) with its times and its last answers."""

    def __init__(self, data: Data, column: str, share: float, values: np.ndarray | None) -> None:
        self.column, self.share, self.us = column, share, []
        limit = round(share * STEPS)
        self.filter = None if values is None else {column: {"lt": limit}}
        self.rows = np.arange(len(data.items)) if values is None else np.flatnonzero(values < limit)
        self.truth = self.rows[exact(data.items[self.rows], data.queries, min(K, len(self.rows)))]

    def run(self, searcher: Searcher, queries: np.ndarray, block: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Ids object[q, K], and how the last block was answered; adds its time."""
        about: dict[str, Any] = {}
        found = []
        began = time.process_time()
        for first in range(0, len(queries), block):
            part = queries[first : first + block]
            if self.filter is None:
                found.append(searcher.lookup(part, K).ids)
            else:
                answer = searcher.lookup_filtered(part, K, self.filter)
                found.append(answer.neighbors.ids)
                about = answer.about.to_json()
        self.us.append((time.process_time() - began) * 1e6 / len(queries))
        return np.concatenate(found), about


def emit(what: str, **values: Any) -> None:
    print(json.dumps({"what": what, **values}), flush=True)


def measure(searcher: Searcher, data: Data, cases: list[Case], *, block: int, rounds: int, about: dict[str, Any]) -> None:
    """All cases in turns, the other way round each second time."""
    searcher.lookup(data.queries[:block], K)  # loads partitions
    first: dict[Case, tuple[np.ndarray, dict[str, Any]]] = {}
    last = dict(first)
    for number in range(rounds + 1):
        for case in cases if number % 2 == 0 else cases[::-1]:
            last[case] = case.run(searcher, data.queries, block)
            first.setdefault(case, last[case])
    plain = statistics.median(cases[0].us[1:])
    good = True
    for case in cases:
        us = statistics.median(case.us[1:])
        ids, how = last[case]
        reached = min(recall(data.rows(found), case.truth) for found in (ids, first[case][0]))
        shown = {"us": round(us, 1), "first_us": round(case.us[0], 1), "recall": round(reached, 4)}
        if case.filter is None:
            emit("unfiltered", **about, **shown)
            continue
        short = int(((data.rows(ids) >= 0).sum(axis=1) < min(K, len(case.rows))).sum())
        good = good and reached >= _BAR and not short
        emit(
            "filter",
            **about,
            column=case.column,
            share=case.share,
            **shown,
            short=short,
            times=round(us / plain, 2),
            answered=how,
        )
    emit("bars", **about, kept=good)


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--n", type=int, default=200_000)
    options.add_argument("--data", default="medium")
    options.add_argument("--variant", default="auto-4")
    options.add_argument("--queries", type=int, default=2000)
    options.add_argument("--block", type=int, default=1000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--scratch")
    options.add_argument("--release", help="the folder of a release that a run before has built of the same data")
    chosen = options.parse_args()
    with workplace(chosen.scratch) as scratch:
        data = Data.load(chosen.data, chosen.n, queries=chosen.queries)
        columns = attributes(data)
        folder = chosen.release or filtered_release(data, columns, Path(scratch), chosen.variant, memory_mib=2048)
        cases = [Case(data, "", 1.0, None)]
        cases += [Case(data, column, share, columns[column]) for column in COLUMNS for share in SHARES]
        about = {"data": data.name, "n": len(data.items), "variant": chosen.variant, "block": chosen.block}
        with open_release(folder) as searcher:
            measure(searcher, data, cases, block=chosen.block, rounds=chosen.rounds, about=about)


if __name__ == "__main__":
    main()
