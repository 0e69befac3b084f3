"""What tests of verification share: damage, and what is said of it."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import numpy as np
import tensorflow as tf

from simpipe.data.examples import DatasetInfo
from simpipe.data.record_writer import statistics_of
from simpipe.data.verify import Finding, VerifyReport
from simpipe.files import sha256_file

SHARD = "train-00001-of-00002.tfrecord"


RECORDS = 300  # 210 train, 60 index, 30 query


def found(report: VerifyReport) -> list[tuple[str, int | None]]:
    assert all(finding.cure and finding.what for finding in report.findings)
    return [(finding.file, finding.record) for finding in report.findings]


def says(report: VerifyReport, text: str) -> Finding:
    return next(finding for finding in report.findings if text in finding.what)


def shard_of(folder: Path) -> Path:
    return next(path for path in folder.glob(SHARD + "*") if path.suffix != ".npy")


def edit_json(folder: Path, change: Callable[[dict], None]) -> None:
    path = folder / "dataset.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def about(data: dict, name: str) -> dict:
    return next(shard for split in data["splits"].values() for shard in split["shards"] if shard["path"] == name)


def frame(record: bytes, *, bad_length: bool = False, bad_data: bool = False) -> bytes:
    def masked(data: bytes) -> int:
        crc = google_crc32c.value(data)
        return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF

    length = struct.pack("<Q", len(record))
    return length + struct.pack("<I", masked(length) ^ bad_length) + record + struct.pack("<I", masked(record) ^ (bad_data << 7))


def rewrite(folder: Path, change: Callable[[int, bytes], bytes]) -> Path:
    """Rewrites the shard as a faulty writer would: each framed record passes through `change`; sums, sizes, sidecar agree."""
    path = shard_of(folder)
    info = DatasetInfo.load(folder)
    shard = next(shard for shard in info.splits["train"].shards if shard.path == path.name)
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(path), "GZIP" if info.compression else "")]
    framed = [change(number, record) for number, record in enumerate(records)]
    starts = dict.fromkeys(first for first, _ in shard.entries)
    if info.compression:
        packer, packed, entries = zlib.compressobj(wbits=31), b"", []
        for number, record in enumerate(framed):
            if number in starts and number:
                packed += packer.flush(zlib.Z_FULL_FLUSH)
            if number in starts:
                entries.append((number, max(len(packed), 10)))
            packed += packer.compress(record)
        path.write_bytes(packed + packer.flush())
    else:
        entries = []
        path.write_bytes(b"".join(framed))
    sidecar = folder / shard.offsets.path
    offsets = np.cumsum([0, *map(len, framed)]).astype("<u8")
    np.save(sidecar, offsets)

    def change_json(data: dict) -> None:
        of = about(data, path.name)
        split = data["splits"]["train"]
        split["num_bytes"] += path.stat().st_size - of["size"]
        of |= {"size": path.stat().st_size, "sha256": sha256_file(path), "entries": entries}
        of["statistics"] = statistics_of(offsets, shard.class_blocks).model_dump()
        of["offsets"] |= {"size": sidecar.stat().st_size, "sha256": sha256_file(sidecar)}

    edit_json(folder, change_json)
    return path


def changed_example(number: int, change: Callable[[tf.train.Example], None]) -> Callable[[int, bytes], bytes]:
    def apply(at: int, record: bytes) -> bytes:
        example = tf.train.Example.FromString(record)
        if at == number:
            change(example)
        return frame(example.SerializeToString())

    return apply


def flip(path: Path, at: int, bit: int = 0x10) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= bit
    path.write_bytes(data)
