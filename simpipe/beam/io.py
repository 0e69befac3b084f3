"""What every job reports, and how it reaches the driver: sums made in the graph, written as one small JSON file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PCollection, PValue

from simpipe import files
from simpipe.errors import ContractError, RejectedError
from simpipe.types import Counts, Reject

SHOWN_REJECTS = 20


@dataclass(frozen=True)
class Outcome:
    """The result of one work item.

    Attributes:
      counts: records read, written, rejected by this item.
      records: JSON-like descriptors of what it wrote; each has a `path`, by which they are ordered.
      rejects: rejected records (only the first few travel; all of them are in the item's file under `rejects/`).
    """

    counts: Counts = field(default_factory=Counts)
    records: tuple[dict[str, Any], ...] = ()
    rejects: tuple[Reject, ...] = ()


class MergeOutcomes(beam.CombineFn):
    """Sums counts and collects descriptors."""

    def create_accumulator(self) -> Outcome:
        return Outcome()

    def add_input(self, mutable_accumulator: Outcome, element: Outcome) -> Outcome:
        return self.merge_accumulators([mutable_accumulator, element])

    def merge_accumulators(self, accumulators: Iterable[Outcome]) -> Outcome:
        parts = list(accumulators)
        return Outcome(
            sum((part.counts for part in parts), Counts()),
            tuple(record for part in parts for record in part.records),
            tuple(sorted((reject for part in parts for reject in part.rejects), key=lambda r: (r.source, r.id))[:SHOWN_REJECTS]),
        )

    def extract_output(self, accumulator: Outcome) -> Outcome:
        return accumulator


@dataclass
class WriteSummary(beam.PTransform):
    """Merges outcomes, reconciles `read = written + rejected + excluded`, and writes them as JSON to `path`."""

    path: str

    def expand(self, input_or_inputs: PCollection[Outcome]) -> PValue:
        return (
            input_or_inputs
            | "MergeOutcomes" >> beam.CombineGlobally(MergeOutcomes())
            | "Write" >> beam.Map(write_summary, path=self.path)
        )


def write_summary(outcome: Outcome, path: str) -> None:
    """Writes a merged outcome.

    Raises:
      ContractError: records were lost or doubled on the way.
    """
    counts = outcome.counts
    if counts.read != counts.written + counts.rejected + counts.excluded:
        left_out = f", {counts.excluded} were left out" if counts.excluded else ""
        raise ContractError(
            f"{path}: read {counts.read} records but wrote {counts.written} and rejected {counts.rejected}{left_out}",
            "records were lost or doubled by the runner: run the step again, and report the runner",
        )
    files.write_json(
        files.located(path),
        {
            "counts": asdict(counts),
            "records": sorted(outcome.records, key=lambda record: record["path"]),
            "rejects": [asdict(reject) for reject in outcome.rejects],
        },
    )


def read_summary(path: Path) -> Outcome:
    data = files.read_json(path)
    return Outcome(Counts(**data["counts"]), tuple(data["records"]), tuple(Reject(**reject) for reject in data["rejects"]))


def write_rejects(folder: Path, name: str, rejects: Iterable[Reject]) -> None:
    """Writes one work item's rejected records to `rejects/NAME.jsonl`; the same item always writes the same file."""
    lines = [json.dumps(asdict(reject), ensure_ascii=False) for reject in rejects]
    path = folder / "rejects" / f"{name}.jsonl"
    if lines:
        files.write_bytes(path, ("\n".join(lines) + "\n").encode())
    else:
        path.unlink(missing_ok=True)


def check_rejects(outcome: Outcome, *, max_share: float, step: str, folder: Path, field: str) -> None:
    """Fails a step that rejected more than its configured share.

    Raises:
      RejectedError: names the first rejected records, their places and reasons.
    """
    counts = outcome.counts
    if counts.rejected <= max_share * counts.read:
        return
    share = math.ceil(1000 * counts.rejected / counts.read) / 1000
    shown = "\n".join(f"  {reject.source}: {reject.reason} (id {reject.id!r}, {reject.code})" for reject in outcome.rejects[:5])
    more = f"\n  … {counts.rejected - 5} more in {folder / 'rejects'}" if counts.rejected > 5 else ""
    raise RejectedError(
        f"{step}: {counts.rejected} of {counts.read} records rejected\n{shown}{more}",
        f"mend these records, or allow this share of bad ones with --set {field}={share:g}",
    )
