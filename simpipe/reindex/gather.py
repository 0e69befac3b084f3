"""Held-out queries come in many small files, more with every re-index; a data set keeps them in few."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from simpipe import files
from simpipe.data.examples import shard_name
from simpipe.import_vectors import write_embeddings

_ROWS = 65_536


def gather_queries(folder: Path, records: Sequence[dict[str, Any]], *, rows: int = _ROWS) -> list[dict[str, Any]]:
    """Joins files of queries, in their order, into files of at most `rows` rows; larger ones stay as they are.

    Args:
      folder: of the data set. records: of its files (path, size, sha256, split, rows); those of other splits stay.

    Returns:
      The records of the files that take their place. The old files are left where they are.
    """
    others = [record for record in records if record["split"] != "query"]
    groups: list[list[dict[str, Any]]] = []
    for record in sorted((record for record in records if record["split"] == "query"), key=lambda record: record["path"]):
        if groups and sum(each["rows"] for each in groups[-1]) + record["rows"] <= rows:
            groups[-1].append(record)
        else:
            groups.append([record])
    if len(groups) == len(records) - len(others):
        return list(records)
    joined = []
    for number, group in enumerate(groups):
        path = folder / shard_name("query", number, len(groups), ".parquet")
        write_embeddings(pa.concat_tables([pq.read_table(folder / record["path"]) for record in group]), path)
        count = sum(record["rows"] for record in group)
        joined.append({**files.entry_of(path, folder).to_json(), "split": "query", "rows": count})
    return [*others, *joined]
