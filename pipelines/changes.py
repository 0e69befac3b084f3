"""Finds what changed since a release, and embeds only that.

Used by `simpipe reindex`; see docs/reindex.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from simpipe import files, releases
from simpipe.config import Config
from simpipe.data.examples import resolve_classes, sort_classes
from simpipe.data.vectors import find_ids
from simpipe.digests import digests_file
from simpipe.embeddings import EMBEDDINGS_JSON, EmbeddingsFile, EmbeddingsInfo
from simpipe.errors import ContractError, DuplicateIdError, ReleaseError
from simpipe.ids import bucket_of
from simpipe.job import job_of
from simpipe.manifest import Manifest
from simpipe.progress import watching
from simpipe.reindex.changes import ChangeCounts, ChangesFile, ChangesInfo, begin_data_set
from simpipe.reindex.detect import ChangesPlan, drop_rejected
from simpipe.reindex.embed_changes import plan_parts
from simpipe.reindex.gather import gather_queries
from simpipe.reindex.units import ExampleUnits, Units, VectorUnits, about_embeddings, open_units
from simpipe.reindex.units import Present as Present
from simpipe.types import Counts

_LOST = "records were lost or doubled by the runner: run the step again, and report the runner"


def run(
    config: Config,
    present: Present,
    *,
    base: Path,
    manifest: Manifest,
    folder: Path,
    key: str,
    beam_args: Sequence[str] = (),
) -> tuple[EmbeddingsInfo, ChangesInfo]:
    """Compares what is present with a release, and embeds what was added or changed.

    The data set holds items that were added or changed, and all held-out queries as they are now: those that are as they were
    are copied from the embeddings that the release was made from (where these are gone, all queries are embedded anew). Where
    nothing changed it has no files. A finished folder is the result; an unfinished one is continued.

    Args:
      config: the line's configuration: classes, queries, seed and limits of rejects count.
      base: the release's folder. manifest: its manifest.
      folder: where the data set goes. key: what it is made from.
      beam_args: Beam's own options.

    Raises:
      ReleaseError: the release has no digests. IncompatibleError: it has another encoder, dim, distance or metadata.
      DuplicateIdError: one id, two records. RejectedError: too many bad records. SourceError: an id is present and to be
      dropped. ContractError: records were lost.
    """
    from pipelines import graphs
    from simpipe.beam.io import Outcome, check_rejects, read_summary
    from simpipe.beam.options import run_graph

    if (folder / EMBEDDINGS_JSON).exists() and (done := EmbeddingsInfo.load(folder)).key == key:
        return done, ChangesInfo.load(folder)
    files.remove_leftovers(folder)
    work = begin_data_set(folder, manifest.release)
    units = open_units(config, present)
    about = about_embeddings(units, manifest)
    plan = _plan(units, present, base=base, manifest=manifest, folder=folder, root=files.located(config.root))

    def scanned_files() -> int:
        return len(list(work.glob("scan-*.arrow")))

    with watching("changes", scanned_files, len(plan.units), "blocks"):
        run_graph(graphs.find_changes(units, plan), job_of(config, "reindex", beam_args))
    found = read_summary(work / "find.json")
    scanned = [record for record in found.records if "unit" in record]
    joined = [record for record in found.records if "unit" not in record]
    if any(record["duplicates"] for record in joined):
        raise _duplicates(present, joined)
    compared = sum(record["present"] for record in joined)
    if compared != found.counts.written or (len(scanned), len(joined)) != (len(plan.units), plan.buckets):
        raise ContractError(f"{folder}: {found.counts.written} records present, {compared} compared", _LOST)
    if present.source is not None and not present.deltas:
        labels = {label for record in scanned for label in record["labels"]}
        resolve_classes(config.classes.index, sort_classes(labels), "classes.index")
    changes = _changes(manifest, joined)
    embedded = None
    if changes.any:
        parts = plan_parts([entry for record in joined for entry in record["wanted"]])
        with watching("embed", lambda: len(list(folder.glob("[a-z]*.parquet"))), len(parts), "files"):
            run_graph(graphs.embed_changes(parts, units, plan), job_of(config, "embed", beam_args))
        embedded = read_summary(work / "embed.json")
    counts, bad = found.counts, list(found.rejects)
    if embedded is not None:
        counts = Counts(counts.read, counts.written - embedded.counts.rejected, counts.rejected + embedded.counts.rejected)
        bad += embedded.rejects
    limit, field = (config.rejects, "rejects") if present.source else (config.embed.rejects, "embed.rejects")
    check_rejects(
        Outcome(counts, (), tuple(bad)), max_share=limit.max_share, step="changes", folder=folder, field=f"{field}.max_share"
    )
    records = embedded.records if embedded else ()
    changes = _without_rejected(folder, changes, [name for record in records for name in record.get("rejected", ())])
    old_queries = sum(pq.read_metadata(files.located(file.path)).num_rows for file in plan.old_queries)
    _check_counts(folder, changes, records, manifest=manifest, queries=old_queries)
    excluded = sum(record["excluded"] for record in scanned)
    records = gather_queries(folder, records)
    listed = sorted(records, key=lambda record: record["path"])  # items before queries
    made_from = {"examples": units.spec.info.key} if isinstance(units, ExampleUnits) else {}
    info = EmbeddingsInfo(
        key=key,
        **vars(about),
        files=tuple(EmbeddingsFile(**{name: record[name] for name in EmbeddingsFile.model_fields}) for record in listed),
        counts={"read": counts.read, "written": sum(record["rows"] for record in records), "rejected": counts.rejected},
        provenance={"base": manifest.release, "deltas": present.deltas, "excluded": excluded, **made_from},
    )
    return _finish(folder, info, changes), changes


def _plan(units: Units, present: Present, *, base: Path, manifest: Manifest, folder: Path, root: Path) -> ChangesPlan:
    names = [digests_file(number, manifest.store_files) for number in range(manifest.store_files)]
    if not all(manifest.has(name) for name in names):
        raise ReleaseError(f"release {manifest.release}: it has no digests to compare with", "run `simpipe run` once")
    entries = [manifest.file(name) for name in names]
    if isinstance(units, VectorUnits):
        places = [(Path(block.path).name, block.first) for block in units.plan.blocks]
    else:
        places = [(Path(shard.path).name, 0) for shard in units.shards] if units is not None else []
    return ChangesPlan(
        folder=str(folder),
        work=str(folder / ".work"),
        digests=tuple(files.HashedFile(str(releases.resolve(base, entry)), entry.size, entry.sha256) for entry in entries),
        old_queries=_old_queries(present, manifest, root),
        units=tuple(name for name, _ in places),
        first=tuple(first for _, first in places),
        dropped=tuple(str(path) for path in dropped_files(present.deleted)),
        deltas=present.deltas,
    )


def dropped_files(folder: Path | None) -> list[Path]:
    """The files of ids to drop, in name order."""
    if folder is None:
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in (".parquet", ".txt") and not path.name.startswith("."))


def _old_queries(present: Present, manifest: Manifest, root: Path) -> tuple[files.HashedFile, ...]:
    """The held-out queries of the release's embeddings, with their digests.

    Raises:
      ContractError: they are gone, and what is present are changes only.
    """
    key = manifest.provenance.get("embeddings")
    folder = root / "embeddings" / str(key)[:12]
    if key and (folder / EMBEDDINGS_JSON).exists():
        found = EmbeddingsInfo.load(folder).of_splits("query")
        if all("digest" in pq.read_schema(files.inside(folder, file.path)).names for file in found):
            return tuple(files.HashedFile(str(files.inside(folder, file.path)), file.size, file.sha256) for file in found)
    if present.deltas:
        raise ContractError(
            f"{folder}: the embeddings of release {manifest.release} are gone, and with them its held-out queries",
            "run `simpipe reindex` without --deltas once",
        )
    return ()


def _duplicates(present: Present, joined: Sequence[dict[str, Any]]) -> DuplicateIdError:
    """The error for ids that come twice; for ready-made vectors it names the rows of the user's own files."""
    shown = [entry for record in joined for entry in record["shown"]][:5]
    lines = [reason for _, reason in shown]
    if present.source is not None:
        places = find_ids(present.source, [name for name, _ in shown])
        lines = [f"id {name!r} stands at {' and at '.join(where)}" for name, where in places.items()]
    return DuplicateIdError(
        f"{sum(record['duplicates'] for record in joined)} rows have the id of another one\n  " + "\n  ".join(lines),
        "give every item an id of its own, or drop the repeated rows",
    )


