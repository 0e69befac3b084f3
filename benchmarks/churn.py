"""Many re-indexes in a row, each with 5 % of the items gone and 5 % new ones that drift, against a build from scratch at the end.

    python -m benchmarks.churn [--n 50000] [--dim 32] [--partitions 16] [--rounds 20] [--router kmeans] [--spill none]

Items are drawn from a mixture of clusters (benchmarks/vectors.py, `medium`). What goes is drawn at random; of what comes, half is
drawn from another mixture and half from two clusters of it, which change every five rounds. JSON lines, one a round: recall@10
against exact search on fresh queries, drawn from all mixtures in the shares that the items have, at the release's default
setting; partitions that hold items, and the largest over their mean; rows and partitions that a query asks; what was rebuilt.
The last line compares the last release with one that was built anew from the same items: `recall_lost` and `balance_ratio`.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.releases import workplace
from benchmarks.vectors import Mixture, mixture
from pipelines import reindex
from pipelines.line import Line
from simpipe import releases
from simpipe.config import Config, parse_config
from simpipe.embeddings import vectors_column
from simpipe.index.searcher import Searcher
from simpipe.manifest import Manifest

_K = 10
_QUERIES = 2000
_LABELS = 200
_CLUSTERS = 400


class Churn:
    """The items of a catalogue that changes: vectors float32[n, dim], int64[n] names and sources (which mixture)."""

    def __init__(self, n: int, dim: int, share: float) -> None:
        self.share, self.turn = share, 0
        self.old = replace(mixture("medium", dim), clusters=_CLUSTERS)
        self.new = replace(self.old, seed=1)
        self.vectors, self.names = self.old.draw(n), np.arange(n)
        self.source = np.zeros(n, np.int64)
        self.following = n
        self.rng = np.random.default_rng(5)

    def few(self, phase: int) -> Mixture:
        """Two clusters, others in each phase of five rounds."""
        return replace(self.old, clusters=2, seed=100 + phase)

    def round(self) -> None:
        """Deletes some items and adds as many."""
        self.turn += 1
        count = round(self.share * len(self.names))
        kept = np.sort(self.rng.permutation(len(self.names))[count:])
        half = count // 2
        phase = (self.turn - 1) // 5
        wide, narrow = self.new.draw(half, stream=self.turn), self.few(phase).draw(count - half, stream=self.turn)
        sources = [np.full(half, 1), np.full(count - half, 2 + phase)]
        self.vectors = np.concatenate([self.vectors[kept], wide, narrow])
        self.source = np.concatenate([self.source[kept], *sources])
        self.names = np.concatenate([self.names[kept], np.arange(self.following, self.following + count)])
        self.following += count

    def queries(self) -> np.ndarray:
        """Fresh ones, from the mixtures in the shares that the items have: float32[q, dim]."""
        drawn = np.bincount(self.source[self.rng.integers(len(self.source), size=_QUERIES)])
        laws = [self.old, self.new, *map(self.few, range(len(drawn) - 2))]
        return np.concatenate([law.draw(int(count), stream=1000 + self.turn) for law, count in zip(laws, drawn, strict=False)])

    def save(self, path: Path) -> None:
        ids = [f"item-{name}" for name in self.names]
        labels = [f"l{name % _LABELS}" for name in self.names]
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"id": ids, "label": labels, "embedding": vectors_column(self.vectors)}), path)


def configure(root: Path, source: Path, args: argparse.Namespace) -> Config:
    router = {"kind": args.router, "partitions": args.partitions, "sample": 20_000}
    if args.spill != "none":
        router["spill"] = args.spill
    return parse_config(
        {
            "name": "churn",
            "root": str(root),
            "source": {"kind": "vectors", "path": str(source), "ids": "id", "labels": "label"},
            "queries": {"fraction": 0.02},
            "build": {"router": router, "backend": {"kind": args.backend}},
            "reindex": {"max_hidden": args.max_hidden},
            "report": {"projection_items": 60},
        }
    )


def measure(folder: Path, queries: np.ndarray) -> dict[str, Any]:
    """Recall, balance, and what a query asks."""
    searcher = Searcher(folder, Manifest.load(folder))
    found, exact = searcher.lookup(queries, _K), searcher.lookup(queries, _K, exact=True)
    sizes = np.array(searcher.partition_rows, np.float64)
    asked = searcher.ask(searcher.check_queries(queries), _K, searcher.default_setting)
    return {
        "recall": round(float((found.distances <= exact.distances[:, -1:] + 1e-6).mean()), 4),
        "partitions": int((sizes > 0).sum()),
        "balance": round(float(sizes.max() / sizes[sizes > 0].mean()), 3),
        "probes": round(float(asked.sum() / len(queries)), 2),
        "rows_asked": round(float((asked @ sizes).mean())),
    }


def say(**line: Any) -> None:
    print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--partitions", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--router", default="kmeans")
    parser.add_argument("--spill", default="none")
    parser.add_argument("--backend", default="scann")
    parser.add_argument("--max-hidden", type=float, default=0.02)
    args = parser.parse_args()
    with workplace(None) as place:
        churn = Churn(args.n, args.dim, args.share)
        source = place / "source" / "items.parquet"
        churn.save(source)
        config = configure(place / "root", source, args)
        Line(config, say=lambda text: None).run()
        folder, _ = releases.open_live(place / "root")
        say(round=0, **measure(folder, churn.queries()))
        for turn in range(1, args.rounds + 1):
            churn.round()
            churn.save(source)
            started = time.process_time()
            summary = reindex.run(config, force=True, say=lambda text: None)
            folder, manifest = releases.open_live(place / "root")
            about = manifest.provenance["reindex"]
            done = {name: about["partitions"][name] for name in ("rebuilt", "split", "merged")}
            said = {"outcome": summary.outcome, "retrained": about["retrained"], "reasons": about["reasons"]}
            seconds = round(time.process_time() - started, 1)
            say(round=turn, **measure(folder, churn.queries()), **done, **said, cpu_s=seconds)
        line = Line(configure(place / "fresh", source, args), say=lambda text: None)
        line.embed()
        fresh, _ = line.build()
        queries = churn.queries()
        last, anew = measure(folder, queries), measure(fresh, queries)
        lost = round(anew["recall"] - last["recall"], 4)
        say(last=last, fresh=anew, recall_lost=lost, balance_ratio=round(last["balance"] / anew["balance"], 3))


if __name__ == "__main__":
    main()
