"""One work item of an export: a store file's items to the files of a target."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from simpipe import files
from simpipe.embeddings import row_group_rows
from simpipe.errors import ContractError
from simpipe.exports.contract import Kind, Place, Plan, Target
from simpipe.index.searcher import Searcher
from simpipe.items import ItemBlock, item_blocks, item_rows
from simpipe.store import store_file
from simpipe.types import Counts, Reject

_MOST_ROWS = 1 << 14


def target_of(kind: Kind) -> Target:
    """The module of a target; it loads what it needs."""
    return cast(Target, import_module(f"simpipe.exports.{kind}"))


@dataclass(frozen=True)
class UnitWritten:
    """What became of a store file. `records`: path, size, sha256, items and longest of each file, in the order of the items."""

    counts: Counts
    records: tuple[dict[str, Any], ...]
    rejects: tuple[Reject, ...]


class _Cut:
    """Takes so many items at a time from blocks of any size."""

    def __init__(self, blocks: Iterator[ItemBlock]) -> None:
        self._blocks = blocks
        self._left: ItemBlock | None = None

    def take(self, rows: int) -> Iterator[ItemBlock]:
        """Blocks of `rows` items together; fewer where there are no more."""
        while rows:
            block = self._left if self._left is not None else next(self._blocks, None)
            if block is None:
                return
            more = len(block) > rows
            self._left = block.slice(rows, len(block) - rows) if more else None
            block = block.slice(0, rows) if more else block
            rows -= len(block)
            yield block


def write_unit(base: Searcher, number: int, folder: Path, target: Target, plan: Plan) -> UnitWritten:
    """Writes the items of one store file as `NNNNN-000`, `NNNNN-001` and so on; none where it has no items.

    Memory is bounded by a block of items, and by what the target keeps of a file.

    Args:
      base: the release. number: of the store file. folder: of the export.

    Raises:
      ContractError: store and partitions disagree, or the store file has other items than it says.
    """
    total = item_rows(base, number)
    blocks = _Cut(item_blocks(base, number, rows=min(_MOST_ROWS, row_group_rows(base.dim))))
    records, rejects, written = [], [], 0
    for part, first in enumerate(range(0, total, plan.rows_per_file)):
        rows = min(plan.rows_per_file, total - first)
        done = target.write(blocks.take(rows), Place(folder, f"{number:05d}-{part:03d}", rows), plan)
        if done.items + len(done.rejects) != rows:
            raise ContractError(
                f"{base.title}: {store_file(number, base.manifest.store_files)} says {total} items; of {rows} from {first} on, "
                f"{done.items} were written and {len(done.rejects)} refused",
                "build the release again",
            )
        written += done.items
        rejects += done.rejects
        for path in done.paths:
            records.append({**files.entry_of(path, folder).to_json(), "items": done.items, "longest": dict(done.longest)})
    source = store_file(number, base.manifest.store_files)
    found = tuple(replace(reject, source=source) for reject in rejects)
    return UnitWritten(Counts(total, written, len(found)), tuple(records), found)
