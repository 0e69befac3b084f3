"""What the index benchmarks share: vectors in a scratch folder, releases built from them by the command line, true neighbors.

A variant names a router, its spill, partitions, backend and storage: `auto`, `auto-16`, `packed-64`, `kmeans+soar-16`,
`kmeans+nearest2.0-16`, `hash-4`, `auto@nmslib`, `auto@scann:int8`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from benchmarks import vectors
from benchmarks.child import Usage, run_child, say
from simpipe.arrow import pc
from simpipe.ids import holdout

SEED = 42
_VARIANT = re.compile(
    r"(?P<router>auto|hash|kmeans|packed)(\+(?P<spill>nearest|soar)(?P<factor>[\d.]+)?)?(-(?P<partitions>\d+))?"
    r"(@(?P<backend>scann-hash|scann|nmslib|exact|faiss))?(:(?P<storage>float32|float16|int8))?"
)


@contextlib.contextmanager
def workplace(scratch: str | None) -> Iterator[Path]:
    """The scratch folder: kept where the user named one, else a temporary one."""
    if scratch is not None:
        Path(scratch).mkdir(parents=True, exist_ok=True)
        yield Path(scratch).resolve()
        return
    with tempfile.TemporaryDirectory(prefix="index-benchmark-") as folder:
        yield Path(folder)


@dataclass(frozen=True)
class Data:
    """Items and queries.

    Attributes:
      name: as given. items: float32[n, dim]. queries: float32[q, dim], fresh: no build sees them.
      held_out: float32[h, dim], imported beside the items as held-out queries, which the search profile is measured with;
        without any it is measured with items. drawn: by the generator.
    """

    name: str
    drawn: bool
    items: np.ndarray
    queries: np.ndarray
    held_out: np.ndarray

    @classmethod
    def load(cls, name: str, n: int, *, queries: int, held_out: int | None = None) -> Data:
        """Draws or reads; see `vectors.load`.

        Args:
          name: as `vectors.load` takes it; `LABEL=PATH` gives a file or folder a name in what is printed.
          held_out: how many queries the import holds out; None: 3000 of drawn data (at most a tenth), none of files.
        """
        label, _, path = name.rpartition("=")
        drawn = not (path.endswith(".npy") or Path(path).is_dir())
        if held_out is None:
            held_out = min(3000, n // 10) if drawn else 0
        items, asked = vectors.load(path, n, queries + held_out)
        cut = len(asked) * queries // (queries + held_out)
        return cls(label or (path if drawn else Path(path).stem), drawn, items, asked[:cut], asked[cut:])

    @cached_property
    def key(self) -> str:
        """Tells items from other ones by their content."""
        return f"{self.name}-{len(self.items)}-{_digest(self.items)}"

    def peers(self, scratch: Path) -> Path:
        """Where indexes of other libraries over these items are kept."""
        return scratch / self.key / "peers"

    def vectors(self, scratch: Path) -> Path:
        """The `.npy` file with items first, then held-out queries."""
        path = scratch / self.key / f"vectors-{len(self.held_out)}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name("part-" + path.name)
            np.save(temporary, np.concatenate([self.items, self.held_out]))
            temporary.rename(path)
        return path

    @cached_property
    def _fraction(self) -> float:
        return 1.2 * len(self.held_out) / (len(self.items) + len(self.held_out))

    @cached_property
    def numbers(self) -> np.ndarray:
        """int64[n + h]: the id of each vector, as a number; so chosen that the import holds out just the ones meant."""
        if not len(self.held_out):
            return np.arange(len(self.items))
        candidates = np.arange(int(1.4 * (len(self.items) + len(self.held_out))) + 1000)
        held = holdout(pa.array(candidates).cast(pa.string()), self._fraction, SEED)
        items, queries = candidates[~held][: len(self.items)], candidates[held][: len(self.held_out)]
        if len(items) < len(self.items) or len(queries) < len(self.held_out):
            raise SystemExit("held-out queries must be less than a fifth of the items: give fewer with --held-out")
        return np.concatenate([items, queries])

    def config(self, scratch: Path, variant: str, *, memory_mib: int, workers: int = 1) -> dict[str, Any]:
        """The configuration of a release of these vectors."""
        ids = scratch / self.key / f"ids-{len(self.held_out)}.npy"
        if not ids.exists():
            ids.parent.mkdir(parents=True, exist_ok=True)
            np.save(ids, self.numbers.astype("S"))
        return {
            "name": "bench",
            "root": str(scratch / self.key / "roots" / re.sub(r"[^\w.+-]", "_", f"{variant}-{memory_mib}-{len(self.held_out)}")),
            "seed": SEED,
            "source": {"kind": "vectors", "path": str(self.vectors(scratch)), "ids": str(ids)},
            "queries": {"fraction": self._fraction},
            "build": {**build_of(variant), "partition_memory_mib": memory_mib, "workers": workers},
        }

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """int64, the item's row for each id of a lookup's answer; -1 where there is none."""
        found = pa.array(ids.ravel(), pa.string()).cast(pa.int64())
        numbers = pc.fill_null(found, 0).to_numpy(zero_copy_only=False)
        place = np.full(int(self.numbers.max()) + 1, -1, np.int64)
        place[self.numbers[: len(self.items)]] = np.arange(len(self.items))
        rows = np.where(np.asarray(found.is_valid()), place[numbers], -1)
        return rows.reshape(ids.shape)

    def truth(self, scratch: Path, k: int) -> np.ndarray:
        """int64[q, k]: the exact nearest items of each query, by inner product."""
        path = scratch / self.key / f"truth-{k}-{_digest(self.queries)}.npy"
        if not path.exists():
            say(f"exact neighbors of {len(self.queries):,} queries among {len(self.items):,} items")
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, exact(self.items, self.queries, k))
        return np.load(path)


def exact(items: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """int64[q, k]: rows of the largest inner products, in blocks of both."""
    best = np.full((len(queries), k), -np.inf, np.float32)
    rows = np.full((len(queries), k), -1, np.int64)
    for first in range(0, len(items), 1 << 15):
        part = items[first : first + (1 << 15)]
        for start in range(0, len(queries), 500):
            block = slice(start, start + 500)
            scores = queries[block] @ part.T
            # Only what beats the k-th so far can enter; after the first block that is next to nothing.
            limit = best[block, -1:] if first else np.partition(scores, -k, axis=1)[:, -k, None]
            query, row = np.nonzero(scores > limit if first else scores >= limit)
            scores, row = np.concatenate([best[block].ravel(), scores[query, row]]), row + first
            of = np.concatenate([np.repeat(np.arange(len(best[block])), k), query])
            row = np.concatenate([rows[block].ravel(), row])
            order = np.lexsort((-scores, of))
            place = np.arange(len(of)) - np.searchsorted(of[order], of[order])
            kept = order[place < k]
            best[block], rows[block] = scores[kept].reshape(-1, k), row[kept].reshape(-1, k)
    return rows


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    """Share of the true neighbors int64[q, k] that were found, int64[q, m]."""
    return float((truth[:, :, None] == found[:, None, :]).any(axis=2).mean())


def release(
    data: Data, scratch: Path, variant: str, *, memory_mib: int, workers: int = 1, anew: bool = False
) -> tuple[Path, dict[str, Any]]:
    """Imports and builds in child processes.

    Args:
      anew: also where an unchanged release is there.

    Returns:
      The release's folder; and `import` and `build`: what each took, as `Usage` (of a kept release: as it took then).
    """
    config = data.config(scratch, variant, memory_mib=memory_mib, workers=workers)
    return build_release(config, anew=anew)


def build_release(config: dict[str, Any], *, anew: bool) -> tuple[Path, dict[str, Any]]:
    """`simpipe import` and `simpipe build` of a configuration; see `release`."""
    root = Path(config["root"])
    if anew:
        shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True, exist_ok=True)
    path = root / "bench.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    before = _releases(root)
    took = {verb: simpipe(verb, path) for verb in ("import", "build")}
    folder = _releases(root)[-1]
    record = root / f"{folder.name}.took.json"
    if folder not in before:
        record.write_text(json.dumps({verb: usage.to_json() for verb, usage in took.items()}))
    return folder, json.loads(record.read_text())


def simpipe(verb: str, config: Path) -> Usage:
    """Runs a verb of the command line in a process of its own."""
    say(f"simpipe {verb} --config {config}")
    return run_child([sys.executable, "-m", "simpipe.cli", verb, "--config", str(config)])[0]


def _releases(root: Path) -> list[Path]:
    return sorted((path.parent for path in root.glob("releases/*/manifest.json")), key=lambda folder: folder.name)


def build_of(variant: str) -> dict[str, Any]:
    match = _VARIANT.fullmatch(variant)
    if match is None:
        raise SystemExit(f"variant {variant!r}: write such as auto-16, kmeans+soar-16, hash-4, auto@nmslib, auto@scann:int8")
    router: dict[str, Any] = {"kind": match["router"]}
    if match["partitions"]:
        router["partitions"] = int(match["partitions"])
    if match["spill"]:
        router["spill"] = match["spill"]
    if match["factor"]:
        router["spill_factor"] = float(match["factor"])
    name = match["backend"] or "scann"
    backend = {"kind": "scann", "scoring": "hash"} if name == "scann-hash" else {"kind": name}
    return {"router": router, "backend": backend, "storage": match["storage"] or "float32"}


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()[:12]
