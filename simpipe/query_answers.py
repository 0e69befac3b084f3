"""Answers to files of queries as tables, and the files that workers write them to, one a chunk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simpipe import files
from simpipe.errors import ContractError
from simpipe.index.answers import Answer
from simpipe.index.searcher import Searcher, neighbors_table
from simpipe.types import Counts

ANSWERS_JSON = "_answers.json"  # names with _ are no part of a Parquet folder for those who read it
_GROUP_ROWS = 1 << 17

_NEIGHBORS = pa.schema(
    [("query", pa.string()), ("rank", pa.int32()), ("id", pa.string()), ("label", pa.string()), ("distance", pa.float32())]
)
_MATCHES = pa.schema(
    [
        ("query", pa.string()),
        ("label", pa.string()),
        ("match", pa.string()),
        ("distance", pa.float32()),
        ("cutpoint", pa.string()),
        ("cutpoint_distance", pa.float32()),
        ("probability", pa.float64()),
    ]
)


@dataclass(frozen=True)
class AnswerTable:
    """What becomes of an answer.

    Attributes:
      kind: `neighbors`: a row a neighbor; `matches`: a row a query.
      cutpoint, matcher, by_group, group: of matches, see `BaseSearcher.match_found`.
    """

    kind: Literal["neighbors", "matches"] = "neighbors"
    cutpoint: str = "optimal"
    matcher: str | None = None
    by_group: bool = False
    group: str | None = None

    @property
    def schema(self) -> pa.Schema:
        return _NEIGHBORS if self.kind == "neighbors" else _MATCHES

    def of(self, searcher: Searcher, answer: Answer) -> pa.Table:
        """The rows of a block, queries in order."""
        if self.kind == "neighbors":
            return neighbors_table(answer.found.neighbors(), answer.ids.tolist()).cast(_NEIGHBORS)
        how: dict[str, Any] = {"matcher": self.matcher, "by_group": self.by_group, "groups": self.group}
        matches = searcher.match_found(answer.found.neighbors(), self.cutpoint, **how)
        none = ~np.isfinite(matches.distances)
        likely = matches.probabilities
        columns = {
            "query": answer.queries.column("id"),
            "label": answer.queries.column("label"),
            "match": pa.array(matches.labels, pa.string()),
            "distance": pa.array(matches.distances, pa.float32(), mask=none),
            "cutpoint": pa.array([self.cutpoint] * len(answer), pa.string()),
            "cutpoint_distance": pa.array(matches.limits, pa.float32()),
            "probability": pa.nulls(len(answer), pa.float64()) if likely is None else pa.array(likely, pa.float64(), mask=none),
        }
        return pa.table(columns, schema=_MATCHES)


def part_path(work: Path, chunk: int) -> Path:
    """The file of a chunk's answers."""
    return work / f"answers-{chunk:05d}.parquet"


def write_answers(searcher: Searcher, answers: Iterator[Answer], table: AnswerTable, path: Path) -> Counts:
    """Writes the answers to a chunk, a row group at a time.

    Returns:
      Counts of queries.
    """
    queries = waiting = 0
    parts: list[pa.Table] = []
    with files.replacing(path, flush=False) as temporary, _writer(temporary, table.schema) as writer:
        for answer in answers:
            part = table.of(searcher, answer)
            queries, waiting = queries + len(answer), waiting + len(part)
            parts.append(part)
            if waiting >= _GROUP_ROWS:
                writer.write_table(pa.concat_tables(parts))
                parts, waiting = [], 0
        if waiting:
            writer.write_table(pa.concat_tables(parts))
    return Counts(queries, queries, 0)


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    how: dict[str, Any] = {"use_dictionary": [name for name in schema.names if name not in ("id", "query")]}
    return pq.ParquetWriter(path, schema, compression="zstd", **how)


def join_answers(work: Path, chunks: int, table: AnswerTable, out: Path) -> None:
    """Makes one file of the chunks' files, row group by row group, queries in the order of the job."""
    with files.replacing(out) as temporary, _writer(temporary, table.schema) as writer:
        for chunk in range(chunks):
            with pq.ParquetFile(part_path(work, chunk)) as part:
                for group in range(part.num_row_groups):
                    writer.write_table(part.read_row_group(group))


def move_answers(work: Path, chunks: int, table: AnswerTable, out: Path, about: dict[str, Any]) -> None:
    """Moves the chunks' files into a folder, and writes `_answers.json`, which lists them, last.

    Raises:
      ContractError: the folder holds something already.
    """
    out.mkdir(parents=True, exist_ok=True)
    if any(out.glob("*.parquet")):
        raise ContractError(f"{out}: holds Parquet files already", "name a new folder")
    listed = []
    for chunk in range(chunks):
        path = out / f"{table.kind}-{chunk:05d}-of-{chunks:05d}.parquet"
        files.move_file(part_path(work, chunk), path)
        rows = pq.read_metadata(path).num_rows
        listed.append({**files.entry_of(path, out).to_json(), "rows": rows})
    files.write_json(out / ANSWERS_JSON, {**about, "kind": table.kind, "files": listed})
