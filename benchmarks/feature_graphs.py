"""Graphs of the Beam features that simpipe uses, each of which leaves files that say whether a runner got it right.

Evidence is written by the steps themselves, a file an element, so that a branch that a runner skips or an element that it
loses or doubles is seen. They stand in a module of their own: workers import it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.metrics.metric import Metrics, MetricsFilter
from apache_beam.pvalue import AsList, AsSingleton, TaggedOutput
from apache_beam.transforms.window import GlobalWindows

from simpipe.beam.io import MergeOutcomes, Outcome
from simpipe.errors import ContractError
from simpipe.types import Counts

N = 1000
TOTAL = N * (N - 1) // 2
MESSAGE, CURE = "shard 00007 is cut off", "write it anew"
_MIB = 1 << 20

Graph = Callable[[beam.Pipeline, Path], None]
GRAPHS: dict[str, tuple[Graph, dict[str, list[Any]]]] = {}


def _feature(**expected: list[Any]) -> Callable[[Graph], Graph]:
    """Registers a graph under its function's name, with the sorted values that its evidence must hold."""

    def add(graph: Graph) -> Graph:
        GRAPHS[graph.__name__.strip("_")] = (graph, expected)
        return graph

    return add


def found(folder: Path) -> dict[str, list[Any]]:
    """The evidence in a folder: sorted values by name."""
    values: dict[str, list[Any]] = {}
    for path in folder.glob("*.json"):
        values.setdefault(path.name.partition(".")[0], []).append(json.loads(path.read_text()))
    return {name: sorted(listed) for name, listed in values.items()}


def _leave(value: Any, folder: str, name: str) -> None:
    (Path(folder) / f"{name}.{uuid.uuid4().hex}.json").write_text(json.dumps(value))


def _to(values: Any, folder: Path, name: str) -> None:
    _ = values | f"Leave {name}" >> beam.Map(_leave, folder=str(folder), name=name)


def _sum(values: Any, folder: Path, name: str) -> None:
    _to(values | f"Sum {name}" >> beam.CombineGlobally(sum), folder, name)


def _numbers(pipeline: beam.Pipeline, n: int = N) -> Any:
    return pipeline | "Numbers" >> beam.Create(range(n)) | "Spread" >> beam.Reshuffle()


@_feature(doubled=[2 * TOTAL], ones=[N])
def _par_do_and_two_sinks(pipeline: beam.Pipeline, folder: Path) -> None:
    numbers = _numbers(pipeline)
    _sum(numbers | "Double" >> beam.Map(lambda x: 2 * x), folder, "doubled")
    _sum(numbers | "Ones" >> beam.Map(lambda x: 1), folder, "ones")


def _split(x: int) -> Iterator[Any]:
    yield TaggedOutput("tens", 1) if x % 10 == 0 else 1


