"""Finds groups of near-duplicate items of a release.

python -m pipelines.dedupe --config configs/digits.yaml --distance 0.01
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.queries import query_spec, run_queries, scratch
from simpipe import files, releases
from simpipe.config import Config
from simpipe.cutpoints import CUTPOINTS_JSON
from simpipe.dedupe import BLOCK, group_items
from simpipe.errors import ConfigError, ContractError
from simpipe.groups import GroupsInfo
from simpipe.job import job_of
from simpipe.manifest import Manifest
from simpipe.types import INDEXED_SPLITS


def cutoff_of(config: Config, release: Path, manifest: Manifest, *, calibrated: bool) -> float:
    """The distance within which items are near duplicates.

    Args:
      config: the line's configuration. release: the release's folder. manifest: of it.
      calibrated: whether its cutpoints are those of this configuration.

    Raises:
      ConfigError: none is configured, or the release has no such cutpoint; it lists those that there are.
    """
    settings = config.dedupe
    if settings.distance is not None:
        return settings.distance
    known: dict[str, Any] = {}
    if calibrated:
        known = files.read_json(releases.verify_file(release, manifest.file(CUTPOINTS_JSON)))["cutpoints"]
    if settings.cutpoint is not None and settings.cutpoint in known:
        return known[settings.cutpoint]["distance"]
    there = ", ".join(f"{name} ({about['distance']:.4g})" for name, about in known.items())
    cure = f"give --distance D, or --cutpoint NAME; there are: {there or 'no cutpoints, `simpipe calibrate` makes them'}"
    if settings.cutpoint is None:
        raise ConfigError("dedupe.distance, dedupe.cutpoint: none says how near items are near duplicates", cure)
    raise ConfigError(f"dedupe.cutpoint: release {manifest.release} has no cutpoint {settings.cutpoint!r}", cure)


def run(
    config: Config,
    *,
    release: Path,
    embeddings: Path,
    folder: Path,
    key: str,
    cutoff: float,
    beam_args: Sequence[str] = (),
    block: int = BLOCK,
) -> GroupsInfo:
    """Asks the release for the neighbors of each of its items, and groups those within `cutoff`.

    Args:
      config: the line's configuration. release: its folder. embeddings: the data set that it was built from.
      folder: of the groups; key: what they are made from.
      cutoff: a distance. beam_args: Beam's own options. block: pairs that a step holds at once.

    Raises:
      ContractError: an item was lost, or two ids have one hash. RejectedError: too many items cannot be asked.
    """
    files.remove_folder(folder)  # unfinished, or damaged
    folder.mkdir(parents=True)
    work = scratch(release, "dedupe")
    try:
        info = _run(config, release, embeddings, folder, work, key=key, cutoff=cutoff, beam_args=beam_args, block=block)
    finally:
        files.remove_folder(work)
    info.save(folder)
    return info


def _run(
    config: Config,
    release: Path,
    embeddings: Path,
    folder: Path,
    work: Path,
    *,
    key: str,
    cutoff: float,
    beam_args: Sequence[str],
    block: int,
) -> GroupsInfo:
    from simpipe.beam.dedupe import CollectEdges
    from simpipe.beam.io import read_summary

    settings, manifest = config.dedupe, Manifest.load(release)
    spec = query_spec(config, release, manifest, embeddings, k=settings.k, splits=INDEXED_SPLITS, names=frozenset())
    collect = CollectEdges(cutoff, str(work), str(work / "pairs.json"))
    how = {"beam_args": beam_args, "verb": "dedupe", "rejects": settings.rejects, "folder": folder}
    asked = run_queries(config, spec, manifest=manifest, collect=collect, **how)
    summary = read_summary(work / "pairs.json")
    if not asked.written == summary.counts.read == manifest.items:
        raise ContractError(
            f"{folder}: {asked.written} items answered, {summary.counts.read} compared, {manifest.items} in the release",
            "the release does not fit the embeddings, or the runner lost items: build again, or report the runner",
        )
    pairs = [work / record["path"] for record in summary.records if record["pairs"]]
    store = [releases.verify_file(release, entry) for entry in manifest.under("store")]
    found = group_items(pairs, store, folder, work, block=block, spread=_spread(config, work, beam_args))
    truncated = sum(record["truncated"] for record in summary.records)
    return GroupsInfo(
        key=key,
        release=manifest.release,
        distance=manifest.distance,
        cutoff=float(np.float32(cutoff)),
        cutpoint=settings.cutpoint,
        k=settings.k,
        counts={"items": summary.counts.read, **found.counts, "truncated": truncated},
        files=found.files,
        provenance={"build": manifest.steps["build"], **manifest.provenance},
    )


def _spread(config: Config, work: Path, beam_args: Sequence[str]) -> Any:
    """Runs a step's buckets as a Beam job, where there are several."""
    from pipelines import graphs
    from simpipe.beam.io import read_summary
    from simpipe.beam.options import run_graph
    from simpipe.components import one_by_one

    def spread(step: Callable[[int], int], count: int) -> list[int]:
        if count == 1:
            return one_by_one(step, count)
        path = work / "buckets.json"
        run_graph(graphs.buckets(step, count, path), job_of(config, "dedupe", beam_args))
        records = read_summary(path).records
        if [int(record["path"]) for record in records] != list(range(count)):
            raise ContractError(f"{work}: {count} buckets, {len(records)} came back", "run the step again, and report the runner")
        return [record["value"] for record in records]

    return spread


def told(info: GroupsInfo) -> str:
    """The groups in one line."""
    counts = info.counts
    return (
        f"{counts['members']:,} near duplicates in {counts['groups']:,} groups (largest {counts['largest']:,}) "
        f"of {counts['items']:,} items"
    )


if __name__ == "__main__":
    from simpipe.cli import main

    sys.exit(main(["dedupe", *sys.argv[1:]]))
