"""Writes the items of a release as an embeddings data set, from which a release can be built or measured.

Used by `simpipe reindex`; see docs/reindex.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simpipe import files
from simpipe.config import Config
from simpipe.data.examples import shard_name
from simpipe.embeddings import EMBEDDINGS_JSON, EmbeddingsFile, EmbeddingsInfo
from simpipe.errors import ContractError
from simpipe.index.searcher import Searcher
from simpipe.job import job_of
from simpipe.manifest import Manifest
from simpipe.progress import watching
from simpipe.reindex.changes import ChangesInfo, begin_data_set
from simpipe.reindex.unload import take_file, unload_schema
from simpipe.types import INDEXED_SPLITS


def run(
    config: Config,
    *,
    base: Path,
    manifest: Manifest,
    folder: Path,
    key: str,
    delta: Path | None = None,
    applied: bool = False,
    beam_args: Sequence[str] = (),
) -> EmbeddingsInfo:
    """Unloads all items of a release, one file a store file; a finished folder is the result.

    Args:
      config: names the job.
      base, manifest: the release.
      folder: where the data set goes. key: what it is made from.
      delta: an embeddings data set whose held-out queries become those of this one. Items that it changes or deletes are left
        out, and its items are added, unless it is `applied`: in the release already.
      beam_args: Beam's own options.

    Raises:
      ContractError: a file is altered, the changes belong to another release, or items were lost.
    """
    from pipelines import graphs
    from simpipe.beam.io import read_summary
    from simpipe.beam.options import run_graph
    from simpipe.beam.unload import UnloadSpec

    if (folder / EMBEDDINGS_JSON).exists() and (done := EmbeddingsInfo.load(folder)).key == key:
        return done
    files.remove_leftovers(folder)
    begin_data_set(folder, manifest.release)
    info = None if delta is None else EmbeddingsInfo.load(delta)
    changes = None if delta is None or applied else ChangesInfo.load(delta)
    if changes is not None and changes.base != manifest.release:
        message = f"{delta}: changes of {changes.base}, not of {manifest.release}"
        raise ContractError(message, "run `simpipe reindex` again")
    added = [] if info is None or applied else info.of_splits(*INDEXED_SPLITS)
    count = manifest.store_files + len(added)
    names = [shard_name("index", number, count, ".parquet") for number in range(count)]
    spec = UnloadSpec(str(base.resolve()), str(folder), tuple(names[: manifest.store_files]), delta and str(delta), changes)
    with watching("unload", lambda: len(list(folder.glob("index-*.parquet"))), manifest.store_files, "files"):
        run_graph(graphs.unload(spec), job_of(config, "reindex", beam_args))
    outcome = read_summary(folder / ".work" / "unload.json")
    gone = changes.items.changed + changes.items.deleted if changes else 0
    if outcome.counts.read != manifest.items or outcome.counts.excluded != gone:
        raise ContractError(
            f"{folder}: {manifest.items} items in {manifest.release}, {outcome.counts.read} read; {gone} to leave out, "
            f"{outcome.counts.excluded} left out",
            "items were lost or doubled by the runner: run again, and report the runner",
        )
    records = [EmbeddingsFile(**{name: record[name] for name in EmbeddingsFile.model_fields}) for record in outcome.records]
    if delta is not None and info is not None:
        kind = unload_schema(Searcher(base, manifest))
        records += [
            _taken(delta, file, folder, name, kind) for file, name in zip(added, names[manifest.store_files :], strict=True)
        ]
        records += [_taken(delta, file, folder, file.path, None) for file in info.of_splits("query")]
    written = sum(record.rows for record in records)
    made_from = {"delta": info.key, "applied": applied} if info else {}
    if info is not None and "examples" in info.provenance:
        made_from["examples"] = info.provenance["examples"]
    result = EmbeddingsInfo(
        key=key,
        dim=manifest.dim,
        distance=manifest.distance,
        encoder=manifest.encoder.fingerprint,
        metadata=manifest.metadata,
        files=tuple(records),
        counts={"read": written, "written": written, "rejected": 0},
        provenance={"base": manifest.release, **made_from},
    )
    files.remove_folder(folder / ".work")
    result.save(folder)
    return result


def _taken(delta: Path, file: EmbeddingsFile, folder: Path, name: str, kind: Any) -> EmbeddingsFile:
    """A file of the delta that was put into `folder` as `name`."""
    source = files.inside(delta, file.path)
    files.verify(source, files.FileEntry(file.path, file.size, file.sha256))
    take_file(source, folder / name, kind)
    entry = files.entry_of(folder / name, folder)
    split = "query" if file.split == "query" else "index"
    return EmbeddingsFile(path=name, split=split, rows=file.rows, size=entry.size, sha256=entry.sha256)
