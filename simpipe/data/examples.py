"""The contract of an examples data set: `dataset.json` beside TFRecord shards. Writer and sampler share it.

This module knows names, counts and checks; it does not import TensorFlow (`data/parsing.py` does).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from simpipe import files
from simpipe.errors import ConfigError, ContractError
from simpipe.storage import Folder, open_folder, read_json, sha256
from simpipe.types import SPLITS

DATASET_JSON = "dataset.json"
FORMAT_VERSION = 2
CURE = "delete the folder and run `simpipe shard` again"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InputSpec(_Record):
    """The encoder's input in an example.

    `raw`: the bytes of an array of `shape` and `dtype`; `image`: PNG or JPEG bytes, decoded to `shape`;
    `float`: a float list of `shape`. `inverted`: the source turned dark into light, so picture files must be too.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Literal["uint8", "float32"]
    encoding: Literal["raw", "image", "float"]
    inverted: bool = False

    @property
    def is_image(self) -> bool:
        return len(self.shape) == 3

    @property
    def is_picture(self) -> bool:
        """Whether an input can be drawn as it is, and a picture file can become an input."""
        return self.is_image and self.dtype == "uint8" and self.shape[2] in (1, 3)


class SidecarInfo(_Record):
    """The file of record offsets beside a shard: `.npy`, uint64[n + 1].

    Entry i is where record i begins in the shard's decompressed bytes, the last entry where they end.
    """

    path: str
    size: int
    sha256: str


class ShardStatistics(_Record):
    """Bytes are those of serialized examples, without TFRecord framing; an empty shard has zeros."""

    num_classes: int
    smallest_class: int
    largest_class: int
    shortest_record: int
    longest_record: int
    record_bytes: int


class ShardInfo(_Record):
    """One shard: its file, and how classes lie in it: runs of (class index, number of examples), in file order.

    A class has one run a shard. `entries` of a gzip shard lists (first record, byte offset in the file) of each place
    where decompression can start (a full flush of deflate); it is empty where the shard is not compressed.
    """

    path: str
    size: int
    sha256: str
    num_examples: int
    class_blocks: tuple[tuple[int, int], ...]
    offsets: SidecarInfo
    entries: tuple[tuple[int, int], ...] = ()
    statistics: ShardStatistics

    def bare(self) -> ShardInfo:
        """What a worker needs that reads the whole shard: without its classes and entries, of which there may be thousands."""
        return self.model_copy(update={"class_blocks": (), "entries": ()})


class SplitInfo(_Record):
    num_examples: int
    shard_lengths: tuple[int, ...]
    num_bytes: int
    shards: tuple[ShardInfo, ...]


class DatasetInfo(_Record):
    """`dataset.json`.

    Labels in the files are int64 indexes into `class_names`, the classes that train first; -1 means no label.
    `metadata` maps column names to types; a null value has no feature in its example.
    """

    format_version: int = FORMAT_VERSION
    name: str
    key: str
    input: InputSpec
    metadata: dict[str, Literal["string", "int64", "float"]] = {}
    class_names: tuple[str, ...]
    train_classes: tuple[str, ...]
    splits: dict[str, SplitInfo]
    class_counts: dict[str, dict[str, int]]
    num_shards: int
    compression: Literal["", "gzip"]
    seed: int
    counts: dict[str, int]
    provenance: dict[str, Any]

    @classmethod
    def load(cls, folder: str | Path | Folder) -> DatasetInfo:
        """Reads `dataset.json` of a folder, local or `gs://` (as text: a Path swallows a slash).

        Raises:
          ContractError: it is missing, malformed, or of another format version.
        """
        opened = open_folder(folder)
        data, path = read_json(opened, DATASET_JSON), opened.full(DATASET_JSON)
        version = data.get("format_version") if isinstance(data, dict) else None
        if isinstance(version, int) and version != FORMAT_VERSION:
            raise ContractError(f"{path}: format version {version}, this simpipe reads {FORMAT_VERSION}", CURE)
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            raise ContractError(f"{path}: field {'.'.join(map(str, first['loc']))}: {first['msg']}", CURE) from None

    def save(self, folder: Path) -> None:
        files.write_json(folder / DATASET_JSON, self.model_dump(mode="json"))

    def without_shards(self) -> DatasetInfo:
        """What examples are like, without the record of each shard: small enough to travel to every worker."""
        return self.model_copy(update={"splits": {}, "class_counts": {}, "provenance": {}})

    def shards(self, folder: Path, split: str) -> list[tuple[Path, ShardInfo]]:
        """The shards of a split in order, each path checked to lie in `folder`."""
        if split not in self.splits:
            raise ContractError(f"{folder}: no split {split!r}; there are {sorted(self.splits)}", CURE)
        return [(files.inside(folder, shard.path), shard) for shard in self.splits[split].shards]


