"""Verifies an examples data set: reads back every record of every split and compares it with `dataset.json`."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simpipe.data.examples import CURE, DATASET_JSON, DatasetInfo, ShardInfo, surplus_files
from simpipe.data.record_writer import statistics_of
from simpipe.data.verify_counts import contradictions
from simpipe.data.verify_ids import IdCheck
from simpipe.data.verify_records import NO_RECORD, Piece, ShardWalk
from simpipe.storage import Folder, open_folder, sha256

if TYPE_CHECKING:
    from simpipe.data.verify_content import ContentCheck

DAMAGED = "the file was altered after it was written: restore it, or " + CURE
WRONG = "the writer broke the contract: " + CURE
SURPLUS = "remove the file, or " + CURE
_PER_FILE = 10  # records that are named for one file; then its other records are not looked at
_BATCH_RECORDS, _BATCH_BYTES = 1024, 8 << 20


@dataclass(frozen=True)
class Finding:
    """Something that is wrong: the file (relative to the data set), the record's number in it if it is one record's."""

    file: str
    record: int | None
    what: str
    cure: str

    def __str__(self) -> str:
        return f"{self.file}: {'' if self.record is None else f'record {self.record}: '}{self.what}"


@dataclass(frozen=True)
class VerifyReport:
    """What was read, in numbers, and all `findings` in order of files.

    `complete` is False where the limit of findings was reached: the rest was not looked at.
    """

    folder: str
    files: int
    records: int
    bytes: int
    findings: tuple[Finding, ...]
    complete: bool

    @property
    def ok(self) -> bool:
        return not self.findings


class _Full(Exception):
    """The limit of findings is reached."""


def verify_examples(
    folder: str | Path | Folder, *, limit: int = 100, update: Callable[[int], None] = lambda done: None
) -> VerifyReport:
    """Reads everything: sizes and SHA-256 of files, both checksums of every record, offsets, entries, content, counts.

    Memory is bounded by a block of 8 MiB, one shard's sidecar, and 17 bytes an example (ids are compared by hashes, and
    exactly where hashes are equal).

    Args:
      folder: a local folder or `gs://…`.
      limit: stop at so many findings.
      update: called with the number of records read.

    Raises:
      ContractError: there is no readable `dataset.json`. Everything else is a finding.
    """
    opened = open_folder(folder)
    info = DatasetInfo.load(opened)
    work = _Verification(opened, info, limit, update)
    with contextlib.suppress(_Full):
        work.run()
    return VerifyReport(opened.where, work.files, work.records, work.bytes, tuple(work.findings), len(work.findings) < limit)


class _Verification:
    def __init__(self, folder: Folder, info: DatasetInfo, limit: int, update: Callable[[int], None]) -> None:
        from simpipe.data.verify_content import ContentCheck

        self.folder, self.info, self.limit, self.update = folder, info, limit, update
        self.findings: list[Finding] = []
        self.files = self.records = self.bytes = 0
        self.sizes = folder.sizes()
        self.ids = IdCheck()
        self.content: ContentCheck = ContentCheck(info)

    def add(self, file: str, record: int | None, what: str, cure: str) -> None:
        self.findings.append(Finding(file, record, what, cure))
        if len(self.findings) >= self.limit:
            raise _Full

    def run(self) -> None:
        for what in contradictions(self.info):
            self.add(DATASET_JSON, None, what, DAMAGED)
        listed = set()
        for split in self.info.splits.values():
            for shard in split.shards:
                listed |= {shard.path, shard.offsets.path}
        for name in surplus_files(self.sizes, listed):
            self.add(name, None, f"not listed in {DATASET_JSON}", SURPLUS)
        for split in self.info.splits.values():
            for shard in split.shards:
                self._check_shard(shard)
        for first, second, name in self.ids.duplicates(self.folder):
            cure = "make ids unique in the source, and run `simpipe shard` again"
            self.add(second[0].path, second[1], f"id {name!r} is also that of record {first[1]} of {first[0].path}", cure)

    # --- one shard ---------------------------------------------------------------------------------------------------

    def _check_shard(self, shard: ShardInfo) -> None:
        offsets, trusted = self._sidecar(shard)
        size = self.sizes.get(shard.path)
        labels = np.full(shard.num_examples, NO_RECORD, np.int64)
        hashes = self.ids.begin(shard)
        if size is None:
            self.add(shard.path, None, f"listed in {DATASET_JSON} but missing", DAMAGED)
            return
        if size != shard.size:
            self.add(shard.path, None, f"{size} bytes, {DATASET_JSON} says {shard.size}", DAMAGED)
        self.files += 1
        self.bytes += size
        if problem := _entries_problem(shard, self.info.compression):
            self.add(shard.path, None, problem + "; its records were not read", DAMAGED)
            return
        named: list[int] = []

        def note(record: int | None, what: str) -> None:
            self.add(shard.path, record, what, DAMAGED)
            named.extend([] if record is None else [record])

        walk = ShardWalk(self.folder, shard, size=size, offsets=offsets if trusted else None, note=note)
        for first, records in _batches(walk.pieces()):
            stop = first + len(records)
            content = self.content.check(records, at_most=_PER_FILE - len(named))
            for row, what in content.problems:
                note(first + row, what)
            fits = max(min(stop, shard.num_examples) - first, 0)
            labels[first : first + fits] = content.labels[:fits]
            hashes.put(first, content.ids[:fits], content.labels[:fits] != NO_RECORD)
            self.records += len(records)
            self.update(self.records)
            if len(named) >= _PER_FILE:
                self.add(shard.path, None, f"{len(named)} records are wrong: the rest of the file was not looked at", DAMAGED)
                return
        if not named and size == shard.size and walk.sha256 != shard.sha256:
            what = f"SHA-256 {walk.sha256[:12]}…, {DATASET_JSON} says {shard.sha256[:12]}…"
            self.add(shard.path, None, what, DAMAGED)
        if walk.whole:
            self._check_offsets(shard, offsets, walk.begins)
            self._check_runs(shard, labels, walk.begins)

    def _sidecar(self, shard: ShardInfo) -> tuple[np.ndarray | None, bool]:
        """uint64[n + 1] if the sidecar holds that, and whether it is the file that was written."""
        name, size = shard.offsets.path, self.sizes.get(shard.offsets.path)
        if size is None:
            self.add(name, None, f"listed in {DATASET_JSON} but missing", DAMAGED)
            return None, False
        self.files += 1
        self.bytes += size
        trusted = size == shard.offsets.size
        if not trusted:
            self.add(name, None, f"{size} bytes, {DATASET_JSON} says {shard.offsets.size}", DAMAGED)
        elif sha256(self.folder, name, size) != shard.offsets.sha256:
            trusted = False
            self.add(name, None, f"its SHA-256 is not that in {DATASET_JSON}", DAMAGED)
        try:
            offsets = np.load(io.BytesIO(self.folder.read(name)), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            self.add(name, None, f"no array of record offsets ({error})", DAMAGED)
            return None, False
        if offsets.dtype != np.dtype("<u8") or offsets.shape != (shard.num_examples + 1,):
            what = f"{offsets.dtype}{list(offsets.shape)}, expected uint64[{shard.num_examples + 1}]"
            self.add(name, None, what, DAMAGED)
            return None, False
        grows = int(offsets[0]) == 0 and bool((offsets[1:] > offsets[:-1]).all())
        return offsets, trusted and grows

    def _check_offsets(self, shard: ShardInfo, offsets: np.ndarray | None, begins: np.ndarray) -> None:
        if offsets is None:
            return
        wrong = np.flatnonzero((begins >= 0) & (offsets.astype(np.int64) != begins))
        if len(wrong):
            at = int(wrong[0])
            what = f"byte {offsets[at]}, but the record begins at byte {begins[at]} ({len(wrong)} of {len(offsets)} differ)"
            self.add(shard.offsets.path, at, what, DAMAGED)

    def _check_runs(self, shard: ShardInfo, labels: np.ndarray, begins: np.ndarray) -> None:
        """Labels against class_blocks; where all records were read, statistics too."""
        blocks = np.array(shard.class_blocks, np.int64).reshape(-1, 2)
        expected = np.repeat(blocks[:, 0], blocks[:, 1])
        if len(expected) != len(labels):
            return  # said of dataset.json
        wrong = np.flatnonzero((labels != NO_RECORD) & (labels != expected))
        if len(wrong):
            at = int(wrong[0])
            what = f"label {labels[at]}, class_blocks say {expected[at]} ({len(wrong)} of {len(labels)} records differ)"
            self.add(shard.path, at, what, WRONG)
        elif (labels != NO_RECORD).all() and (begins >= 0).all():
            actual = statistics_of(begins.astype(np.uint64), shard.class_blocks)
            for name in type(actual).model_fields:
                here, said = getattr(actual, name), getattr(shard.statistics, name)
                if here != said:
                    self.add(shard.path, None, f"statistics.{name} is {said}, the records give {here}", DAMAGED)


def _entries_problem(shard: ShardInfo, compression: str) -> str:
    if not compression:
        return "entries of a file that is not compressed" if shard.entries else ""
    entries = np.array(shard.entries, np.int64).reshape(-1, 2)
    if shard.entries[:1] != ((0, 10),) or (np.diff(entries, axis=0) <= 0).any():
        return "entries do not grow from (0, 10)"
    last = entries[-1]
    return "entries lie behind the end" if last[0] > shard.num_examples or last[1] >= shard.size else ""


def _batches(pieces: Iterator[Piece]) -> Iterator[tuple[int, list[bytes]]]:
    """Intact records in larger batches: (number of the first, records)."""
    first, kept, size = 0, [], 0
    for piece in pieces:
        cuts = np.flatnonzero(np.diff(piece.good, prepend=~piece.good[:1], append=~piece.good[-1:])) if len(piece.good) else []
        for start, stop in itertools.pairwise(cuts):
            if not piece.good[start]:
                continue
            if kept and piece.first + start != first + len(kept):
                yield first, kept
                kept, size = [], 0
            if not kept:
                first = int(piece.first + start)
            kept = kept + piece.records[start:stop]
            size += sum(map(len, piece.records[start:stop]))
            if len(kept) >= _BATCH_RECORDS or size >= _BATCH_BYTES:
                yield first, kept
                kept, size = [], 0
    if kept:
        yield first, kept
