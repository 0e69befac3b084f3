"""Building ten times as many vectors: CPU time per item, and memory that does not grow with them.

    python -m benchmarks.index_large [--sizes 1000000,10000000] [--data medium] [--router auto] [--scratch FOLDER]

Vectors (float32, dim 64) are drawn and written to an `.npy` file piece by piece, imported and built, each size in processes
of its own. 10,000,000 need about 20 GB of disk. JSON lines:

- `build`: CPU seconds, microseconds an item and peak memory of import and build; partitions, rows, bytes.
- `search`: seconds to open, recall@10 on fresh queries and CPU microseconds a query for a target recall of 0.95.
- `ratio`: CPU time per item of the largest against the smallest size; peak memory against the bar.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.child import say
from benchmarks.releases import SEED, build_of, build_release, exact, recall, workplace
from benchmarks.vectors import mixture
from simpipe.arrow import pc
from simpipe.errors import QueryError
from simpipe.ids import holdout
from simpipe.index.searcher import open_release

DIM, K, HELD_OUT = 64, 10, 3000
PER_ITEM, PEAK_MIB = 1.1, 8 * 1024
TARGET = 0.95


def written(path: Path, name: str, n: int) -> Path:
    """The `.npy` file, written once, piece by piece."""
    if not path.exists():
        say(f"draw {n:,} vectors into {path}")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name("part-" + path.name)
        with temporary.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (n, DIM)}
            np.lib.format.write_array_header_1_0(file, header)
            for block in mixture(name, DIM).blocks(n):
                file.write(block.tobytes())
        temporary.rename(path)
    return path


def searched(folder: Path, vectors: Path, name: str, *, queries: int, fraction: float, target: float = TARGET) -> dict[str, Any]:
    """Opens a release (or the live one of a root) and asks it for fresh queries.

    Args:
      vectors: the `.npy` file that was imported. name: of their mixture. fraction: of them that is held out.
    """
    began = time.perf_counter()
    searcher = open_release(folder)
    about: dict[str, Any] = {"open_s": round(time.perf_counter() - began, 3)}
    asked = mixture(name, DIM).draw(queries, stream=1)
    items = np.load(vectors, mmap_mode="r")
    say(f"exact neighbors of {queries:,} queries")
    truth = exact(items, asked, K + 10)
    held = holdout(pa.array(_ids(vectors, truth.ravel()), pa.string()), fraction, SEED).reshape(truth.shape)
    order = np.argsort(held, axis=1, kind="stable")[:, :K]  # held-out ones are not in the index
    truth = np.take_along_axis(truth, order, axis=1)
    try:
        searcher.lookup(asked, K, target_recall=target)  # loads the partitions
        cpu = time.process_time()
        found = searcher.lookup(asked, K, target_recall=target)
    except QueryError as error:
        return {**about, "target": target, "recall": None, "error": str(error)}
    took = (time.process_time() - cpu) * 1e6 / queries
    ids: Any = pa.array(found.ids.ravel(), pa.string())
    rows = pc.fill_null(pc.utf8_slice_codeunits(ids, start=-9).cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    return {**about, "target": target, "recall": round(recall(rows.reshape(found.ids.shape), truth), 4), "us": round(took, 1)}


def _ids(vectors: Path, rows: np.ndarray) -> list[str]:
    """Ids that `simpipe import` gives to rows of an `.npy` file without ids."""
    return [f"{vectors.stem}-{row:09d}" for row in rows.tolist()]


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--sizes", default="1000000,10000000")
    options.add_argument("--data", default="medium", help="easy, medium, hard or a noise length (default: %(default)s)")
    options.add_argument("--router", default="auto", help="as in index_search (default: %(default)s)")
    options.add_argument("--memory-mib", type=int, default=512, help="partition_memory_mib (default: %(default)s)")
    options.add_argument("--queries", type=int, default=1000)
    options.add_argument("--scratch")
    chosen = options.parse_args()
    taken: dict[int, dict[str, Any]] = {}
    with workplace(chosen.scratch) as scratch:
        for n in map(int, chosen.sizes.split(",")):
            place = scratch / f"large-{chosen.data}-{n}"
            vectors = written(place / "vectors.npy", chosen.data, n)
            fraction = min(0.1, HELD_OUT / n)
            config = {
                "name": "large",
                "root": str(place / "root"),
                "seed": SEED,
                "source": {"kind": "vectors", "path": str(vectors)},
                "queries": {"fraction": fraction},
                "build": {**build_of(chosen.router), "partition_memory_mib": chosen.memory_mib},
            }
            folder, took = build_release(config, anew=True)
            manifest = json.loads((folder / "manifest.json").read_text())
            about = {"data": chosen.data, "n": n, "dim": DIM, "router": chosen.router}
            taken[n] = {
                "cpu_s": took["build"]["cpu_s"],
                "us_an_item": round(took["build"]["cpu_s"] * 1e6 / n, 2),
                "wall_s": took["build"]["wall_s"],
                "peak_mib": took["build"]["peak_mib"],
                "private_mib": took["build"]["private_mib"],
                "import_cpu_s": took["import"]["cpu_s"],
                "import_peak_mib": took["import"]["peak_mib"],
                "chosen": manifest["router"]["kind"],
                "partitions": len(manifest["partitions"]),
                "rows": sum(part["rows"] for part in manifest["partitions"]),
                "bytes": sum(file["size"] for file in manifest["files"]),
            }
            print(json.dumps({"what": "build", **about, **taken[n]}), flush=True)
            if chosen.queries:
                found = searched(folder, vectors, chosen.data, queries=chosen.queries, fraction=fraction)
                print(json.dumps({"what": "search", **about, **found}), flush=True)
    small, large = min(taken), max(taken)
    ratio = {
        "sizes": [small, large],
        "per_item": round(taken[large]["us_an_item"] / taken[small]["us_an_item"], 3),
        "bar_per_item": PER_ITEM,
        "peak_mib": max(taken[large]["peak_mib"], taken[large]["import_peak_mib"]),
        "bar_peak_mib": PEAK_MIB,
    }
    print(json.dumps({"what": "ratio", "data": chosen.data, "router": chosen.router, **ratio}), flush=True)


if __name__ == "__main__":
    main()
