"""Indexes of other libraries, built in a process of their own and kept by the content of the vectors: some take minutes.

    python -m benchmarks.peer_cache --data medium --n 1000000 --scratch FOLDER [--peers hnswlib,faiss]

An index that was built elsewhere from the same vectors is taken over with `--adopt hnswlib=FILE:CPU_SECONDS`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.child import run_child, say
from benchmarks.peers import PEERS, Peer, scann


def ready(name: str, vectors: Path, n: int, folder: Path, *, threads: int = 2) -> dict[str, Any]:
    """Builds a peer over the first n vectors of a file in a process of its own, unless `folder` holds it.

    Returns:
      Its record: name, cpu_s and wall_s of the library's build alone, peak_mib of the process, bytes on disk; `kept` where it was
      there.
    """
    target, record = folder / name, folder / f"{name}.json"
    if record.exists():
        return {**json.loads(record.read_text()), "kept": True}
    say(f"build {name} over {n:,} vectors")
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "benchmarks.peer_cache", "--build", name, "--threads", str(threads)]
    usage, said = run_child([*command, "--vectors", str(vectors), "--n", str(n), "--target", str(target)])
    took = json.loads(said.strip().splitlines()[-1])
    about = {"name": name, **took, "peak_mib": round(usage.peak_mib), "bytes": _bytes(folder, name)}
    record.write_text(json.dumps(about))
    return {**about, "kept": False}


def _bytes(folder: Path, name: str) -> int:
    found = [*folder.glob(name), *folder.glob(f"{name}.dat"), *(folder / name).rglob("*")]
    return sum(path.stat().st_size for path in found if path.is_file())


def loaded(name: str, folder: Path, x: np.ndarray) -> Peer:
    """A peer that `ready` has built."""
    peer = PEERS[name]()
    peer.load(folder / name, x)
    return peer


def adopt(given: str, folder: Path) -> None:
    """Links an index built elsewhere: `NAME=PATH:CPU_SECONDS`."""
    name, _, rest = given.partition("=")
    path, _, cpu = rest.rpartition(":")
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in ("", ".dat"):
        if (source := Path(path + suffix)).exists() and not (folder / (name + suffix)).exists():
            os.symlink(source.resolve(), folder / (name + suffix))
    about = {"name": name, "cpu_s": float(cpu), "wall_s": None, "peak_mib": None, "bytes": _bytes(folder, name)}
    (folder / f"{name}.json").write_text(json.dumps(about))


def _build(options: argparse.Namespace) -> None:
    x = np.ascontiguousarray(np.load(options.vectors, mmap_mode="r")[: options.n], np.float32)
    peer = PEERS[options.build]()
    if options.build.startswith("scann"):
        scann()
    cpu, wall = time.process_time(), time.perf_counter()
    peer.build(x, options.threads)
    took = {"cpu_s": round(time.process_time() - cpu, 2), "wall_s": round(time.perf_counter() - wall, 2)}
    target = Path(options.target)
    shutil.rmtree(target, ignore_errors=True)
    peer.save(target)
    print(json.dumps(took))


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--data", default="medium")
    options.add_argument("--n", type=int, default=1_000_000)
    options.add_argument("--scratch")
    options.add_argument("--peers", default=",".join(PEERS))
    options.add_argument("--adopt", action="append", default=[])
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--build", choices=PEERS, help=argparse.SUPPRESS)
    options.add_argument("--vectors", help=argparse.SUPPRESS)
    options.add_argument("--target", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.build:
        return _build(chosen)
    from benchmarks.releases import Data, workplace

    with workplace(chosen.scratch) as scratch:
        data = Data.load(chosen.data, chosen.n, queries=1000, held_out=0)
        for given in chosen.adopt:
            adopt(given, data.peers(scratch))
        for name in filter(None, chosen.peers.split(",")):
            about = ready(name, data.vectors(scratch), len(data.items), data.peers(scratch), threads=chosen.threads)
            print(json.dumps({"what": "peer_build", "data": data.name, "n": len(data.items), **about}), flush=True)


if __name__ == "__main__":
    main()
