"""Measures a release on held-out queries: ANN recall against exact search, label metrics, confusion.

python -m pipelines.evaluate --config configs/digits.yaml
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.queries import query_spec, run_queries, scratch
from simpipe import files, releases
from simpipe.arrow import pc
from simpipe.config import Config
from simpipe.config.measure import OneShotConfig
from simpipe.cutpoints import CUTPOINTS_JSON
from simpipe.data.examples import resolve_classes, sort_classes
from simpipe.embeddings import EmbeddingsInfo, vectors_of
from simpipe.errors import ReleaseError
from simpipe.evaluators import one_shot_accuracy
from simpipe.index.distance import prepare
from simpipe.manifest import Manifest

METRICS_JSON = "metrics.json"


def run(config: Config, *, release: Path, embeddings: Path, key: str, beam_args: Sequence[str] = ()) -> tuple[Path, Manifest]:
    """Adds `metrics.json` to a calibrated release; arguments and errors as in `pipelines.calibrate.run`."""
    from simpipe.beam.query import CollectMetrics

    manifest = Manifest.load(release)
    if not manifest.has(CUTPOINTS_JSON):
        raise ReleaseError(f"release {manifest.release} is not calibrated", "run `simpipe calibrate` first")
    calibration = files.read_json(releases.verify_file(release, manifest.file(CUTPOINTS_JSON)))
    settings = config.evaluate
    depth = max(settings.k, config.calibrate.k, *settings.recall_at)
    spec = query_spec(config, release, manifest, embeddings, k=depth, exact_k=depth)
    work = scratch(release, "evaluate")
    path = work / "sums.json"
    collect = CollectMetrics(settings.k, settings.recall_at, items_of_label(release, manifest), calibration, str(path))
    run_queries(config, spec, manifest=manifest, collect=collect, beam_args=beam_args, verb="evaluate")
    sums = files.read_json(path)
    shutil.rmtree(work)
    metrics = sums["metrics"]
    if settings.one_shot is not None:
        metrics[f"one_shot_{settings.one_shot.ways}_way"] = one_shot(settings.one_shot, embeddings, config.seed)
    folder, manifest = releases.open_for_change(release, manifest, "evaluate")
    manifest = releases.drop_files(folder, manifest, [METRICS_JSON, "report.html"], ["evaluate", "report"])
    data = {
        "metrics": metrics,
        "k": settings.k,
        "queries": sums["queries"],
        "labelled": sums["labelled"],
        "confusion": sums["confusion"],
    }
    files.write_json(folder / METRICS_JSON, data)
    manifest = manifest.with_files(folder, [METRICS_JSON], evaluate=key)
    manifest.save(folder)
    return folder, manifest


def items_of_label(release: Path, manifest: Manifest) -> dict[str, int]:
    """Indexed items a label, from the store's label columns, one file at a time."""
    counts: list[pa.Table] = []
    for entry in manifest.under("store"):
        table = pq.read_table(releases.verify_file(release, entry), columns=["label"])
        found = table.column("label").value_counts()
        counts.append(pa.table({"label": found.field("values"), "items": found.field("counts")}))
    total = pa.concat_tables(counts).group_by("label").aggregate([("items", "sum")]).filter(pc.field("label").is_valid())
    return dict(zip(total.column("label").to_pylist(), total.column("items_sum").to_pylist(), strict=True))


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
