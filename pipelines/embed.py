"""Computes embeddings of all shards.

python -m pipelines.embed --config configs/digits.yaml
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simpipe import files
from simpipe.config import Config
from simpipe.data.examples import DatasetInfo, shard_name
from simpipe.embed import EmbedSpec
from simpipe.embeddings import EmbeddingsFile, EmbeddingsInfo
from simpipe.encoder_canaries import CANARIES_NPZ, choose, keep
from simpipe.errors import ContractError
from simpipe.job import job_of
from simpipe.progress import watching
from simpipe.training.encoder import EncoderInfo
from simpipe.types import SPLITS


def run(
    config: Config, *, examples: Path, encoder: Path, folder: Path, key: str, beam_args: Sequence[str] = ()
) -> EmbeddingsInfo:
    """Embeds every split of an examples data set.

    Args:
      config: the line's configuration.
      examples, encoder: the data sets to read.
      folder: where the embeddings go; finished shards of an interrupted run are kept.
      key: what they were made from.
      beam_args: Beam's own options.

    Raises:
      ContractError: a shard is altered, truncated or corrupt. RejectedError: too many bad examples.
    """
    from pipelines import graphs
    from simpipe.beam.embed import EmbedItem
    from simpipe.beam.io import check_rejects, read_summary
    from simpipe.beam.options import run_graph

    info, about = DatasetInfo.load(examples), EncoderInfo.load(encoder)
    if about.input != info.input:
        raise ContractError(f"{encoder}: reads {about.input}, the examples hold {info.input}", "run `simpipe train` again")
    spec = EmbedSpec(info.without_shards(), about.dim, about.distance, about.fingerprint, config.embed.batch_size)
    files.remove_leftovers(folder)
    items = []
    for split in SPLITS:
        for number, (path, shard) in enumerate(info.shards(examples, split)):
            items.append(EmbedItem(str(path), shard.bare(), split, shard_name(split, number, info.num_shards, ".parquet")))
    work = folder / ".work"
    summary = work / "summary.json"
    graph = graphs.embed(items, spec, encoder=encoder, folder=folder, summary=summary)

    def done() -> int:
        return len(list(folder.glob("[a-z]*.parquet")))

    with watching("embed", done, len(items), "shards"):
        run_graph(graph, job_of(config, "embed", beam_args))
    outcome = read_summary(summary)
    check_rejects(outcome, max_share=config.embed.rejects.max_share, step="embed", folder=folder, field="embed.rejects.max_share")
    kept = choose(folder, _listed(outcome))
    if kept:
        keep(kept, examples, info, encoder=spec.encoder, path=folder / CANARIES_NPZ)
    expected = sum(split.num_examples for split in info.splits.values())
    return finish(
        folder, outcome, key=key, dim=spec.dim, distance=spec.distance, encoder=spec.encoder, metadata=list(info.metadata),
        expected=expected, provenance={"examples": info.key, "encoder": about.key},
    )  # fmt: skip


def finish(
    folder: Path, outcome: Any, *, key: str, dim: int, distance: str, encoder: str, metadata: Sequence[str],
    expected: int, provenance: dict[str, Any],
) -> EmbeddingsInfo:  # fmt: skip
    """Checks that every record is accounted for, and writes `embeddings.json`, which makes the data set visible.

    Raises:
      ContractError: files hold another number of rows than were read.
    """
    counts = outcome.counts
    rows = sum(record["rows"] for record in outcome.records)
    if counts.read != expected or rows != counts.written:
        raise ContractError(
            f"{folder}: {expected} records to read, {counts.read} read, {counts.written} written, {rows} in files",
            "records were lost or doubled by the runner: run the step again, and report the runner",
        )
    info = EmbeddingsInfo(
        key=key,
        dim=dim,
        distance=distance,
        encoder=encoder,
        metadata=tuple(metadata),
        files=tuple(sorted(_listed(outcome), key=lambda file: (SPLITS.index(file.split), file.path))),
        counts={"read": counts.read, "written": counts.written, "rejected": counts.rejected},
        provenance=provenance,
    )
    info.save(folder)
    files.remove_folder(folder / ".work")
    return info


def _listed(outcome: Any) -> list[EmbeddingsFile]:
    return [EmbeddingsFile(**{name: record[name] for name in EmbeddingsFile.model_fields}) for record in outcome.records]


if __name__ == "__main__":
    from simpipe.cli import main

    sys.exit(main(["embed", *sys.argv[1:]]))
