"""Jobs over all queries against a bare loop over the same partitions, and their memory at two numbers of queries.

python -m benchmarks.query_job [--n 1000000 --dim 64 --partitions 16 --queries 100000]

Prints JSON lines. `bare`: for each partition, loaded once, for each block of queries in memory the same search, then the same
merge with names; no files, no Beam. `job`: QueryRelease on a Parquet file, from the call to the last count, the start of the
pipeline included. `ratio` is job over bare in queries a second of wall time (`cpu_ratio`: of CPU time), the best of `--repeat`
alternating runs of each; the bar is 0.7. `memory`: peaks of a process that runs the job on a quarter of the queries and on all.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.child import run_child, say
from benchmarks.releases import Data, release, workplace
from simpipe.embeddings import open_writer, row_group_rows, schema, vectors_column
from simpipe.ids import hash_ids
from simpipe.index.merge import nearest_rows
from simpipe.index.query import QuerySpec, open_for
from simpipe.index.query_merge import Lines, merge_block
from simpipe.manifest import Manifest

BAR = 0.7


def write_queries(path: Path, vectors: np.ndarray) -> None:
    """Queries as an embeddings file."""
    dim = vectors.shape[1]
    rows = row_group_rows(dim)
    with open_writer(path, schema(dim, distance="cosine", encoder="none")) as writer:
        for first in range(0, len(vectors), rows):
            part = vectors[first : first + rows]
            ids = pa.array([f"query-{first + row}" for row in range(len(part))], pa.string())
            columns = {"id": ids, "label": pa.nulls(len(part), pa.string()), "embedding": vectors_column(part)}
            writer.write_table(pa.table(columns, schema=writer.schema))


def bare(spec: QuerySpec, vectors: np.ndarray) -> int:
    """The loop without files and Beam; returns how many queries it answered."""
    searcher, part = open_for(spec), spec.parts[0]
    setting = spec.setting_for(searcher)
    blocks = [slice(first, first + spec.block) for first in range(0, len(vectors), spec.block)]
    asked = [searcher.ask(vectors[block], part.wanted, setting) for block in blocks]
    found: list[list[Lines]] = [[] for _ in blocks]
    for about in searcher.manifest.partitions:
        number = about.partition
        loaded = searcher.partition(number)
        for block, asks, lines in zip(blocks, asked, found, strict=True):
            rows = np.flatnonzero(asks[:, number])
            if len(rows):
                candidates = loaded.candidates(vectors[block][rows], part.wanted, setting=setting)
                lines.append(Lines(number, rows, *nearest_rows(*candidates, part.wanted)))
    answered = 0
    for block, lines in zip(blocks, found, strict=True):
        ids = pa.array([f"query-{row}" for row in range(block.start, min(block.stop, len(vectors)))])
        queries = pa.table({"id": ids, "tie": hash_ids(ids), "own": np.ones(len(ids), bool)})
        answered += len(merge_block(searcher, queries, lines, part, names=spec.names).distances)
    return answered


def job(spec: QuerySpec) -> int:
    """The Beam job with a count."""
    import apache_beam as beam

    from pipelines.queries import run_queries

    manifest = Manifest.load(Path(spec.release))
    with tempfile.TemporaryDirectory() as work:
        spec = QuerySpec(**{**vars(spec), "work": work})
        return run_queries(None, spec, manifest=manifest, collect=beam.Map(len), beam_args=[], verb="benchmark").written


def timed(work: Callable[[], int]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    answered = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"qps": answered / wall, "cpu_qps": answered / cpu, "wall_s": wall, "cpu_s": cpu}


def compare(spec: QuerySpec, vectors: np.ndarray, repeat: int) -> dict[str, Any]:
    # What every run loads is not measured.
    import pipelines.queries  # noqa: F401
    import simpipe.beam.options
    import simpipe.beam.query  # noqa: F401

    runs: dict[str, list[dict[str, float]]] = {"bare": [], "job": []}
    for _ in range(repeat):
        runs["bare"].append(timed(lambda: bare(spec, vectors)))
        runs["job"].append(timed(lambda: job(spec)))
    best = {
        name: {key: (min if key.endswith("_s") else max)(run[key] for run in found) for key in found[0]}
        for name, found in runs.items()
    }
    ratios = {"ratio": best["job"]["qps"] / best["bare"]["qps"], "cpu_ratio": best["job"]["cpu_qps"] / best["bare"]["cpu_qps"]}
    return {
        **{name: {key: round(value, 2) for key, value in found.items()} for name, found in best.items()},
        **ratios,
        "bar": BAR,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--data", default="hard", help="as `benchmarks.vectors.load` takes it")
    parser.add_argument("--partitions", type=int, default=16)
    parser.add_argument("--backend", default="scann")
    parser.add_argument("--queries", type=int, default=100_000)
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--block", type=int, default=1024)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--scratch", help="kept folder for vectors and releases")
    parser.add_argument("--child", nargs=3, metavar=("RELEASE", "QUERIES", "PROBES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        folder, path, probes = options.child
        job(QuerySpec(folder, (path,), options.k, block=options.block, probes=int(probes) or None))
        return
    with workplace(options.scratch) as scratch:
        data = Data.load(options.data, options.n, queries=options.queries)
        folder, _ = release(data, scratch, f"auto-{options.partitions}@{options.backend}", memory_mib=4096)
        vectors = data.queries
        paths = {count: scratch / f"queries-{count}.parquet" for count in (len(vectors) // 4, len(vectors))}
        for count, path in paths.items():
            write_queries(path, vectors[:count])
        about = {
            "items": options.n,
            "dim": options.dim,
            "partitions": options.partitions,
            "queries": len(vectors),
            "k": options.k,
        }
        for name, probes in (("default", None), ("all", options.partitions)):
            spec = QuerySpec(str(folder), (str(paths[len(vectors)]),), options.k, block=options.block, probes=probes)
            say(f"{name}: {spec.setting_for(open_for(spec))}")
            print(json.dumps({"setting": name, **about, **compare(spec, vectors, options.repeat)}), flush=True)
        for path in paths.values():
            command = [sys.executable, "-m", "benchmarks.query_job", "-k", str(options.k), "--block", str(options.block)]
            usage, _ = run_child([*command, "--child", str(folder), str(path), str(options.partitions)])
            rows = pq.read_metadata(path).num_rows
            print(json.dumps({"memory": usage.to_json(), "setting": "all", **about, "queries": rows}), flush=True)


if __name__ == "__main__":
    main()
