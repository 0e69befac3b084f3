"""Flat FAISS indexes: exact search over the very vectors of a release, in the order of Parquet files of items.

FAISS holds an index in memory. Workers write one for at most 512 MiB of vectors; where all of them fit the driver's memory they
become one file, else they stay, to be searched as one by `IndexShards`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simpipe import files
from simpipe.errors import ConfigError, ContractError
from simpipe.exports.contract import Contents, Finished, Place, Plan, Written
from simpipe.exports.item_file import carried_as_stored, item_file
from simpipe.items import ItemBlock

PATTERN = "items-*.parquet"
ONE_INDEX = "index.faiss"
_PART_BYTES = 512 << 20
_INNER, _L2 = "METRIC_INNER_PRODUCT", "METRIC_L2"
_METRICS = {"cosine": _INNER, "inner_product": _INNER, "euclidean": _L2, "squared_euclidean": _L2}
DISTANCES = {
    "cosine": "FAISS gives q·v, larger is nearer: distance = 1 - score, with a query of unit norm",
    "inner_product": "FAISS gives q·v, larger is nearer: distance = -score",
    "euclidean": "FAISS gives the squared distance: distance = sqrt(score)",
    "squared_euclidean": "FAISS gives the distance",
}


def plan(contents: Contents) -> Plan:
    """Every column is carried as it is.

    Raises:
      ConfigError: a distance that flat indexes of inner products and L2 do not know, FAISS is missing, or a vector is larger
        than a part.
    """
    if contents.distance not in _METRICS:
        raise ConfigError(
            f"--to faiss: release {contents.release} has the distance {contents.distance}, and the indexes written here are "
            "of inner products or L2",
            "use --to numpy",
        )
    _library()
    rows = _PART_BYTES // (4 * contents.dim)
    if rows < 1:
        raise ConfigError(
            f"--to faiss: a vector of dim {contents.dim} has {4 * contents.dim:,} bytes, a part of an index {_PART_BYTES:,}",
            "use --to numpy",
        )
    return Plan(contents, rows, carried_as_stored(contents.fields))


def write(blocks: Iterator[ItemBlock], place: Place, plan: Plan) -> Written:
    """Writes `index-NAME.faiss` and `items-NAME.parquet`; position i of the index is row i."""
    path, items = place.folder / f"index-{place.name}.faiss", place.folder / f"items-{place.name}.parquet"
    kind = plan.contents.item_schema
    index, vectors = _empty(plan, place.rows)
    done = 0
    with item_file(items, kind) as writer:
        for block in blocks:
            vectors[done : done + len(block)] = block.vectors
            writer.write_table(block.table.cast(kind))
            done += len(block)
        _save(index, path)
    return Written((path, items), done)


def finish(folder: Path, plan: Plan, records: Sequence[Mapping[str, Any]], *, memory: int) -> Finished:
    """Makes one index of the parts where all vectors and a part fit `memory`."""
    contents = plan.contents
    parts = [record for record in records if record["path"].endswith(".faiss")]
    needed = contents.vector_bytes + min(contents.vector_bytes, _PART_BYTES)
    items = (
        "import faiss, pathlib, pyarrow.parquet as pq",
        'items = pq.read_table(sorted(map(str, pathlib.Path(OUT).glob("items-*.parquet"))))  # row i is position i of the index',
    )
    asking = "scores, positions = index.search(queries, k)  # float32[n, dim]"
    if contents.distance == "cosine":
        asking += "; first faiss.normalize_L2(queries)"
    if needed > memory:
        why = f"all vectors take {contents.vector_bytes:,} bytes, with a part {needed:,}, and one index may take {memory:,} here"
        return Finished(
            reading=(
                *items,
                'parts = [faiss.read_index(str(path)) for path in sorted(pathlib.Path(OUT).glob("index-*.faiss"))]',
                f"index = faiss.IndexShards({contents.dim}, True, True)  # threads, and positions that go on from part to part",
                "for part in parts: index.add_shard(part)  # keep `parts`: the shards do not own them",
                asking,
            ),
            notes=(f"{len(parts)} indexes to be searched as one: {why}",),
        )
    index, vectors = _empty(plan, contents.items)
    done = 0
    for record in parts:
        part = read_vectors(folder / record["path"], contents.dim)
        vectors[done : done + len(part)] = part
        done += len(part)
    if done != contents.items:
        raise ContractError(f"{folder}: {done} vectors in the parts of {contents.items}", "run the export again")
    _save(index, folder / ONE_INDEX)
    removed = tuple(folder / record["path"] for record in parts)
    reading = (*items, f'index = faiss.read_index(f"{{OUT}}/{ONE_INDEX}")', asking)
    return Finished((folder / ONE_INDEX,), removed, reading)


def read_vectors(path: Path, dim: int) -> np.ndarray:
    """The vectors of a flat index: float32[n, dim]."""
    faiss = _library()
    index = faiss.read_index(str(files.opened(path)))
    return faiss.rev_swig_ptr(index.get_xb(), index.ntotal * dim).reshape(index.ntotal, dim).copy()


def _empty(plan: Plan, rows: int) -> tuple[Any, np.ndarray]:
    """A flat index of so many rows, and float32[rows, dim] that lie in it: nothing is copied when they are filled in."""
    faiss, dim = _library(), plan.contents.dim
    index = faiss.IndexFlat(dim, getattr(faiss, _METRICS[plan.contents.distance]))
    index.codes.resize(4 * dim * rows)
    index.ntotal = rows
    return index, faiss.rev_swig_ptr(index.get_xb(), rows * dim).reshape(rows, dim)


def _save(index: Any, path: Path) -> None:
    with files.replacing(path) as temporary:
        _library().write_index(index, str(temporary))


def _library() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ConfigError(f"--to faiss: FAISS is not installed ({error})", "pip install 'simpipe[faiss]'") from None
    return faiss