def shard_name(split: str, index: int, of: int, suffix: str) -> str:
    """`train-00003-of-00016` and a suffix such as `.tfrecord.gz`."""
    if not 0 <= index < of:
        raise ValueError(f"shard {index} of {of}")
    return f"{split}-{index:05d}-of-{of:05d}{suffix}"


def verify_dataset(folder: str | Path | Folder, info: DatasetInfo, *, checksums: bool = True, sizes: bool = True) -> None:
    """Checks that the files are those that `dataset.json` describes: names and counts, and as asked sizes or checksums.

    One listing of the folder; only `checksums` reads files. `verify_examples` reads every record.

    Raises:
      ContractError: a shard or its sidecar is missing, altered or surplus, or counts do not add up; names the file.
    """
    opened = open_folder(folder)
    found, listed = opened.sizes(), set()
    for name, parts in info.splits.items():
        if sum(parts.shard_lengths) != parts.num_examples or len(parts.shards) != info.num_shards:
            raise ContractError(f"{opened.full(DATASET_JSON)}: counts of split {name!r} do not add up", CURE)
        for shard in parts.shards:
            if sum(count for _, count in shard.class_blocks) != shard.num_examples:
                path = opened.full(shard.path)
                raise ContractError(f"{path}: class blocks hold another number of examples than the shard", CURE)
            for part in (shard, shard.offsets):
                listed.add(part.path)
                _verify_file(opened, part, found.get(part.path), checksums=checksums, sizes=sizes)
    if surplus := surplus_files(found, listed):
        raise ContractError(f"{opened.full(surplus[0])}: not listed in {DATASET_JSON}", "remove the file, or " + CURE)


def _verify_file(folder: Folder, part: ShardInfo | SidecarInfo, size: int | None, *, checksums: bool, sizes: bool) -> None:
    path = folder.full(part.path)
    if size is None:
        raise ContractError(f"{path}: listed in {DATASET_JSON} but missing", CURE)
    if (sizes or checksums) and size != part.size:
        raise ContractError(f"{path}: {size} bytes, {DATASET_JSON} says {part.size}", CURE)
    if checksums and (actual := sha256(folder, part.path, size)) != part.sha256:
        raise ContractError(f"{path}: SHA-256 {actual[:12]}…, {DATASET_JSON} says {part.sha256[:12]}…", CURE)


def surplus_files(found: Iterable[str], listed: Collection[str]) -> list[str]:
    """Files of a data set's folder that look like shards or sidecars but are not `listed`, in order."""
    return sorted(name for name in found if ".tfrecord" in name and not name.startswith(".") and name not in listed)


def sort_classes(names: set[str]) -> list[str]:
    """Integer names in numeric order, others after them in text order."""
    return sorted(names, key=lambda name: (0, int(name), name) if re.fullmatch(r"-?\d+", name) else (1, 0, name))


def resolve_classes(wanted: tuple[str, ...] | Literal["all"], known: list[str], field: str) -> list[str]:
    """The classes that a class list of the configuration names, in the order of `known`.

    Args:
      wanted: class names or ranges of integers such as `"0-7"`, or `"all"`.
      known: class names of the data set.
      field: the configuration's field, for the error.

    Raises:
      ConfigError: a class is not in the data set.
    """
    if wanted == "all":
        return list(known)
    present, chosen, missing = set(known), set(), []
    for item in wanted:
        span = re.fullmatch(r"(\d+)-(\d+)", item)
        names = [item] if item in present or not span else [str(i) for i in range(int(span[1]), int(span[2]) + 1)]
        chosen.update(names)
        missing += [name for name in names if name not in present]
    if missing:
        some = ", ".join(known[:10]) + (" …" if len(known) > 10 else "")
        absent = ", ".join(repr(name) for name in missing[:5])
        raise ConfigError(
            f"{field}: class {absent} is not in the data set ({len(known)} classes: {some})",
            f"name existing classes in {field}, or add examples of the missing ones to the source",
        )
    return [name for name in known if name in chosen]


def split_of(ids_held_out: np.ndarray, trained: np.ndarray, indexed: np.ndarray) -> np.ndarray:
    """The split of each example: int8[n] into `SPLITS`, -1 for classes that are neither trained on nor indexed."""
    split = np.full(len(ids_held_out), -1, np.int8)
    split[indexed] = SPLITS.index("index")
    split[trained] = SPLITS.index("train")
    split[ids_held_out & (trained | indexed)] = SPLITS.index("query")
    return split
