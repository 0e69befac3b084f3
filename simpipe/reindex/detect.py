"""Finding what changed: the ids and digests that a source holds now, joined with those of a release, bucket by bucket.

The join goes through grouped files in the work folder, one group a bucket of the id: `scan-…` of what is present, `old-…`
of the base's held-out queries, `drop-…` of ids to drop; and `want-…`, one group a unit, of the rows to embed or to copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simpipe import files
from simpipe.arrow import pc
from simpipe.config.models import VectorsSource
from simpipe.data.vectors import VectorBlock, VectorPlan
from simpipe.digests import DIGEST, read_digests
from simpipe.errors import SourceError
from simpipe.grouped import GroupedWriter, read_group
from simpipe.ids import bucket_of
from simpipe.import_vectors import Content, ImportSpec, block_content
from simpipe.reindex.changes import ADDED, CHANGED, DELETED, SCHEMA, ChangeCounts, changes_file
from simpipe.store import find_duplicates
from simpipe.types import Reject

# `unit` and `row` say where a record stands: which unit of the source (or file of old queries), and which row of it. A null
# digest: the record is rejected or of a class that is not indexed, so it is not present.
PRESENT = pa.schema([("id", pa.string()), ("digest", DIGEST), ("query", pa.bool_()), ("unit", pa.int32()), ("row", pa.int64())])
WANTED = pa.schema([("row", pa.int64()), ("digest", DIGEST), ("query", pa.bool_())])
_DROPPED = pa.schema([("id", pa.string())])
_BLOCK_ROWS = 65_536


@dataclass(frozen=True)
class ChangesPlan:
    """What every worker must know.

    Attributes:
      folder: the new data set. work: scratch.
      digests: of the base's items, one file a bucket. old_queries: the base's files of held-out queries.
      units: names of the source's blocks or shards; first: what the count of their rows begins with in messages.
      dropped: files of ids to drop. deltas: the source holds only what was added or changed: absence deletes nothing.
    """

    folder: str
    work: str
    digests: tuple[files.HashedFile, ...]
    old_queries: tuple[files.HashedFile, ...]
    units: tuple[str, ...]
    first: tuple[int, ...]
    dropped: tuple[str, ...]
    deltas: bool

    @property
    def buckets(self) -> int:
        return len(self.digests)

    @property
    def groups(self) -> int:
        """Of wanted rows: units of the source, then files of old queries."""
        return len(self.units) + len(self.old_queries)

    def grouped(self, kind: str, number: int) -> Path:
        return files.located(self.work) / f"{kind}-{number:05d}.arrow"

    def all_grouped(self, kind: str) -> list[Path]:
        count = {"scan": len(self.units), "old": len(self.old_queries), "drop": len(self.dropped), "want": self.buckets}[kind]
        return [self.grouped(kind, number) for number in range(count)]


@dataclass(frozen=True)
class Comparison:
    """Where present records and old ones differ.

    Attributes:
      added, changed: bool[n] of the present. deleted, kept: bool[m] of the old; kept are those that stay as they were.
    """

    added: np.ndarray
    changed: np.ndarray
    deleted: np.ndarray
    kept: np.ndarray

    @property
    def counts(self) -> ChangeCounts:
        added, changed, deleted, kept = (int(rows.sum()) for rows in (self.added, self.changed, self.deleted, self.kept))
        return ChangeCounts(added=added, changed=changed, deleted=deleted, unchanged=kept)


def compare(present: pa.Table, old: pa.Table, *, dropped: Any = None) -> Comparison:
    """Compares records by id and digest.

    Args:
      present, old: columns id (each id once) and digest.
      dropped: ids, in any order; old records of them are deleted unless they are present. None: all that are not present are.
    """
    place = pc.index_in(present.column("id"), value_set=old.column("id"))
    found = place.is_valid().to_numpy()
    at = place.drop_null().to_numpy()
    same = pc.equal(present.column("digest").filter(pa.array(found)), old.column("digest").take(pa.array(at))).to_numpy()
    changed = np.zeros(len(present), bool)
    changed[np.flatnonzero(found)[~same]] = True
    seen, unchanged = np.zeros(len(old), bool), np.zeros(len(old), bool)
    seen[at] = True
    unchanged[at[same]] = True
    deleted = ~seen
    if dropped is not None:
        deleted &= pc.is_in(old.column("id"), value_set=dropped).to_numpy()
    return Comparison(~found, changed, deleted, unchanged | ~(seen | deleted))


# --- by bucket -----------------------------------------------------------------------------------------------------------


def scatter_vectors(
    source: VectorsSource, vectors: VectorPlan, block: VectorBlock, spec: ImportSpec, plan: ChangesPlan
) -> Content:
    """Writes the ids and digests of a block by bucket; what it returns has no vectors to keep."""
    content = block_content(source, vectors, block, spec)
    table = content.table.select(["id", "digest"])
    left_out = pa.concat_arrays([content.excluded_ids, pa.array([reject.id for reject in content.rejects], pa.string())])
    with (
        files.replacing(plan.grouped("scan", block.number), flush=False) as path,
        GroupedWriter(path, PRESENT, plan.buckets) as out,
    ):
        write_present(out, plan, table, content.held, content.position, unit=block.number)
        write_left_out(out, plan, left_out, unit=block.number)
    return content


def write_present(
    out: GroupedWriter, plan: ChangesPlan, table: pa.Table, held: np.ndarray, row: np.ndarray, *, unit: int
) -> None:
    """Adds records with columns id and digest."""
    columns = [table.column("id"), table.column("digest"), held, np.full(len(table), unit, np.int32), row]
    out.write(pa.table(columns, schema=PRESENT), bucket_of(table.column("id"), plan.buckets))


def write_left_out(out: GroupedWriter, plan: ChangesPlan, ids: Any, *, unit: int) -> None:
    """Adds ids that the source names but that are not present."""
    n = len(ids)
    if n:
        columns = [ids, pa.nulls(n, DIGEST), np.zeros(n, bool), np.full(n, unit, np.int32), np.zeros(n, np.int64)]
        out.write(pa.table(columns, schema=PRESENT), bucket_of(ids, plan.buckets))


def scatter_old_queries(plan: ChangesPlan, number: int) -> int:
    """Writes the ids and digests of one of the base's files of queries by bucket; returns how many there are."""
    with (
        files.replacing(plan.grouped("old", number), flush=False) as path,
        GroupedWriter(path, PRESENT, plan.buckets) as out,
        pq.ParquetFile(plan.old_queries[number].verified()) as file,
    ):
        for batch in file.iter_batches(batch_size=_BLOCK_ROWS, columns=["id", "digest"]):
            table = pa.Table.from_batches([batch])
            row = np.arange(out.rows, out.rows + len(table))
            write_present(out, plan, table, np.ones(len(table), bool), row, unit=number)
        return out.rows


