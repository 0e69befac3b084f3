"""A release's items for other software: FAISS, Vertex AI Vector Search, Milvus or NumPy.

simpipe export --to numpy --out exports/digits --root runs/digits
"""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simpipe import __version__, files, releases
from simpipe.beam.export import SUMMARY_JSON, WORK, ExportSpec
from simpipe.config import Config
from simpipe.config.runner import DataflowRunner
from simpipe.errors import ConfigError, ContractError, RejectedError
from simpipe.exports.contract import EXPORT_JSON, ExportFile, ExportInfo, Finished, Kind, Plan, contents_of
from simpipe.exports.unit import target_of
from simpipe.gcs import SCHEME
from simpipe.index.cache import default_bytes
from simpipe.index.searcher import Searcher, open_release
from simpipe.job import job_of
from simpipe.progress import watching

STARTED_JSON = "started.json"
# What a killed export may have left; anything else is not ours to remove.
_OURS = re.compile(
    r"(data/)?(items|vectors|index)-\d{5}-\d{3}\.(parquet|npy|faiss|json)|index\.(faiss|json)|schema\.json"
    rf"|{re.escape(WORK)}/.*|(.*/)?{re.escape(files.TMP_PREFIX)}.*"
)


def run(
    root: str,
    out: str,
    kind: Kind,
    *,
    release: str | None = None,
    config: Config | None = None,
    memory: int | None = None,
    beam_args: Sequence[str] = (),
) -> tuple[Path, ExportInfo]:
    """Exports all items of a release.

    Args:
      root: of releases, or a release's folder. release: its id or tag; None: the live one.
      out: a new or empty folder, or one that a killed export left, local or `gs://`.
      config: says where the job runs; None: in this process.
      memory: bytes that one FAISS index may take here; None: 4 GiB, or half of the machine's where that is less.
      beam_args: Beam's own options.

    Returns:
      The folder, and what `export.json` in it says; that file is written last.

    Raises:
      ConfigError: the target cannot hold this release. ContractError: `out` is not empty, or items were lost.
      RejectedError: items break a limit of the target. ReleaseError: no such release, or it was altered.
    """
    from pipelines import graphs
    from simpipe.beam.io import read_summary
    from simpipe.beam.options import check_options, run_graph

    folder = files.located(out.rstrip("/") or out)
    if config is not None and isinstance(config.runner, DataflowRunner) and not str(folder).startswith(SCHEME):
        raise ConfigError(f"--out {folder}: is local: workers of Dataflow cannot see it", "give a gs:// address")
    job = job_of(config, "export", beam_args, name=release)
    check_options(job)
    target = target_of(kind)
    with open_release(root, release) as searcher:
        plan = target.plan(contents_of(searcher))
        started = _start(folder, searcher, kind)
        manifest = searcher.manifest
        spec = ExportSpec(str(searcher.folder.resolve()), str(folder), kind, manifest.store_files)
        with watching("export", lambda: len(list(folder.glob(target.PATTERN))), manifest.store_files, "files"):
            run_graph(graphs.export(spec), job)
        outcome = read_summary(folder / WORK / SUMMARY_JSON)
        if outcome.counts.read != manifest.items:
            raise ContractError(
                f"{folder}: {manifest.items} items in {manifest.release}, {outcome.counts.read} read",
                "items were lost or doubled by the runner: run again, and report the runner",
            )
        if outcome.rejects:
            _remove_written(folder, [record["path"] for record in outcome.records])
            shown = "\n".join(f"  {each.id!r}: {each.reason}" for each in outcome.rejects[:5])
            raise RejectedError(
                f"--to {kind}: {outcome.counts.rejected:,} of {outcome.counts.read:,} items break a limit of the target, listed "
                f"in {folder / WORK / 'rejects'}\n{shown}",
                "mend these items, or use --to numpy, which has no such limits",
            )
        finished = target.finish(folder, plan, outcome.records, memory=default_bytes() if memory is None else memory)
        info = _info(folder, kind, searcher, plan, outcome.records, finished, distances=target.DISTANCES[manifest.distance])
    if files.read_json(folder / WORK / STARTED_JSON) != started:
        raise ContractError(f"{folder}: another export was started here meanwhile", "give each export a folder of its own")
    info.save(folder)
    files.remove_folder(folder / WORK)
    return folder, info


def _start(folder: Path, searcher: Searcher, kind: Kind) -> dict[str, Any]:
    """Marks the folder as one of an unfinished export, after what a killed one left is gone.

    Raises:
      ContractError: there is something else in it.
    """
    if folder.exists() and not folder.is_dir():
        raise ContractError(f"--out {folder}: is no folder", "name a new folder")
    there = list(files.tree(folder)) if folder.is_dir() else []
    foreign = [name for name in there if not _OURS.fullmatch(name)]
    unfinished = f"{WORK}/{STARTED_JSON}" in there and EXPORT_JSON not in there
    if there and (foreign or not unfinished):
        what = f"holds {foreign[0]}" if foreign else "holds files"
        raise ContractError(f"--out {folder}: {what}, and must be empty", "name a new folder")
    _remove_written(folder, there)
    about = {"release": searcher.manifest.release, "kind": kind, "by": secrets.token_hex(8), "at": releases.now()}
    files.write_json(folder / WORK / STARTED_JSON, about)
    return about


def _remove_written(folder: Path, names: Sequence[str]) -> None:
    files.remove_files([files.inside(folder, name) for name in names])


def _info(
    folder: Path,
    kind: Kind,
    searcher: Searcher,
    plan: Plan,
    records: Sequence[dict[str, Any]],
    finished: Finished,
    *,
    distances: str,
) -> ExportInfo:
    """What `export.json` says. Files that are in others now are removed here, before it is written."""
    gone = {path.relative_to(folder).as_posix() for path in finished.removed}
    listed = [ExportFile(**{name: record[name] for name in ExportFile.model_fields}) for record in records]
    kept = [file for file in listed if file.path not in gone]
    kept += [ExportFile(**files.entry_of(path, folder).to_json()) for path in finished.added]
    files.remove_files(finished.removed)
    manifest = searcher.manifest
    return ExportInfo(
        kind=kind,
        release=manifest.release,
        encoder=manifest.encoder.fingerprint,
        created_at=releases.now(),
        simpipe_version=__version__,
        items=manifest.items,
        dim=manifest.dim,
        distance=manifest.distance,
        distances=distances,
        carried=dict(plan.carried),
        left_out=dict(plan.left_out),
        reading=finished.reading,
        notes=finished.notes,
        files=tuple(kept),
    )


if __name__ == "__main__":
    from simpipe.cli import main

    sys.exit(main(["export", *sys.argv[1:]]))
