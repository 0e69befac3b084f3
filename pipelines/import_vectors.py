"""Imports ready-made vectors as an embeddings data set; no model, no TensorFlow.

python -m pipelines.import_vectors --config CONFIG_WITH_A_VECTORS_SOURCE
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipelines.embed import finish
from simpipe import files
from simpipe.config import Config
from simpipe.config.models import VectorsSource
from simpipe.data.examples import resolve_classes, sort_classes
from simpipe.data.vectors import plan_vectors
from simpipe.embeddings import NO_ENCODER, EmbeddingsInfo
from simpipe.errors import ConfigError
from simpipe.import_vectors import ImportSpec, named_classes
from simpipe.job import job_of
from simpipe.progress import watching


def run(config: Config, *, folder: Path, key: str, beam_args: Sequence[str] = ()) -> EmbeddingsInfo:
    """Imports a `vectors` source; arguments and errors as in `pipelines.embed.run`."""
    from pipelines import graphs
    from simpipe.beam.io import check_rejects, read_summary
    from simpipe.beam.options import run_graph

    source = config.source
    if not isinstance(source, VectorsSource):
        raise ConfigError(f"source.kind: {source.kind} holds examples, not vectors", "use `simpipe shard`, `train` and `embed`")
    plan = plan_vectors(source)
    spec = ImportSpec(config.queries.fraction, config.seed, named_classes(config.classes.index))
    files.remove_leftovers(folder)
    summary = folder / ".work" / "summary.json"
    graph = graphs.import_vectors(source, plan, spec, folder=folder, summary=summary)

    def done() -> int:
        return len(list(folder.glob("index-*.parquet")))

    with watching("import", done, len(plan.blocks), "blocks"):
        run_graph(graph, job_of(config, "import", beam_args))
    outcome = read_summary(summary)
    check_rejects(outcome, max_share=config.rejects.max_share, step="import", folder=folder, field="rejects.max_share")
    labels: Counter[str] = Counter()
    for record in outcome.records:
        labels.update(record.get("labels", {}))
    resolve_classes(config.classes.index, sort_classes(set(labels)), "classes.index")
    excluded = sum(record.get("excluded", 0) for record in outcome.records)
    return finish(
        folder, outcome, key=key, dim=plan.dim, distance=source.distance, encoder=NO_ENCODER,
        metadata=[field.name for field in plan.metadata], expected=plan.rows - excluded,
        provenance={"source": source.model_dump(mode="json"), "excluded": excluded},
    )  # fmt: skip


if __name__ == "__main__":
    from simpipe.cli import main

    sys.exit(main(["import", *sys.argv[1:]]))
