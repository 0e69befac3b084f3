"""What an export takes: CPU, memory and bytes of each target, for all items of a release.

python -m benchmarks.exports --root runs/big [--release ID] [--to numpy --to faiss]

Prints JSON lines, one a target: seconds and memory of `simpipe export` with everything it loads, bytes written, and as ratios of
the same run `bytes_ratio` (written over the vectors as float32) and `memory_ratio` (peak over the peak of the first target).
For `faiss` also `same`: the share of the ten exact neighbors of 100 items that the index, as its own `export.json` says to read
it, and the release name alike.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks.child import run_child
from simpipe.exports.contract import ExportInfo, Kind
from simpipe.index.searcher import open_release

K, QUERIES = 10, 100


def same_neighbors(root: str, release: str | None, folder: Path, info: ExportInfo) -> float:
    """The share of exact neighbors that a FAISS export and the release name alike."""
    names: dict[str, Any] = {"OUT": str(folder), "queries": np.zeros((1, info.dim), np.float32), "k": 1}
    exec("\n".join(info.reading), names)
    ids = names["items"].column("id")
    with open_release(root, release) as searcher:
        asked = ids.take(np.random.default_rng(0).choice(len(ids), QUERIES, replace=False)).to_pylist()
        queries = searcher.vectors_of(asked)
        expected = searcher.lookup(queries, K, exact=True).ids
    _, positions = names["index"].search(queries, K)
    found = np.array(ids.take(positions.ravel()).to_pylist(), object).reshape(positions.shape)
    return float(np.mean([len({*one} & {*other}) / K for one, other in zip(found, expected, strict=True)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--release")
    parser.add_argument("--to", action="append", choices=get_args(Kind))
    parser.add_argument("--scratch", help="a folder with room (default: the system's)")
    options = parser.parse_args()
    first: float | None = None
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        for kind in options.to or get_args(Kind):
            folder = Path(scratch, kind)
            named = [] if options.release is None else ["--release", options.release]
            command = [sys.executable, "-m", "simpipe.cli", "export", "--to", kind, "--root", options.root, "--out", str(folder)]
            usage, said = run_child([*command, *named, "--json"], echo=False)
            info = ExportInfo.model_validate(
                {
                    name: value
                    for name, value in json.loads(said[said.index("{") :].split("\nexport ")[0]).items()
                    if name != "out"
                }
            )
            size = sum(file.size for file in info.files)
            first = first or usage.peak_mib
            about = {"items": info.items, "dim": info.dim, "files": len(info.files), "mb": round(size / 1e6, 1)}
            ratios = {"bytes_ratio": size / (4 * info.dim * info.items), "memory_ratio": usage.peak_mib / first}
            shared = {"same": same_neighbors(options.root, options.release, folder, info)} if kind == "faiss" else {}
            rounded = {name: round(value, 3) for name, value in {**ratios, **shared}.items()}
            print(json.dumps({"benchmark": "exports", "to": kind, **about, **usage.to_json(), **rounded}), flush=True)
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
