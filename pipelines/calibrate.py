"""Calibrates distance thresholds of a release on held-out queries, or on the indexed items themselves.

python -m pipelines.calibrate --config configs/digits.yaml
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.evaluate import EVALUATION_FILES
from pipelines.queries import label_items, query_spec, run_queries, scratch
from simpipe import files, releases
from simpipe.calibration import Calibration, PairCounts, calibrate, targets_of
from simpipe.calibration.by_group import group_cutpoints
from simpipe.calibration.counts import LABEL, CalibrationCounts, CountSpec, matcher_key
from simpipe.calibration.curves import curves, distribution
from simpipe.config import Config
from simpipe.config.measure import CalibrateConfig, MatcherConfig
from simpipe.cutpoints import CURVES, CUTPOINTS_BY, DISTRIBUTIONS, calibration_record, is_calibration, write_calibration
from simpipe.embeddings import EmbeddingsInfo
from simpipe.errors import ConfigError
from simpipe.manifest import Manifest
from simpipe.probability import fit_probability
from simpipe.types import QUERY_SPLITS
from simpipe.verdict import VERDICT_JSON

_LATER = (*EVALUATION_FILES, "report.html", VERDICT_JSON)  # what later steps made of another calibration


def run(config: Config, *, release: Path, embeddings: Path, key: str, beam_args: Sequence[str] = ()) -> tuple[Path, Manifest]:
    """Adds `cutpoints.json` and its tables to a release (to a new one if it was ever published).

    Args:
      config: the line's configuration. release: the release's folder. embeddings: holds the queries.
      key: what the calibration is made from. beam_args: Beam's own options.

    Raises:
      SimpipeError: there are no queries. IncompatibleError: queries of another encoder, dim or distance.
      ConfigError: `calibrate.by` is no column of the queries. RejectedError: too many queries cannot be asked.
    """
    manifest = Manifest.load(release)
    counts = count(config, release, manifest, embeddings, beam_args=beam_args)
    record, thresholds, tables = measure(config, counts)
    folder, manifest = releases.open_for_change(release, manifest, "calibrate")
    stale = [entry.path for entry in manifest.files if is_calibration(entry.path) or entry.path in _LATER]
    manifest = releases.drop_files(folder, manifest, stale, ["calibrate", "evaluate", "report", "gate"])
    for path in stale:
        (folder / path).unlink(missing_ok=True)
    manifest = manifest.model_copy(update={"search": config.search.model_dump(mode="json")})
    first = matcher_key(config.calibrate.matcher, config.calibrate.k)
    further = {name: columns for name, columns in thresholds.items() if name != first}
    written = write_calibration(folder, record, thresholds.get(first, {}), further=further, tables=tables)
    manifest = manifest.with_files(folder, written, calibrate=key)
    manifest.save(folder)
    return folder, manifest


def count(
    config: Config, release: Path, manifest: Manifest, embeddings: Path, *, beam_args: Sequence[str] = ()
) -> CalibrationCounts:
    """Asks the release with all queries, and counts the answers; arguments and errors as in `run`."""
    from simpipe.beam.calibrate import CollectCalibration, write_labels

    settings = config.calibrate
    by = settings.by
    columns = () if by in (None, LABEL) else (by,)
    known = EmbeddingsInfo.load(embeddings).metadata
    if columns and by not in known:
        raise ConfigError(f"calibrate.by: there is no column {by!r}", f"write `label`, or one of: {', '.join(known) or 'none'}")
    spec = query_spec(
        config,
        release,
        manifest,
        embeddings,
        k=settings.depth,
        columns=columns,
        names={"labels"},
        splits=QUERY_SPLITS[settings.queries],
        max_queries=settings.max_queries,
    )
    rejected = release.parent.parent / "calibrate"  # the root: a release holds only what it is made of
    files.remove_folder(rejected / "rejects")
    work = scratch(release, "calibrate")
    labels, path = work / "labels.parquet", work / "counts.npz"
    # Without its own entry, an item that is alone with its label cannot be matched.
    write_labels(label_items(release, manifest, at_least=2 if settings.queries == "items" else 1).column(LABEL), labels)
    wanted = CountSpec(tuple((each.matcher, each.k) for each in _matchers(settings)), by, settings.max_distinct)
    run_queries(
        config,
        spec,
        manifest=manifest,
        collect=CollectCalibration(wanted, str(labels), str(path)),
        beam_args=beam_args,
        verb="calibrate",
        rejects=settings.rejects,
        folder=rejected,
    )
    counts = CalibrationCounts.load(path)
    files.remove_folder(work)
    return counts


def measure(config: Config, counts: CalibrationCounts) -> tuple[dict[str, Any], dict[str, dict[str, Any]], dict[str, pa.Table]]:
    """What a release holds of the calibration, from its counts.

    Returns:
      The record of `cutpoints.json`; all thresholds, by matcher; tables by file name. Without labels there are no cutpoints.
    """
    settings = config.calibrate
    targets = {name: list(values) for name, values in settings.targets.items()}
    records: dict[str, dict[str, Any]] = {}
    thresholds: dict[str, dict[str, Any]] = {}
    tables: dict[str, list[pa.Table]] = {CURVES: [], DISTRIBUTIONS: []}
    by = None
    for place, each in enumerate(_matchers(settings)):
        name = matcher_key(each.matcher, each.k)
        pairs = counts.pairs.get(name)
        result, probability = None, None
        if pairs is not None and pairs.queries:
            result, probability = _calibrated(config, pairs)
            thresholds[name] = result.thresholds
            for file, table in _drawn(config, pairs, result).items():
                tables[file].append(table.add_column(0, "matcher", pa.array([name] * len(table), pa.string())))
        if place == 0 and settings.by is not None and result is not None and counts.groups is not None:
            table, groups = group_cutpoints(
                counts.groups,
                metrics=[metric for metric in result.thresholds if metric != "distance"],
                metric=settings.metric,
                optimal=settings.optimal,
                targets=targets_of(settings.targets),
                min_queries=settings.by_min_queries,
            )
            tables[CUTPOINTS_BY] = [table]
            about = {"column": settings.by, "groups": groups, "file": CUTPOINTS_BY, "min_queries": settings.by_min_queries}
            by = {**about, "dropped_bits": counts.groups.dropped_bits, "threshold_error": counts.groups.threshold_error}
        records[name] = calibration_record(
            result,
            matcher=each.matcher,
            k=each.k,
            metric=settings.metric,
            targets=targets,
            queries=counts.queries,
            depth=settings.depth,
            probability=probability,
        )
        if result is not None:
            wanted = [target.name for target in targets_of(settings.targets)]
            records[name]["unreached"] = [target for target in wanted if target not in result.cutpoints]
    first, *others = records
    record = {**records[first], "matchers": {name: records[name] for name in others}, "by": by}
    return record, thresholds, {file: pa.concat_tables(parts) for file, parts in tables.items() if parts}


def _matchers(settings: CalibrateConfig) -> list[MatcherConfig]:
    """The first one and the further ones, each once."""
    first = MatcherConfig(matcher=settings.matcher, k=settings.k)
    return list({matcher_key(each.matcher, each.k): each for each in (first, *settings.matchers)}.values())


def _calibrated(config: Config, pairs: PairCounts) -> tuple[Calibration, dict[str, Any] | None]:
    settings = config.calibrate
    result = calibrate(
        pairs,
        metric=settings.metric,
        optimal=settings.optimal,
        targets=targets_of(settings.targets),
        bootstrap=settings.bootstrap,
        confidence=settings.confidence,
        seed=config.seed,
    )
    if settings.probability == "none":
        return result, None
    fitted = fit_probability(pairs, method=settings.probability, seed=config.seed)
    return result, None if fitted is None else fitted.to_json()


def _drawn(config: Config, pairs: PairCounts, result: Calibration) -> dict[str, pa.Table]:
    """Tables for the report."""
    settings = config.calibrate
    curve = curves(
        pairs,
        [metric for metric in result.thresholds if metric != "distance"],
        also=[cut["distance"] for cut in result.cutpoints.values()],
        replicates=settings.bootstrap,
        confidence=settings.confidence,
        seed=config.seed,
    )
    return {CURVES: curve, DISTRIBUTIONS: distribution(pairs)}


if __name__ == "__main__":
    from simpipe.cli import main

    sys.exit(main(["calibrate", *sys.argv[1:]]))