def scatter_dropped(plan: ChangesPlan, number: int) -> int:
    """Writes the ids of one file of ids to drop by bucket; returns how many there are."""
    with (
        files.replacing(plan.grouped("drop", number), flush=False) as path,
        GroupedWriter(path, _DROPPED, plan.buckets) as out,
    ):
        for ids in _read_ids(files.located(plan.dropped[number])):
            out.write(pa.table([ids], schema=_DROPPED), bucket_of(ids, plan.buckets))
        return out.rows


def _read_ids(path: Path) -> Iterator[Any]:
    """Ids of a Parquet file (column `id`), or of a text file with one a line; neither nulls nor empty lines."""
    if path.suffix == ".txt":
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise SourceError(f"{path}: not UTF-8 ({error})", "write one id a line, as UTF-8") from None
        yield pa.array([line for line in lines if line], pa.string())
        return
    with pq.ParquetFile(path) as file:
        if "id" not in file.schema_arrow.names:
            raise SourceError(f"{path}: no column `id`; there are {', '.join(file.schema_arrow.names)}", "name the column so")
        for batch in file.iter_batches(batch_size=_BLOCK_ROWS, columns=["id"]):
            yield batch.column(0).cast(pa.string()).drop_null()


# --- the join -------------------------------------------------------------------------------------------------------------


def join_bucket(plan: ChangesPlan, number: int) -> tuple[dict[str, Any], list[Reject]]:
    """Compares one bucket: writes its file of changes, and which rows are wanted.

    Returns:
      A record with the file's path, size and SHA-256, counts of `items` and `queries`, `present` records, `ignored` ids
      to drop that are not there, and `wanted`: [unit, items, queries] of each unit with wanted rows; and duplicate ids (then
      nothing is written).

    Raises:
      SourceError: an id is present and to be dropped. ContractError: a file of the base was altered.
    """
    scanned = _bucket(plan, "scan", number, PRESENT)
    taken = scanned.column("digest").is_valid()
    present, left_out = scanned.filter(taken), scanned.filter(pc.invert(taken)).column("id")
    duplicates = _duplicates(plan, present)
    if duplicates:
        return {"path": changes_file(number, plan.buckets), "present": len(present)}, duplicates
    old = {False: read_digests(plan.digests[number].verified()), True: _bucket(plan, "old", number, PRESENT)}
    given = pc.unique(_bucket(plan, "drop", number, _DROPPED).column("id"))
    _check_dropped(plan, present, given)
    split = {query: present.filter(pc.equal(present.column("query"), query)) for query in (False, True)}
    kinds, wanted, counts = [], [], {}
    for query, name in ((False, "items"), (True, "queries")):
        dropped = None
        if plan.deltas:  # an item that is a query now is no item any more, and the other way round
            other = split[not query].column("id")
            dropped = pa.chunked_array([given, *left_out.chunks, *other.chunks], pa.string())
        found = compare(split[query], old[query], dropped=dropped)
        counts[name] = found.counts.model_dump()
        kinds += [
            _kind(split[query], found.added, ADDED, query=query),
            _kind(split[query], found.changed, CHANGED, query=query),
            _kind(old[query], found.deleted, DELETED, query=query),
        ]
        wanted.append(split[query].filter(pa.array(found.added | found.changed)))
        if query:
            kept = old[query].filter(pa.array(found.kept))
            unit = pc.add(kept.column("unit"), pa.scalar(len(plan.units), pa.int32()))
            wanted.append(kept.set_column(PRESENT.get_field_index("unit"), "unit", unit))
    table = pa.concat_tables(kinds).sort_by([("id", "ascending"), ("query", "ascending")])
    path = files.located(plan.folder) / changes_file(number, plan.buckets)
    write_changes(table, path)
    known = pa.chunked_array([*old[False].column("id").chunks, *old[True].column("id").chunks], pa.string())
    return {
        **files.entry_of(path, files.located(plan.folder)).to_json(),
        **counts,
        "present": len(present),
        "ignored": int(pc.invert(pc.is_in(given, value_set=known)).to_numpy(zero_copy_only=False).sum()),
        "wanted": _write_wanted(plan, pa.concat_tables(wanted), number),
    }, []


