"""Measures a release on held-out queries: ANN recall against exact search, label metrics, confusion, latency.

python -m pipelines.evaluate --config configs/digits.yaml
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.queries import label_items, query_spec, run_queries, scratch
from simpipe import files, releases
from simpipe.config import Config
from simpipe.config.measure import EvaluateConfig, OneShotConfig
from simpipe.cutpoints import CUTPOINTS_JSON
from simpipe.data.examples import resolve_classes, sort_classes
from simpipe.embeddings import EmbeddingsInfo, vectors_of
from simpipe.errors import ConfigError, ReleaseError
from simpipe.evaluators import (
    EvaluationRules,
    EvaluationSums,
    LabelItems,
    class_table,
    confusion_records,
    macro_metrics,
    measure_latency,
    one_shot_accuracy,
    partition_records,
    slice_records,
    slice_table,
    worst_classes,
)
from simpipe.index.distance import bad_rows, prepare
from simpipe.index.query import QuerySpec
from simpipe.index.searcher import Searcher
from simpipe.manifest import Manifest
from simpipe.types import QUERY_SPLITS
from simpipe.verdict import VERDICT_JSON

METRICS_JSON = "metrics.json"
CLASSES, CONFUSION, SLICES = "classes.parquet", "confusion.parquet", "slices.parquet"
EVALUATION_FILES = (METRICS_JSON, CLASSES, CONFUSION, SLICES)


def run(config: Config, *, release: Path, embeddings: Path, key: str, beam_args: Sequence[str] = ()) -> tuple[Path, Manifest]:
    """Adds `metrics.json` and its tables to a calibrated release; arguments as in `pipelines.calibrate.run`.

    Raises:
      ConfigError: a slice is no metadata column. ReleaseError: not calibrated. Others: see `pipelines.queries.run_queries`.
    """
    from simpipe.beam.evaluate import CollectMetrics

    manifest = Manifest.load(release)
    if not manifest.has(CUTPOINTS_JSON):
        raise ReleaseError(f"release {manifest.release} is not calibrated", "run `simpipe calibrate` first")
    calibration = files.read_json(releases.verify_file(release, manifest.file(CUTPOINTS_JSON)))
    settings = config.evaluate
    check_slices(settings.slices, manifest)
    items = LabelItems.in_table(label_items(release, manifest))
    # As deep as matching looks, so that indexes find what they find there.
    depth = max(settings.k, calibration.get("depth", calibration["k"]), *settings.recall_at)
    deepest = min(items.largest, settings.max_r) if settings.map_at_r else 0
    rules = EvaluationRules.at(
        calibration,
        k=settings.k,
        recall_at=settings.recall_at,
        max_r=settings.max_r if settings.map_at_r else None,
        slices=settings.slices,
        partitions=len(manifest.partitions),
        queries_are_items=settings.queries == "items",
    )
    spec = query_spec(
        config,
        release,
        manifest,
        embeddings,
        k=depth,
        exact_k=settings.k,
        exact_queries=settings.exact_queries,
        deep=deepest if deepest > depth else 0,
        columns=settings.slices,
        names={"labels"},
        splits=QUERY_SPLITS[settings.queries],
        max_queries=settings.max_queries,
    )
    work = scratch(release, "evaluate")
    try:
        items.save(work / "label-items.parquet")
        collect = CollectMetrics(rules, str(work / "label-items.parquet"), str(work))
        run_queries(
            config,
            spec,
            manifest=manifest,
            collect=collect,
            beam_args=beam_args,
            verb="evaluate",
            rejects=settings.rejects,
        )
        sums = EvaluationSums.load(work)
    finally:
        files.remove_folder(work)
    classes = class_table(sums, items)
    record = {"asked": settings.queries, **metrics_record(sums, classes, manifest, worst=settings.worst)}
    if settings.one_shot is not None:
        record["metrics"][f"one_shot_{settings.one_shot.ways}_way"] = one_shot(settings.one_shot, embeddings, config.seed)
    record["latency"] = latency(spec, settings, manifest) if settings.latency_queries else None
    folder, manifest = releases.open_for_change(release, manifest, "evaluate")
    manifest = releases.drop_files(
        folder, manifest, [*EVALUATION_FILES, "report.html", VERDICT_JSON], ["evaluate", "report", "gate"]
    )
    files.write_json(folder / METRICS_JSON, record)
    tables = {CLASSES: classes, CONFUSION: sums.confusion, SLICES: slice_table(sums)}
    for name, table in tables.items():
        with files.replacing(folder / name) as temporary:
            pq.write_table(table, temporary, compression="zstd")
    manifest = manifest.with_files(folder, [METRICS_JSON, *tables], evaluate=key)
    manifest.save(folder)
    return folder, manifest


def check_slices(slices: Sequence[str], manifest: Manifest) -> None:
    """Refuses what is no metadata column of a release.

    Raises:
      ConfigError: names those that there are.
    """
    for name in slices:
        if name not in manifest.metadata:
            known = ", ".join(manifest.metadata) or "none"
            raise ConfigError(
                f"evaluate.slices: release {manifest.release} has no metadata column {name!r}", f"there are: {known}"
            )


def metrics_record(sums: EvaluationSums, classes: pa.Table, manifest: Manifest, *, worst: int) -> dict[str, Any]:
    """What `metrics.json` holds, but for what is not measured by sums.

    Args:
      sums: over all queries. classes: of these, see `class_table`. worst: classes that are listed.
    """
    return {
        "metrics": sums.metrics(),
        "macro": macro_metrics(classes),
        "k": sums.k,
        "queries": sums.queries,
        "labelled": sums.labelled,
        "open_set": sums.open_set,
        "exact_queries": sums.exact_queries,
        "ann_recall_error": sums.ann_recall_error(),
        "confusion": confusion_records(sums.confusion),
        "worst_classes": worst_classes(classes, sums.confusion, worst),
        "partitions": partition_records(sums, [part.live for part in manifest.partitions]),
        "slices": slice_records(slice_table(sums)),
    }


def latency(spec: QuerySpec, settings: EvaluateConfig, manifest: Manifest) -> dict[str, Any] | None:
    """Latency of the first queries of the job, asked in this process; None where none of them can be asked."""
    taken: list[np.ndarray] = []
    missing = settings.latency_queries
    for path in spec.files:
        with pq.ParquetFile(files.located(path)) as file:
            for batch in file.iter_batches(batch_size=missing, columns=["embedding"]):
                vectors = vectors_of(pa.Table.from_batches([batch]))
                bad = np.logical_or(*bad_rows(vectors, manifest.distance))
                taken.append(vectors[~bad][:missing])
                missing -= len(taken[-1])
                if not missing:
                    break
        if not missing:
            break
    vectors = np.concatenate(taken)
    if not len(vectors):
        return None
    searcher = Searcher(files.located(spec.release), manifest)
    return measure_latency(searcher, vectors, settings.k, setting=spec.setting, block=spec.block)


def one_shot(protocol: OneShotConfig, embeddings: Path, seed: int) -> float:
    """The few-shot protocol over all items of its classes, whatever their split."""
    info = EmbeddingsInfo.load(embeddings)
    known: set[str] = set()
    for file in info.files:
        labels = pq.read_table(files.inside(embeddings, file.path), columns=["label"]).column("label")
        known |= {label for label in labels.unique().to_pylist() if label is not None}
    ordered = sort_classes(known)
    groups = {
        name: resolve_classes(wanted, ordered, f"evaluate.one_shot.groups.{name}") for name, wanted in protocol.groups.items()
    }
    wanted = [label for members in groups.values() for label in members]
    tables = [
        pq.read_table(
            files.inside(embeddings, file.path), columns=["id", "label", "embedding"], filters=[("label", "in", wanted)]
        )
        for file in info.files
    ]
    table = pa.concat_tables(tables).sort_by("id")
    vectors = prepare(vectors_of(table), "cosine")
    labels = np.asarray(table.column("label").to_pylist(), object)
    return one_shot_accuracy(vectors, labels, groups, ways=protocol.ways, runs=protocol.runs, seed=seed)


if __name__ == "__main__":
    from simpipe.cli import main

    sys.exit(main(["evaluate", *sys.argv[1:]]))
