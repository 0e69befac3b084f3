"""Queries of the command line: ids of the data set, image files or vectors, and their answers as plain records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe import files
from simpipe.embeddings import EMBEDDINGS_JSON, EmbeddingsInfo, vectors_of
from simpipe.errors import QueryError, SimpipeError
from simpipe.index.filtered import FilterAbout
from simpipe.index.filters import Filter
from simpipe.index.searcher import Searcher
from simpipe.picture_encoder import find_encoder, load_encoder, read_picture
from simpipe.types import Neighbors

_FIELDS = ("ids", "labels", "distances")


@dataclass(frozen=True)
class Queries:
    """Names, vectors float32[n, dim], true labels where known.

    `own_ids`: the names are ids of the data set; `indexed`: which of them are items of the release.
    """

    names: list[str]
    vectors: np.ndarray
    labels: list[str | None]
    own_ids: bool = False
    indexed: tuple[bool, ...] = ()


def load_queries(
    root: Path,
    searcher: Searcher,
    *,
    ids: Sequence[str] | None,
    images: Sequence[str] | None,
    vectors: str | None,
    encoder: str | None,
) -> Queries:
    """Queries from whichever is given.

    Args:
      root: of the data sets: held-out queries and encoders lie there.
      searcher: of the release that is asked.
      ids, images, vectors: ids of the data set, picture files, or an `.npy` file.
      encoder: folder of an encoder for pictures; None: the release's own.

    Raises:
      QueryError: an unknown id, an unreadable image or vector file.
      IncompatibleError: an encoder that is not the release's, or that embeds otherwise here than it did then.
    """
    if ids:
        return _by_id(root, searcher, list(ids))
    if images:
        return _by_image(root, searcher, list(images), encoder)
    return _by_file(searcher, str(vectors))


def _by_id(root: Path, searcher: Searcher, ids: list[str]) -> Queries:
    found: dict[str, tuple[np.ndarray, str | None]] = {}
    items: set[str] = set()
    for name in ids:
        try:
            label = searcher.items_of([name]).column("label")[0].as_py()
            found[name] = (searcher.vectors_of([name])[0], label)
            items.add(name)
        except QueryError:
            held_out = _held_out(root, searcher, name)
            if held_out is None:
                raise
            found[name] = held_out
    vectors, labels = np.stack([found[name][0] for name in ids]), [found[name][1] for name in ids]
    return Queries(ids, vectors, labels, own_ids=True, indexed=tuple(name in items for name in ids))


def _held_out(root: Path, searcher: Searcher, name: str) -> tuple[np.ndarray, str | None] | None:
    """A held-out query, from the embeddings data set that the release was built from."""
    import pyarrow.parquet as pq

    key = searcher.manifest.provenance.get("embeddings")
    folder = root / "embeddings" / str(key)[:12]
    if key is None or not (folder / EMBEDDINGS_JSON).exists():
        return None
    info = EmbeddingsInfo.load(folder)
    for file in info.of_splits("query"):
        table = pq.read_table(files.inside(folder, file.path), columns=["id", "label", "embedding"], filters=[("id", "==", name)])
        if len(table):
            return vectors_of(table)[0], table.column("label")[0].as_py()
    return None


def _by_image(root: Path, searcher: Searcher, paths: list[str], encoder: str | None) -> Queries:
    folder, about = find_encoder(root, searcher, encoder)
    inputs = np.stack([read_picture(_bytes_of(path), about.input, name=path) for path in paths])
    return Queries(paths, load_encoder(folder, searcher).embed(inputs), [None] * len(paths))


def _bytes_of(path: str) -> bytes:
    try:
        return files.located(path).read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise QueryError(f"{path}: cannot be read as an image ({reason})", "give a PNG or JPEG file") from None


def _by_file(searcher: Searcher, path: str) -> Queries:
    vectors = read_vectors(path)
    try:
        checked = searcher.check_queries(vectors)
    except SimpipeError as error:
        raise type(error)(f"{path}: {error.message}", error.cure) from None
    return Queries([f"row {i}" for i in range(len(checked))], checked, [None] * len(checked))


def read_vectors(path: str) -> np.ndarray:
    """The array of an `.npy` file, as it is.

    Raises:
      QueryError: there is none, or several.
    """
    try:
        vectors = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise QueryError(f"{path}: NumPy cannot read it ({error})", "save float32[n, dim] with numpy.save") from None
    if not isinstance(vectors, np.ndarray):
        raise QueryError(f"{path}: holds several arrays", "save one array with numpy.save")
    return vectors


@dataclass(frozen=True)
class Answers:
    """A record a query, see `answer`; and how a filter was answered, where there was one."""

    results: list[dict[str, Any]]
    filter: FilterAbout | None = None


def answer(searcher: Searcher, queries: Queries, **options: Any) -> list[dict[str, Any]]:
    """One record a query: its neighbors with metadata, and the match where a cutpoint is named.

    An indexed item that asks for itself is its own nearest neighbor in `lookup`; in `match` it is left out.

    Args:
      options: see `answers`.
    """
    return answers(searcher, queries, **options).results


def answers(
    searcher: Searcher,
    queries: Queries,
    *,
    k: int,
    cutpoint: str | None,
    target_recall: float | None = None,
    exact: bool = False,
    where: str | None = None,
    filter: Mapping[str, Any] | Filter | None = None,
    matcher: str | None = None,
    by_group: bool = False,
    group: str | None = None,
) -> Answers:
    """What `answer` gives, and how a filter was answered.

    `target_recall`, `exact`, `where` and `filter` are as in `BaseSearcher.lookup`; `matcher`, `by_group` and `group` (of all
    queries) as in `BaseSearcher.match_found`.
    """
    if cutpoint is not None:
        searcher.rules.rule(matcher).limit(cutpoint)  # before anything is searched
    own = queries.names if queries.own_ids else None
    how: dict[str, Any] = {"target_recall": target_recall, "exact": exact, "where": where}
    filtered = None
    if filter is None:
        neighbors = searcher.lookup(queries.vectors, k, query_ids=own, **how)
    else:
        filtered = searcher.lookup_filtered(queries.vectors, k, filter, query_ids=own, **how)
        neighbors = filtered.neighbors
        how["filter"] = filter
    mine = np.flatnonzero(queries.indexed) if cutpoint is None else np.empty(0, np.int64)
    if len(mine):
        found = searcher.lookup_items([queries.names[row] for row in mine], k, **how)
        neighbors = Neighbors(*(_replaced(getattr(neighbors, name), mine, getattr(found, name)) for name in _FIELDS))
    matches, about = None, {}
    if cutpoint is not None:
        which: dict[str, Any] = {"matcher": matcher, "by_group": by_group, "groups": group}
        matches = searcher.match(queries.vectors, cutpoint, query_ids=own, **how, **which)
        about = {"matcher": searcher.rules.rule(matcher).name}
        if group is not None:
            about |= {"group": group, "group_cutpoint": searcher.rules.has_own(group, cutpoint)}
    metadata = _metadata(searcher, neighbors)
    results = []
    for row, name in enumerate(queries.names):
        record: dict[str, Any] = {"query": name, "label": queries.labels[row]}
        if matches is not None and matches.limits is not None:
            distance = float(matches.distances[row])
            record["match"] = {
                "label": matches.labels[row],
                "distance": distance if np.isfinite(distance) else None,
                "cutpoint": cutpoint,
                "cutpoint_distance": float(matches.limits[row]),
                "probability": None if matches.probabilities is None else float(matches.probabilities[row]),
                **about,
            }
        record["neighbors"] = [
            {
                "rank": rank + 1,
                "id": neighbors.ids[row, rank],
                "label": neighbors.labels[row, rank],
                "distance": float(neighbors.distances[row, rank]),
                **metadata.get(neighbors.ids[row, rank], {}),
            }
            for rank in np.flatnonzero(neighbors.valid[row])
        ]
        results.append(_plain(record))
    return Answers(results, None if filtered is None else filtered.about)


def _replaced(values: np.ndarray, rows: np.ndarray, new: np.ndarray) -> np.ndarray:
    """`values` [n, k] with some rows taken from `new`, widened where `new` is wider."""
    missing = np.inf if values.dtype.kind == "f" else None
    out = np.full((len(values), max(values.shape[1], new.shape[1])), missing, values.dtype)
    out[:, : values.shape[1]] = values
    out[rows] = missing
    out[rows, : new.shape[1]] = new
    return out


def _metadata(searcher: Searcher, neighbors: Neighbors) -> dict[str, dict[str, Any]]:
    """Metadata of each neighbor by id; columns of bytes can't be shown."""
    if not searcher.manifest.metadata:
        return {}
    table = searcher.metadata(neighbors)
    shown = [field.name for field in table.schema if not _is_bytes(field.type)]
    return dict(zip(neighbors.ids[neighbors.valid].tolist(), table.select(shown).to_pylist(), strict=True))


def _plain(value: Any) -> Any:
    """NumPy scalars to Python ones, for JSON."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
