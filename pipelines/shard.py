"""A source becomes an examples data set: TFRecord shards and `dataset.json`.

python -m pipelines.shard --config configs/digits.yaml
"""

from __future__ import annotations

import logging
import platform
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines import graphs
from simpipe import __version__, files
from simpipe.beam.io import Outcome, check_rejects, read_summary
from simpipe.beam.options import run_graph
from simpipe.beam.shard import BUCKETS_JSON, PLAN_JSON, SCAN_JSON, TRAIN_JSON, PlanSummary, read_plan
from simpipe.code import code_version
from simpipe.config import Config
from simpipe.data.examples import DATASET_JSON, DatasetInfo, ShardInfo, SplitInfo, resolve_classes
from simpipe.data.shards import ShardRules
from simpipe.data.sources import ExampleSource, open_source, source_fingerprint
from simpipe.errors import ContractError, DuplicateIdError, SourceError
from simpipe.job import job_of
from simpipe.progress import watching
from simpipe.types import SPLITS

_SHARD_FILE = re.compile(rf"({'|'.join(SPLITS)})-\d{{5}}-of-\d{{5}}\.tfrecord(\.gz)?(\.offsets\.npy)?")
_LOG = logging.getLogger(__name__)


def run(config: Config, *, folder: Path, key: str, beam_args: Sequence[str] = ()) -> DatasetInfo:
    """Shards the configured source into `folder`; `dataset.json` comes last.

    A run that was cut off is continued where `key` is the same: finished blocks and shards are not made again.

    Args:
      config: `source`, `classes`, `queries`, `rejects`, `shard` and `seed` count.
      folder: the data set's own folder; its work files lie in `folder/.work` until the end.
      key: identifies configuration and source.
      beam_args: what the user wrote after `--`.

    Raises:
      SourceError: the source cannot be read or holds no examples.
      ConfigError: `classes.train` or `classes.index` names a class that the source lacks.
      DuplicateIdError: an id occurs twice; names both places.
      RejectedError: more records were rejected than `rejects.max_share` allows.
      ContractError: rows were lost or doubled on the way.
    """
    source = open_source(config.source)
    fingerprint = source_fingerprint(config.source)
    blocks = source.blocks(config.shard.block_rows)
    if not blocks:
        raise SourceError(f"source: {config.source.kind} holds no examples", "give a source with at least one example")
    rules = ShardRules(
        num_blocks=len(blocks),
        num_shards=config.shard.num_shards,
        compression=config.shard.compression,
        fraction=config.queries.fraction,
        seed=config.seed,
        input=source.input,
        class_run=config.shard.class_run,
        one_class_shards=config.shard.one_class_shards,
    )
    asked = config.model_dump(mode="json", include={"source", "classes", "queries", "shard", "seed"})
    work = _prepare(folder, files.digest([key, fingerprint, asked]))
    graph = graphs.shard(config, blocks, rules, work=work, folder=folder)

    def done() -> int:
        return sum(1 for path in work.glob("*-?????.json"))

    with watching("shard", done, len(blocks) + 2 * rules.num_shards, "blocks and shards"):
        run_graph(graph, job_of(config, "shard", beam_args))
    parts = _Parts(read_plan(work / PLAN_JSON), *(read_summary(work / name) for name in (SCAN_JSON, BUCKETS_JSON, TRAIN_JSON)))
    _check(config, parts, folder)
    info = _describe(config, source, key, rules, parts)
    info.provenance["source"] = fingerprint
    info.save(folder)
    files.remove_folder(work)
    return info


@dataclass(frozen=True)
class _Parts:
    """The plan and what each part of the graph says that it did."""

    plan: PlanSummary
    scan: Outcome
    buckets: Outcome
    train: Outcome

    @property
    def excluded(self) -> int:
        return sum(record["excluded"] for record in self.buckets.records)


def _prepare(folder: Path, key: str) -> Path:
    """The work folder. What an unfinished run with the same key left is kept; everything else of an older run goes."""
    work = folder / ".work"
    note = work / "key.json"
    (folder / DATASET_JSON).unlink(missing_ok=True)
    if not note.exists() or files.read_json(note) != key:
        files.remove_folder(work)
        files.remove_folder(folder / "rejects")
        for path in folder.glob("*.tfrecord*"):
            if _SHARD_FILE.fullmatch(path.name):
                path.unlink()
        files.write_json(note, key)
    files.remove_leftovers(folder)
    for name in (SCAN_JSON, PLAN_JSON, BUCKETS_JSON, TRAIN_JSON):
        (work / name).unlink(missing_ok=True)
    return work