def _changes(manifest: Manifest, records: Sequence[dict[str, Any]]) -> ChangesInfo:
    """Of the buckets' records, in their order."""
    items, queries = (sum((ChangeCounts(**record[name]) for record in records), ChangeCounts()) for name in ("items", "queries"))
    listed = tuple(ChangesFile(**{name: record[name] for name in ChangesFile.model_fields}) for record in records)
    ignored = sum(record["ignored"] for record in records)
    return ChangesInfo(base=manifest.release, items=items, queries=queries, files=listed, ignored=ignored)


def _without_rejected(folder: Path, changes: ChangesInfo, rejected: Sequence[str]) -> ChangesInfo:
    """The changes without records whose embedding is bad; the files of their buckets are written again."""
    if not rejected:
        return changes
    listed = list(changes.files)
    totals = {"items": changes.items, "queries": changes.queries}
    buckets = bucket_of(rejected, len(listed))
    for bucket in sorted(set(buckets.tolist())):
        names = [rejected[place] for place in np.flatnonzero(buckets == bucket).tolist()]
        entry, differences = drop_rejected(folder, listed[bucket].path, names)
        listed[bucket] = ChangesFile(**{name: entry[name] for name in ChangesFile.model_fields})
        totals = {name: total + differences[name] for name, total in totals.items()}
    return changes.model_copy(update={**totals, "files": tuple(listed)})


def _check_counts(
    folder: Path, changes: ChangesInfo, records: Sequence[dict[str, Any]], *, manifest: Manifest, queries: int
) -> None:
    """Refuses a data set that lost or doubled records.

    Raises:
      ContractError: says which counts differ.
    """
    for name, split, counts, old in (
        ("items", "index", changes.items, manifest.items),
        ("queries", "query", changes.queries, queries),
    ):
        rows = sum(record["rows"] for record in records if record["split"] == split)
        expected = counts.added + counts.changed + (counts.unchanged if name == "queries" and records else 0)
        before = counts.changed + counts.deleted + counts.unchanged
        if rows != expected or before != old:
            raise ContractError(
                f"{folder}: {rows:,} {name} in files, {expected:,} expected; {before:,} of {old:,} old ones accounted for", _LOST
            )


def _finish(folder: Path, info: EmbeddingsInfo, changes: ChangesInfo) -> EmbeddingsInfo:
    """Writes `changes.json`, then `embeddings.json`, which makes the data set visible; removes what an earlier attempt left."""
    listed = {file.path for file in info.files}
    for path in folder.glob("*.parquet"):
        if path.name not in listed:
            path.unlink()
    changes.save(folder)
    info.save(folder)
    files.remove_folder(folder / ".work")
    return info
