"""Calibrates distance thresholds of a release on held-out queries.

python -m pipelines.calibrate --config configs/digits.yaml
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.queries import query_count, query_spec, run_queries, scratch
from simpipe import releases
from simpipe.calibration import calibrate, targets_of
from simpipe.config import Config
from simpipe.cutpoints import CUTPOINTS_JSON, THRESHOLDS, calibration_record, write_calibration
from simpipe.manifest import Manifest


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
    spec = query_spec(config, release, manifest, embeddings, k=settings.k)
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


if __name__ == "__main__":
    from simpipe.cli import main

    sys.exit(main(["calibrate", *sys.argv[1:]]))