def _check(config: Config, parts: _Parts, folder: Path) -> None:
    """Raises what is wrong with the whole, worst first."""
    plan, scan, buckets, excluded = parts.plan, parts.scan, parts.buckets, parts.excluded
    if not scan.counts.read:
        raise SourceError(f"source: {config.source.kind} holds no examples", "give a source with at least one example")
    check_rejects(scan, max_share=config.rejects.max_share, step="shard", folder=folder, field="rejects.max_share")
    if plan.problem:
        resolve_classes(config.classes.train, list(plan.class_names), "classes.train")
        resolve_classes(config.classes.index, list(plan.class_names), "classes.index")
        raise ContractError(f"{folder}: {plan.problem}", "run `simpipe shard` again")
    if buckets.counts.rejected:
        shown = "\n".join(f"  id {reject.id!r}: {reject.source}; {reject.reason}" for reject in buckets.rejects[:5])
        more = f"\n  … all in {folder / 'rejects'}" if buckets.counts.rejected > 5 else ""
        raise DuplicateIdError(
            f"source: {buckets.counts.rejected} records have the id of another one\n{shown}{more}",
            "make ids unique: an id names one item",
        )
    _reconcile(f"{folder}: rows", scanned=scan.counts.written, arrived=buckets.counts.read + excluded)
    planned, training = sum(plan.train_counts), sum(record["training"] for record in buckets.records)
    _reconcile(f"{folder}: rows to train on", planned=planned, arrived=training, written=parts.train.counts.written)
    if not buckets.counts.written:
        raise SourceError(
            f"source: no example left of {scan.counts.read}: {scan.counts.rejected} rejected, {excluded} of classes in no list",
            "name classes that have examples in classes.train or classes.index",
        )


def _reconcile(what: str, **numbers: int) -> None:
    if len(set(numbers.values())) > 1:
        raise ContractError(
            f"{what}: " + ", ".join(f"{number} {name}" for name, number in numbers.items()),
            "rows were lost or doubled by the runner: run the step again, and report the runner",
        )


def _describe(config: Config, source: ExampleSource, key: str, rules: ShardRules, parts: _Parts) -> DatasetInfo:
    plan, splits, class_counts = parts.plan, dict[str, SplitInfo](), dict[str, dict[str, int]]()
    for split in SPLITS:
        every = (*parts.buckets.records, *parts.train.records)
        records = sorted((each for each in every if each["split"] == split), key=lambda each: each["shard"])
        if [record["shard"] for record in records] != list(range(rules.num_shards)):
            raise ContractError(f"{split}: {len(records)} of {rules.num_shards} shards were written", "run `simpipe shard` again")
        shards = tuple(ShardInfo(**{name: record[name] for name in ShardInfo.model_fields}) for record in records)
        counts: Counter[int] = Counter()
        for shard in shards:
            for index, number in shard.class_blocks:
                counts[index] += number
        if split == "train":
            # The last place is that of rows without a label.
            for place, planned in enumerate(plan.train_counts):
                index = place if place < len(plan.trained) else -1
                _reconcile(f"class {index} of the train split: rows", planned=planned, written=counts[index])
        class_counts[split] = {plan.class_names[index]: counts[index] for index in sorted(counts) if index >= 0}
        splits[split] = SplitInfo(
            num_examples=sum(shard.num_examples for shard in shards),
            shard_lengths=tuple(shard.num_examples for shard in shards),
            num_bytes=sum(shard.size for shard in shards),
            shards=shards,
        )
    return DatasetInfo(
        name=config.name,
        key=key,
        input=source.input,
        metadata=dict[str, Any]({field.name: str(field.type) for field in source.metadata}),
        class_names=plan.class_names,
        train_classes=plan.trained,
        splits=splits,
        class_counts=class_counts,
        num_shards=rules.num_shards,
        compression=rules.compression,
        seed=config.seed,
        counts={
            "read": parts.scan.counts.read,
            "written": parts.buckets.counts.written,
            "rejected": parts.scan.counts.rejected,
            "excluded": parts.excluded,
            "unlabelled": sum(record["unlabelled"] for record in parts.scan.records),
        },
        provenance=_provenance(config, plan, splits["train"]),
    )


def _provenance(config: Config, plan: PlanSummary, train: SplitInfo) -> dict[str, Any]:
    """What the data set was made by, and how its training examples came to lie. `block_rows` changes nothing of it."""
    lone = [shard.path for shard in train.shards if len(shard.class_blocks) == 1]
    several = sum(count > 0 for count in plan.train_counts) > 1
    if lone and several and not config.shard.one_class_shards:
        _LOG.warning(
            "%d of %d train shards hold one class only (the first is %s): the other classes have too few examples; "
            "fewer shards (shard.num_shards) avoid it",
            len(lone),
            len(train.shards),
            lone[0],
        )
    return {
        "simpipe": __version__,
        "code": code_version("shard"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pyarrow": pa.__version__,
        "seed": config.seed,
        "config": {
            "classes": config.classes.model_dump(mode="json"),
            "shard": config.shard.model_dump(mode="json", exclude={"block_rows"}),
        },
        "index_classes": list(plan.indexed),
        "query_fraction": config.queries.fraction,
        "train_plan": {
            "pieces": plan.pieces,
            "largest_shard": max(train.shard_lengths),
            "smallest_shard": min(train.shard_lengths),
            "one_class_shards": len(lone),
        },
    }


if __name__ == "__main__":
    from simpipe.cli import main

    sys.exit(main(["shard", *sys.argv[1:]]))
