"""Calibrates distance thresholds of a release on held-out queries.

python -m pipelines.calibrate --config configs/digits.yaml
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from simpipe import files, releases
from simpipe.calibration import calibrate, targets_of
from simpipe.config import Config
from simpipe.cutpoints import CUTPOINTS_JSON, THRESHOLDS, calibration_record, write_calibration
from simpipe.embeddings import EmbeddingsInfo
from simpipe.errors import ContractError, IncompatibleError, SimpipeError
from simpipe.index.query import QuerySpec
from simpipe.index.searcher import Searcher
from simpipe.manifest import Manifest
from simpipe.progress import watching


def run(config: Config, *, release: Path, embeddings: Path, key: str, beam_args: Sequence[str] = ()) -> tuple[Path, Manifest]:
    """Adds `cutpoints.json` and `thresholds.parquet` to a release (to a new one if it was ever published).

    Args:
      config: the line's configuration. release: the release's folder. embeddings: holds the `query` split.
      key: what the calibration is made from. beam_args: Beam's own options.

    Raises:
      SimpipeError: there are no queries. IncompatibleError: queries of another encoder, dim or distance.
    """
    from simpipe.beam.query import CollectPairs, read_pairs

    manifest = Manifest.load(release)
    settings = config.calibrate
    spec = query_spec(config, release, manifest, embeddings, k=settings.k, exact=False)
    work = scratch(release, "calibrate")
    path = work / "pairs.npz"
    collect = CollectPairs(settings.matcher, str(path))
    run_queries(config, spec, manifest=manifest, collect=collect, beam_args=beam_args, verb="calibrate")
    pairs = read_pairs(path)
    shutil.rmtree(work)
    result = calibrate(pairs, metric=settings.metric, targets=targets_of(settings.targets)) if pairs.queries else None
    folder, manifest = releases.open_for_change(release, manifest, "calibrate")
    # What later steps made of another calibration goes with it.
    stale = [CUTPOINTS_JSON, THRESHOLDS, "metrics.json", "report.html"]
    manifest = releases.drop_files(folder, manifest, stale, ["calibrate", "evaluate", "report"])
    manifest = manifest.model_copy(update={"search": config.search.model_dump(mode="json")})
    targets = {name: list(values) for name, values in settings.targets.items()}
    record = calibration_record(
        result,
        matcher=settings.matcher,
        k=settings.k,
        metric=settings.metric,
        targets=targets,
        queries=query_count(embeddings),
    )
    written = write_calibration(folder, record, result.thresholds if result else {})
    manifest = manifest.with_files(folder, written, calibrate=key)
    manifest.save(folder)
    return folder, manifest


def scratch(release: Path, step: str) -> Path:
    """An empty work folder beside the release; what a killed run left there goes."""
    work = release.parent / f".work-{release.name}-{step}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    return work


def query_count(embeddings: Path) -> int:
    return sum(file.rows for file in EmbeddingsInfo.load(embeddings).of_splits("query"))


def query_spec(config: Config, release: Path, manifest: Manifest, embeddings: Path, *, k: int, exact: bool) -> QuerySpec:
    """The job over the `query` split, after checking that the queries fit the release.

    Raises:
      IncompatibleError: names both sides. SimpipeError: no queries. ContractError: an altered file.
    """
    info = EmbeddingsInfo.load(embeddings)
    for what, own, other in (
        ("encoder", manifest.encoder.fingerprint, info.encoder),
        ("dim", manifest.dim, info.dim),
        ("distance", manifest.distance, info.distance),
    ):
        if own != other:
            raise IncompatibleError(
                f"{embeddings}: {what} {str(other)[:12]}, release {manifest.release} has {str(own)[:12]}",
                "embed the queries with the release's encoder, or build a release from these embeddings",
            )
    listed = [file for file in info.of_splits("query") if file.rows]
    if not listed:
        raise SimpipeError(f"{embeddings}: no held-out queries", "set queries.fraction above 0, or add data")
    paths = []
    for file in listed:
        path = files.inside(embeddings, file.path)
        files.verify(path, files.FileEntry(file.path, file.size, file.sha256))
        paths.append(str(path))
    # As `lookup` will ask: the configuration may have changed since the build.
    setting = Searcher(release, manifest).setting_of(config.search.model_dump())
    return QuerySpec(str(release), tuple(paths), k, exact, config.search.block, setting=setting)


def run_queries(
    config: Config, spec: QuerySpec, *, manifest: Manifest, collect: Any, beam_args: Sequence[str], verb: str
) -> None:
    """Runs one job over all queries.

    Args:
      spec: the job. manifest: of its release.
      collect: a PTransform that consumes the answers.
      beam_args: Beam's own options. verb: for names.

    Raises:
      ContractError: a query was not answered exactly once.
    """
    from simpipe.beam.io import read_summary
    from simpipe.beam.options import run_graph
    from simpipe.beam.query import CountAnswers, QueryRelease

    work = scratch(Path(spec.release), "counts")
    spec = replace(spec, work=str(work))
    partitions = tuple(part.partition for part in manifest.partitions if part.rows)

    def graph(pipeline: Any) -> None:
        answers = pipeline | "QueryRelease" >> QueryRelease(spec, partitions)
        _ = answers | "Collect" >> collect
        _ = answers | "CountAnswers" >> CountAnswers(str(work / "summary.json"))

    with watching(verb, lambda: len(list(work.glob("*.done"))), len(partitions), "partitions"):
        run_graph(graph, beam_args, job_name=f"simpipe-{verb}-{config.name}")
    answered = read_summary(work / "summary.json").counts.written
    shutil.rmtree(work)
    asked = sum(pq.read_metadata(path).num_rows for path in spec.files)
    if answered != asked:
        raise ContractError(f"{verb}: {asked} queries asked, {answered} answered", "run the step again, and report the runner")


if __name__ == "__main__":
    from simpipe.cli import main

    sys.exit(main(["calibrate", *sys.argv[1:]]))
