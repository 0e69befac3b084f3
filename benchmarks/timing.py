"""CPU time of ways to search a batch, in turns, and what recall they reach."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.child import say
from benchmarks.releases import recall

_PAUSE_S = 0.05  # threads of the step before, which wait for work in a loop, go to sleep meanwhile
_LEAST, _MOST = 0.84, 0.9995
_SLACK = 1.06
_STEPS = 9  # ways kept for each tenth part of what is missed


@dataclass
class Way:
    """One way to search: an engine with a parameter.

    Attributes:
      search: queries -> an answer; timed. rows: answer -> int64[q, k]; not timed.
      recall: measured once. us: CPU microseconds a query, one figure a round.
    """

    engine: str
    param: dict[str, Any]
    search: Callable[[np.ndarray], Any]
    rows: Callable[[Any], np.ndarray]
    recall: float = math.nan
    us: list[float] = field(default_factory=list)

    @property
    def cost(self) -> float:
        """Median CPU microseconds a query."""
        return statistics.median(self.us)

    def run(self, queries: np.ndarray, block: int) -> list[Any]:
        """Searches all queries in blocks; adds its time."""
        parts = [queries[first : first + block] for first in range(0, len(queries), block)]
        time.sleep(_PAUSE_S)
        began = time.process_time()
        answers = [self.search(part) for part in parts]
        self.us.append((time.process_time() - began) * 1e6 / len(queries))
        return answers

    def measure(self, queries: np.ndarray, truth: np.ndarray, block: int) -> None:
        """As `run`, and takes the recall."""
        answers = self.run(queries, block)
        self.recall = recall(np.concatenate([self.rows(answer) for answer in answers]), truth)


def narrow(ways: Sequence[Way], queries: np.ndarray, truth: np.ndarray) -> list[Way]:
    """Tries ways on a few queries, in the order given, until one finds nearly all; keeps those near the front, thinned out."""
    tried: list[Way] = []
    for way in ways:
        way.run(queries[:50], 50)  # the first call of a library may set things up
        way.us.clear()
        way.measure(queries, truth, len(queries))
        tried.append(way)
        if way.recall >= _MOST:
            break
    kept: dict[int, Way] = {}
    for way in sorted(tried, key=lambda way: way.cost):
        cheapest = min(other.cost for other in tried if other.recall >= way.recall)
        if way.cost <= _SLACK * cheapest and way.recall >= _LEAST:
            kept.setdefault(round(-_STEPS * math.log10(max(1 - way.recall, 1e-4))), way)
    for way in tried:
        way.us.clear()
    return list(kept.values()) or [max(tried, key=lambda way: way.recall)]


def take_turns(engines: dict[str, list[Way]], queries: np.ndarray, truth: np.ndarray, *, block: int, rounds: int) -> None:
    """Measures all ways `rounds` times, engines in turn and the other way round each second time."""
    for number in range(rounds):
        names = list(engines) if number % 2 == 0 else list(engines)[::-1]
        for name in names:
            for way in engines[name]:
                if number == 0:
                    way.measure(queries, truth, block)
                else:
                    way.run(queries, block)
        say(f"round {number + 1} of {rounds}, blocks of {block:,}")


def front(ways: Sequence[Way]) -> list[Way]:
    """Those that no other one beats in recall and cost, by recall."""
    kept: list[Way] = []
    for way in sorted(ways, key=lambda way: (way.cost, -way.recall)):
        if not kept or way.recall > kept[-1].recall:
            kept.append(way)
    return kept


def cost_at(ways: Sequence[Way], target: float) -> float | None:
    """Microseconds a query at a recall; None where no way reaches it.

    Between neighboring ways on the front the logarithm of the cost is taken as linear in recall; the cheapest way's cost where
    all reach the target.
    """
    ordered = front(ways)
    above = next((place for place, way in enumerate(ordered) if way.recall >= target), None)
    if above is None:
        return None
    upper = ordered[above]
    if above == 0:
        return upper.cost
    lower = ordered[above - 1]
    share = (target - lower.recall) / (upper.recall - lower.recall)
    return math.exp((1 - share) * math.log(lower.cost) + share * math.log(upper.cost))
