"""Search through the searcher beside single indexes over all items: recall against CPU time, promised recall, single queries.

    python -m benchmarks.index_search [--n 1000000] [--data medium] [--variants auto,auto-16,auto-64] [--scratch FOLDER]
    python -m benchmarks.index_search --data easy --n 200000 --variants auto,auto@nmslib --peers ""     # promises only

`--data` is `easy`, `medium`, `hard`, a noise length, an `.npy` file or a folder of embeddings in Parquet (`omniglot=FOLDER` gives
it a name). Releases are named by router, spill, partitions, backend and storage: `auto`, `kmeans+soar-16`, `packed-64`,
`auto@nmslib`, `auto@scann:int8`. All queries are fresh: no build has seen them. Peers (M 16, efConstruction 200 where they are
graphs) search a batch on one thread and are swept over their parameters; releases are asked through `Searcher.lookup` with
`target_recall`, in blocks. Time is CPU time of all threads of the process; peers and releases take turns for several rounds, and
medians are printed. Recall is recall@10 against exact neighbors. JSON lines:

- `peer_build`, `release`: what building took, bytes on disk, partitions, rows.
- `point`: an engine with a parameter (of a release: its target recall): recall and microseconds a query. `plot_index` draws them.
- `promise`: for each promised target the recall on fresh queries; `kept` if at most 0.01 below.
- `at`: microseconds a query of each engine at recall 0.90, 0.95, 0.98, 0.99, interpolated between neighboring points.
- `ratio`: queries per CPU second of a release over those of the best peer (faiss_ivf is drawn but not counted), at that recall
  (`ratio`) and as `target_recall` gives it (`as_promised`, whatever recall that reached), with the bar where there is one.
- `single`: one query at a time, warm, wall milliseconds; seconds to open, and until the first answer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.child import say
from benchmarks.peer_cache import loaded, ready
from benchmarks.peers import PEERS, rows
from benchmarks.releases import Data, release, workplace
from benchmarks.timing import Way, cost_at, narrow, take_turns
from simpipe.errors import QueryError
from simpipe.index.searcher import Searcher, open_release

K = 10
TARGETS = (0.90, 0.95, 0.98, 0.99)
_ASKED = (0.85, 0.90, 0.93, 0.95, 0.965, 0.98, 0.985, 0.99, 0.995)
_TRIED = 500  # queries by which parameters are picked
_COUNTED = ("hnswlib", "faiss", "nmslib", "scann_sqrt", "scann_fine")
_ALLOWED = 0.01  # below the promise
# At least so many times the queries per CPU second of the best peer: (drawn data, embeddings), by variant and recall.
_BARS = {
    ("auto", 0.95): (1.0, 0.8),
    ("auto", 0.99): (0.9, 0.8),
    ("auto-64", 0.95): (0.8, None),
    ("auto-64", 0.99): (0.8, None),
    ("auto-16", 0.95): (None, 0.4),
    ("auto-16", 0.99): (None, 0.4),
}


def emit(what: str, **values: Any) -> None:
    print(json.dumps({"what": what, **values}), flush=True)


def peer_ways(names: list[str], data: Data, truth: np.ndarray, scratch: Path, about: dict[str, Any]) -> dict[str, list[Way]]:
    """The parameters of each peer that are worth measuring."""
    engines = {}
    for name in names:
        built = ready(name, data.vectors(scratch), len(data.items), data.peers(scratch))
        emit("peer_build", **about, **built)
        peer = loaded(name, data.peers(scratch), data.items)
        ways = [
            Way(name, param, lambda q, peer=peer, param=param: peer.search(q, K, **param), lambda found: rows(found, K))
            for param in peer.params()
        ]
        engines[name] = narrow(ways, data.queries[:_TRIED], truth[:_TRIED])
        say(f"{name}: {len(engines[name])} of {len(ways)} parameters kept")
    return engines


def release_ways(variant: str, searcher: Searcher, data: Data) -> list[Way]:
    """The targets that a release promises."""
    ways = []
    for target in _ASKED:
        try:
            searcher.lookup(data.queries[:100], K, target_recall=target)
        except QueryError as error:
            say(f"{variant}: {error}")
            continue
        ways.append(
            Way(
                variant,
                {"target": target},
                lambda q, target=target: searcher.lookup(q, K, target_recall=target),
                lambda found: data.rows(found.ids),
            )
        )
    return ways


def singles(searcher: Searcher, queries: np.ndarray, target: float) -> dict[str, float]:
    """Wall milliseconds of one query at a time."""
    taken = []
    for query in queries:
        began = time.perf_counter()
        searcher.lookup(query, K, target_recall=target)
        taken.append((time.perf_counter() - began) * 1e3)
    return {f"p{share}_ms": round(float(np.percentile(taken, share)), 3) for share in (50, 99)}


def opened(folder: Path, query: np.ndarray) -> tuple[Searcher, dict[str, float]]:
    """A searcher; seconds to open (median of five) and from opening to the first answer, by which a partition is loaded."""

    def once() -> float:
        began = time.perf_counter()
        open_release(folder)
        return time.perf_counter() - began

    taken = statistics.median(once() for _ in range(5))
    began = time.perf_counter()
    searcher = open_release(folder)
    searcher.lookup(query, K)
    return searcher, {"open_s": round(taken, 4), "first_answer_s": round(time.perf_counter() - began, 3)}


def promises(ways: list[Way], variant: str, about: dict[str, Any]) -> None:
    """What each promised target reaches on fresh queries."""
    found = {way.param["target"]: way.recall for way in ways}
    for target in TARGETS:
        recall = found.get(target)
        kept = None if recall is None else recall >= target - _ALLOWED
        emit("promise", **about, variant=variant, target=target, recall=recall and round(recall, 5), kept=kept)


def report(engines: dict[str, list[Way]], variants: list[str], about: dict[str, Any], *, drawn: bool) -> None:
    """Points, costs at the targets and ratios of one block size."""
    for name, ways in engines.items():
        kind = "simpipe" if name in variants else "peer"
        for way in ways:
            emit("point", **about, engine=name, kind=kind, param=way.param, recall=round(way.recall, 5), us=round(way.cost, 2))
    for target in TARGETS:
        costs = {name: cost for name, ways in engines.items() if (cost := cost_at(ways, target)) is not None}
        emit("at", **about, recall=target, us={name: round(cost, 2) for name, cost in costs.items()})
        best = min(((costs[name], name) for name in _COUNTED if name in costs), default=None)
        if best is None:
            continue
        for variant in variants:
            promised = next((way.cost for way in engines[variant] if way.param["target"] == target), None)
            bar = _BARS.get((variant, target), (None, None))[0 if drawn else 1]
            ratio, as_promised = (value and round(best[0] / value, 3) for value in (costs.get(variant), promised))
            emit(
                "ratio",
                **about,
                variant=variant,
                recall=target,
                best_peer=best[1],
                ratio=ratio,
                as_promised=as_promised,
                bar=bar,
            )


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--n", type=int, default=1_000_000)
    options.add_argument("--data", default="medium")
    options.add_argument("--variants", default="auto,auto-16,auto-64")
    options.add_argument("--peers", default=",".join(PEERS))
    options.add_argument("--queries", type=int, default=10_000)
    options.add_argument("--held-out", type=int, default=None)
    options.add_argument("--blocks", default="10000,1000")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--memory-mib", type=int, default=2048, help="partition_memory_mib (default: %(default)s)")
    options.add_argument("--scratch")
    chosen = options.parse_args()
    variants = [variant for variant in chosen.variants.split(",") if variant]
    with workplace(chosen.scratch) as scratch:
        data = Data.load(chosen.data, chosen.n, queries=chosen.queries, held_out=chosen.held_out)
        truth = data.truth(scratch, K)
        about: dict[str, Any] = {"data": data.name, "n": len(data.items), "dim": data.items.shape[1]}
        engines, searchers = {}, {}
        for variant in variants:
            folder, took = release(data, scratch, variant, memory_mib=chosen.memory_mib)
            manifest = json.loads((folder / "manifest.json").read_text())
            emit(
                "release",
                **about,
                variant=variant,
                router={name: value for name, value in manifest["router"].items() if name != "planner"},
                partitions=len(manifest["partitions"]),
                rows=sum(part["rows"] for part in manifest["partitions"]),
                bytes=sum(file["size"] for file in manifest["files"]),
                cpu_s=took["build"]["cpu_s"],
                peak_mib=took["build"]["peak_mib"],
            )
            searchers[variant], opening = opened(folder, data.queries[0])
            emit("open", **about, variant=variant, **opening)
            engines[variant] = release_ways(variant, searchers[variant], data)
        engines |= peer_ways([name for name in chosen.peers.split(",") if name], data, truth, scratch, about)
        for block in dict.fromkeys(min(int(size), len(data.queries)) for size in chosen.blocks.split(",")):
            for ways in engines.values():
                for way in ways:
                    way.us.clear()
            take_turns(engines, data.queries, truth, block=block, rounds=chosen.rounds)
            report(engines, variants, {**about, "block": block}, drawn=data.drawn)
        for variant in variants:
            promises(engines[variant], variant, about)
        for variant, searcher in searchers.items():
            for target in (0.95, 0.99):
                if any(way.param["target"] == target for way in engines[variant]):
                    times = singles(searcher, data.queries[:2000], target)
                    emit("single", **about, variant=variant, target=target, **times, bar_p50_ms=2.0 if target == 0.95 else None)


if __name__ == "__main__":
    main()