@_feature(tens=[N // 10], rest=[N - N // 10])
def _tagged_outputs(pipeline: beam.Pipeline, folder: Path) -> None:
    split = _numbers(pipeline) | "Split" >> beam.FlatMap(_split).with_outputs("tens", main="rest")
    _sum(split.tens, folder, "tens")
    _sum(split.rest, folder, "rest")


@_feature(both=[TOTAL + N])
def _flatten(pipeline: beam.Pipeline, folder: Path) -> None:
    numbers = _numbers(pipeline)
    _sum((numbers, numbers | "Ones" >> beam.Map(lambda x: 1)) | "Both" >> beam.Flatten(), folder, "both")


@_feature(groups=[[key, N // 5, sum(range(key, N, 5))] for key in range(5)])
def _group_by_key(pipeline: beam.Pipeline, folder: Path) -> None:
    groups = _numbers(pipeline) | "Key" >> beam.Map(lambda x: (x % 5, x)) | "Group" >> beam.GroupByKey()
    _to(groups | "Twice" >> beam.Map(lambda group: [group[0], len(list(group[1])), sum(group[1])]), folder, "groups")


def _outcome(x: int) -> Outcome:
    return Outcome(Counts(1, 1), ({"path": f"{x:05d}"},))


def _told(outcome: Outcome) -> list[int]:
    return [outcome.counts.read, len({record["path"] for record in outcome.records})]


@_feature(merged=[[N, N]], nothing=[[0, 0]])
def _combine_globally(pipeline: beam.Pipeline, folder: Path) -> None:
    """Also of an empty collection, which must give the empty accumulator: a job without work writes its summary."""
    outcomes = _numbers(pipeline) | "Outcome" >> beam.Map(_outcome)
    _to(outcomes | "Merge" >> beam.CombineGlobally(MergeOutcomes()) | "Told" >> beam.Map(_told), folder, "merged")
    none = outcomes | "Drop" >> beam.Filter(lambda outcome: False)
    _to(none | "Merge none" >> beam.CombineGlobally(MergeOutcomes()) | "Told none" >> beam.Map(_told), folder, "nothing")


def _waits(x: int, first: list[Outcome]) -> Outcome:
    return _outcome(x + len(first))


@_feature(both=[[2 * N, 2 * N]])
def _flatten_with_what_waits(pipeline: beam.Pipeline, folder: Path) -> None:
    """Outcomes of two steps of which one waits for the other: how re-indexing sums up."""
    first: Any = _numbers(pipeline) | "First" >> beam.Map(_outcome)
    later = pipeline | "Later" >> beam.Create(range(N)) | "Spread later" >> beam.Reshuffle()
    second = later | "Second" >> beam.Map(_waits, first=AsList(first))
    both = (first, second) | "Both" >> beam.Flatten() | "Merge" >> beam.CombineGlobally(MergeOutcomes())
    _to(both | "Told" >> beam.Map(_told), folder, "both")


@_feature(keys=[[key, len(range(key, N, 3))] for key in range(3)])
def _combine_per_key(pipeline: beam.Pipeline, folder: Path) -> None:
    counts = _numbers(pipeline) | "Key" >> beam.Map(lambda x: (x % 3, 1)) | "Count" >> beam.CombinePerKey(sum)
    _to(counts | "List" >> beam.Map(list), folder, "keys")


@_feature(used=[7 * N])
def _side_input_singleton(pipeline: beam.Pipeline, folder: Path) -> None:
    seven = pipeline | "Seven" >> beam.Create([3, 4]) | "Add" >> beam.CombineGlobally(sum)
    _sum(_numbers(pipeline) | "Use" >> beam.Map(lambda x, side: side, side=AsSingleton(seven)), folder, "used")


def _mark(x: int, folder: str) -> int:
    _leave(x, folder, "before")
    return x


def _count_marks(x: int, marks: list[int], folder: str) -> list[int]:
    return [len(marks), len(list(Path(folder).glob("before.*.json")))]


@_feature(before=list(range(200)), after=[[200, 200]] * 20)
def _side_input_list_as_barrier(pipeline: beam.Pipeline, folder: Path) -> None:
    """A step that has another's output as a list starts after all of it is done: how simpipe shuffles through files."""
    marks = _numbers(pipeline, 200) | "Mark" >> beam.Map(_mark, folder=str(folder))
    later = pipeline | "Later" >> beam.Create(range(20)) | "Spread later" >> beam.Reshuffle()
    _to(later | "Look" >> beam.Map(_count_marks, marks=AsList(marks), folder=str(folder)), folder, "after")


class _Bundle(beam.DoFn):
    def setup(self) -> None:
        self._step = 1

    def start_bundle(self) -> None:
        self._held = 0

    def process(self, x: int) -> Iterable[int]:
        self._held += self._step
        return ()

    def finish_bundle(self) -> Any:
        yield GlobalWindows.windowed_value(self._held)


@_feature(held=[N])
def _setup_and_finish_bundle(pipeline: beam.Pipeline, folder: Path) -> None:
    _sum(_numbers(pipeline) | "Hold" >> beam.ParDo(_Bundle()), folder, "held")


def _block(x: int, mib: int) -> tuple[int, np.ndarray]:
    return x, np.full(mib * _MIB // 4, x, np.float32)


def _check_block(block: tuple[int, np.ndarray]) -> list[int]:
    x, values = block
    return [x, values.nbytes // _MIB, int((values == x).all())]


def _blocks(pipeline: beam.Pipeline, folder: Path, *, mib: int, n: int) -> None:
    blocks = _numbers(pipeline, n) | "Block" >> beam.Map(_block, mib=mib) | "Spread blocks" >> beam.Reshuffle()
    _to(blocks | "Check" >> beam.Map(_check_block), folder, "blocks")


@_feature(blocks=[[x, 1, 1] for x in range(100)])
def _100_elements_of_1_mib(pipeline: beam.Pipeline, folder: Path) -> None:
    _blocks(pipeline, folder, mib=1, n=100)


@_feature(blocks=[[x, 64, 1] for x in range(4)])
def _4_elements_of_64_mib(pipeline: beam.Pipeline, folder: Path) -> None:
    _blocks(pipeline, folder, mib=64, n=4)


@_feature(shards=[20_000 * 19_999 // 2])
def _20000_elements(pipeline: beam.Pipeline, folder: Path) -> None:
    _sum(_numbers(pipeline, 20_000), folder, "shards")


def _fail(x: int) -> int:
    if x == 7:
        raise ContractError(MESSAGE, CURE)
    return x


@_feature()
def _errors_reach_the_user(pipeline: beam.Pipeline, folder: Path) -> None:
    """Run by `run_graph`, which must raise what the worker raised, with its cure."""
    _ = _numbers(pipeline, 20) | "Fail" >> beam.Map(_fail)


class _Counted(beam.DoFn):
    def __init__(self) -> None:
        self._seen = Metrics.counter("simpipe", "in-items")
        self._msec = Metrics.distribution("simpipe", "build-msec")

    def process(self, x: int) -> Iterable[int]:
        self._seen.inc()
        self._msec.update(x)
        yield 1


@_feature(seen=[N])
def _counters(pipeline: beam.Pipeline, folder: Path) -> None:
    _sum(_numbers(pipeline) | "Count" >> beam.ParDo(_Counted()), folder, "seen")


@dataclass(frozen=True)
class Counted:
    """What a job's metrics say of `counters`: sums of committed and attempted values; None where a runner tells none."""

    committed: int | None
    attempted: int | None
    distribution: list[int] | None


def counted(result: Any) -> Counted:
    """The counter and distribution of a finished job; `distribution` is its count, sum, min, max."""
    asked = result.metrics().query(MetricsFilter().with_namespace("simpipe"))
    counters, distributions = asked["counters"], asked["distributions"]
    told = [one.committed or one.attempted for one in distributions]
    return Counted(
        next((one.committed for one in counters), None),
        next((one.attempted for one in counters), None),
        [told[0].count, told[0].sum, told[0].min, told[0].max] if told and told[0] is not None else None,
    )
