"""Writes a release's `report.html`: what a person reads to decide whether the index is good."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.queries import label_items
from simpipe import files, releases
from simpipe.config import Config
from simpipe.cutpoints import CUTPOINTS_JSON, THRESHOLDS
from simpipe.data.examples import DatasetInfo
from simpipe.embeddings import EmbeddingsInfo, vectors_of
from simpipe.ids import hash_ids
from simpipe.index.profile import PROFILE_JSON, Profile
from simpipe.index.searcher import Searcher
from simpipe.manifest import Manifest
from simpipe.report.cards import CUTPOINT
from simpipe.report.from_files import calibration_part, evaluation_part, listed_first
from simpipe.report.model import THRESHOLD_KEYS, Projection, ReportData
from simpipe.report.parts import ClassRow
from simpipe.report.render import render
from simpipe.report.search import about_profile, router_rows, search_rows
from simpipe.report.shown import ShownQueries, sample_rows
from simpipe.visualization.embed2d import project

if TYPE_CHECKING:
    from pipelines.line import Line

REPORT_HTML = "report.html"
_CONFUSION_CLASSES = 2000
_PROJECTED_CLASSES = 20


def run(config: Config, *, line: Line, key: str) -> tuple[Path, Manifest]:
    """Adds `report.html` to an evaluated release (to a new one if it was ever published)."""
    folder, manifest = releases.open_for_change(*line.release(), "report")
    manifest = releases.drop_files(folder, manifest, [REPORT_HTML], ["report"])
    data = gather(config, line, folder, manifest)
    files.write_bytes(folder / REPORT_HTML, render(data).encode())
    manifest = manifest.with_files(folder, [REPORT_HTML], report=key)
    manifest.save(folder)
    return folder, manifest


def gather(config: Config, line: Line, folder: Path, manifest: Manifest) -> ReportData:
    """Collects what the report shows from the data sets of the line."""
    searcher = Searcher(folder, manifest)
    evaluation = files.read_json(releases.verify_file(folder, manifest.file("metrics.json")))
    calibration = files.read_json(releases.verify_file(folder, manifest.file(CUTPOINTS_JSON)))
    path = releases.verify_file(folder, manifest.file(THRESHOLDS))
    names = pq.read_schema(path).names
    thresholds = pq.read_table(path, columns=[name for name in THRESHOLD_KEYS if name in names])
    calibrated = calibration_part(
        calibration,
        curves=table_of(folder, manifest, "curves.parquet"),
        distributions=table_of(folder, manifest, "distributions.parquet"),
        groups=table_of(folder, manifest, (calibration.get("by") or {}).get("file")),
    )
    evaluated = evaluation_part(evaluation)
    embeddings, info = line.embeddings[0], EmbeddingsInfo.load(line.embeddings[0])
    examples = DatasetInfo.load(line.examples[0]) if line.has_encoder else None
    indexed = set(searcher_labels(folder, manifest))
    show = ShownQueries(config, searcher, calibration, embeddings, info, line.examples[0] if examples else None, examples)
    seen = set(examples.train_classes) if examples else set()
    history: dict[str, list[float]] = {}
    if line.has_encoder:
        from simpipe.training.encoder import EncoderInfo

        history = EncoderInfo.load(line.encoder[0]).history
    labels, counts = confusion_of(evaluation["confusion"], evaluated.worst)
    profile = Profile.load(releases.verify_file(folder, manifest.file(PROFILE_JSON))) if manifest.has(PROFILE_JSON) else None
    return ReportData(
        title=config.name,
        release=manifest.release,
        created=manifest.created_at,
        facts=facts(manifest),
        splits={name: split.num_examples for name, split in examples.splits.items()} if examples else split_rows(info),
        class_counts=examples.class_counts if examples else {},
        history=history,
        thresholds={name: thresholds.column(name).to_numpy() for name in thresholds.column_names} if len(thresholds) else {},
        cutpoints=list(calibration["cutpoints"].values()),
        metrics=evaluation["metrics"],
        calibration=calibrated,
        evaluation=replace(evaluated, mistakes=show.mistakes(evaluated.worst)),
        search=search_rows(profile),
        search_about=about_profile(profile),
        routers=router_rows(manifest.router),
        confusion_labels=labels,
        confusion=counts,
        confusion_cutpoint=CUTPOINT,
        queries=show.queries(indexed),
        projection=projection(config, embeddings, info, seen),
        distance=manifest.distance,
        unseen_classes=[name for name in examples.class_names if name not in seen] if examples else [],
        not_in_index_classes=[label for label in labels if label not in indexed],
    )


def facts(manifest: Manifest) -> list[tuple[str, str]]:
    kinds = ", ".join(sorted({part.backend for part in manifest.partitions if part.live}))
    return [
        ("items", f"{manifest.items:,}"),
        ("partitions", partitions_fact(manifest)),
        ("vectors", manifest.storage),
        (
            "backend",
            f"{manifest.backend['kind']}" + (f" (partitions built as {kinds})" if kinds != manifest.backend["kind"] else ""),
        ),
        ("distance", manifest.distance),
        ("dim", str(manifest.dim)),
        ("encoder", manifest.encoder.fingerprint[:12]),
        ("simpipe", manifest.simpipe_version),
    ]


def partitions_fact(manifest: Manifest) -> str:
    rows = [part.live for part in manifest.partitions]
    fact = f"{len(rows)} by {manifest.router['kind']}"
    if len(rows) > 1:
        fact += f", {min(rows):,} to {max(rows):,} rows (largest over mean {max(rows) * len(rows) / max(sum(rows), 1):.2f})"
    copies = sum(rows) - manifest.items
    return fact + (f", {copies:,} of them spilled copies" if copies else "")


def split_rows(info: EmbeddingsInfo) -> dict[str, int]:
    totals = {name: sum(file.rows for file in info.of_splits(name)) for name in ("index", "query")}
    return {name: rows for name, rows in totals.items() if rows}


def searcher_labels(folder: Path, manifest: Manifest) -> list[str]:
    """Labels that indexed items carry."""
    return label_items(folder, manifest).column("label").to_pylist()


def table_of(folder: Path, manifest: Manifest, name: str | None) -> pa.Table | None:
    """A Parquet file of the release; None where it has none."""
    if name is None or not manifest.has(name):
        return None
    return pq.read_table(releases.verify_file(folder, manifest.file(name)))


def confusion_of(rows: list[list[Any]], worst: Sequence[ClassRow] = ()) -> tuple[list[str], np.ndarray]:
    """Labels and int64[n, n + 1] counts from (true, matched or None, count) rows; the last column is no match.

    Args:
      worst: classes that are kept where there are too many.
    """
    from simpipe.data.examples import sort_classes

    labels = sort_classes({true for true, _, _ in rows} | {matched for _, matched, _ in rows if matched is not None})
    labels = listed_first(labels, worst, _CONFUSION_CLASSES)
    place = {label: i for i, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels) + 1), np.int64)
    for true, matched, count in rows:
        if true in place and (matched is None or matched in place):
            counts[place[true], place[matched] if matched is not None else len(labels)] += count
    return labels, counts


def projection(config: Config, embeddings: Path, info: EmbeddingsInfo, seen: set[str]) -> Projection | None:
    """A 2-d map of indexed items."""
    rows, splits = config.report.projection_items, ("train", "index")
    named = sample_rows(embeddings, info, splits, rows=rows, seed=config.seed, vectors=False)
    present = sorted({label for label in named.column("label").to_pylist() if label is not None})
    note, shown = "", None
    if len(present) > _PROJECTED_CLASSES:
        shown = pick_classes(present, seen, config.seed)
        note = f" Shown are {len(shown)} classes picked by chance."
    table = sample_rows(embeddings, info, splits, rows=rows, seed=config.seed, labels=shown)
    if len(table) < 3:
        return None
    points, method, explained = project(vectors_of(table), seed=config.seed)
    explained += note
    labels = ["no label" if label is None else label for label in table.column("label").to_pylist()]
    return Projection(points, labels, [bool(seen) and label not in seen for label in labels], method, explained)


def pick_classes(present: list[str], seen: set[str], seed: int) -> list[str]:
    """Classes that a picture can name: half of them unseen in training, where there are such."""
    order = [present[i] for i in np.argsort(hash_ids(present, seed=seed), kind="stable")]
    unseen = [name for name in order if seen and name not in seen][: _PROJECTED_CLASSES // 2]
    known = [name for name in order if name not in unseen]
    return sorted([*unseen, *known[: _PROJECTED_CLASSES - len(unseen)]])