def write_changes(table: pa.Table, path: Path) -> None:
    """Writes one file of changes; columns as `SCHEMA`, ascending by id."""
    with files.replacing(path) as temporary:
        pq.write_table(table.cast(SCHEMA), temporary, compression="zstd")


def _bucket(plan: ChangesPlan, kind: str, number: int, schema: pa.Schema) -> pa.Table:
    found = read_group(plan.all_grouped(kind), number, plan.buckets)
    return schema.empty_table() if found is None else found


def _duplicates(plan: ChangesPlan, present: pa.Table) -> list[Reject]:
    if len(pc.unique(present.column("id"))) == len(present):
        return []
    row = present.column("row").to_numpy() + np.array(plan.first, np.int64)[present.column("unit").to_numpy()]
    places = pa.table({"id": present.column("id"), "file": present.column("unit"), "row": row})
    return find_duplicates(places.sort_by([(name, "ascending") for name in ("id", "file", "row")]), plan.units)


def _check_dropped(plan: ChangesPlan, present: pa.Table, given: Any) -> None:
    both = present.filter(pc.is_in(present.column("id"), value_set=given))
    if not len(both):
        return
    first = both.slice(0, 1).to_pylist()[0]
    where = f"{plan.units[first['unit']]} row {first['row'] + plan.first[first['unit']]}"
    more = f" (and {len(both) - 1:,} more)" if len(both) > 1 else ""
    raise SourceError(
        f"id {first['id']!r}{more} is to be dropped, and stands at {where} among what is to be added or changed",
        "take it out of one of them",
    )


def _kind(table: pa.Table, rows: np.ndarray, kind: int, *, query: bool) -> pa.Table:
    ids = table.column("id").filter(pa.array(rows))
    return pa.table([ids, np.full(len(ids), kind, np.int8), np.full(len(ids), query)], schema=SCHEMA)


def _write_wanted(plan: ChangesPlan, wanted: pa.Table, number: int) -> list[list[int]]:
    """Writes wanted rows by unit; returns [unit, items, queries] of each unit with any."""
    unit = wanted.column("unit").to_numpy().astype(np.int64)
    with files.replacing(plan.grouped("want", number), flush=False) as path:
        if not len(wanted):
            path.touch()
            return []
        with GroupedWriter(path, WANTED, plan.groups) as out:
            out.write(wanted.select(WANTED.names), unit)
    query = wanted.column("query").to_numpy()
    counts = np.bincount(2 * unit + query, minlength=2 * plan.groups).reshape(-1, 2)
    return [[int(place), *counts[place].tolist()] for place in np.flatnonzero(counts.sum(axis=1))]


def wanted_rows(plan: ChangesPlan, group: int) -> pa.Table:
    """Wanted rows of one unit: columns as `WANTED`, ascending by row."""
    found = read_group(plan.all_grouped("want"), group, plan.groups)
    return (WANTED.empty_table() if found is None else found).sort_by("row")


def drop_rejected(folder: Path, path: str, rejected: Sequence[str]) -> tuple[dict[str, Any], dict[str, ChangeCounts]]:
    """Takes records out of a file of changes whose embedding proved to be bad: as in a full build, they are not present.

    Returns:
      The file's entry, and what changes in the counts of `items` and `queries` (negative ones among them).
    """
    table = pq.read_table(folder / path, schema=SCHEMA)
    bad = pc.is_in(table.column("id"), value_set=pa.array(rejected, pa.string())).to_numpy()
    kind, query = table.column("kind").to_numpy().copy(), table.column("query").to_numpy()
    added, changed = bad & (kind == ADDED), bad & (kind == CHANGED)
    differences = {}
    for name, chosen in (("items", ~query), ("queries", query)):
        more, less = int((added & chosen).sum()), int((changed & chosen).sum())
        differences[name] = ChangeCounts(added=-more, changed=-less, deleted=less)
    kind[changed] = DELETED
    table = table.set_column(1, SCHEMA.field("kind"), pa.array(kind)).filter(pa.array(~added))
    write_changes(table, folder / path)
    return files.entry_of(folder / path, folder).to_json(), differences
