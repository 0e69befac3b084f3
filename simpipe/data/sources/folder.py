"""Images in folders: the label is the folder, the id the file. The encoded bytes are kept as they are."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe import files
from simpipe.config.models import FolderSource
from simpipe.data.examples import InputSpec
from simpipe.data.sources import base
from simpipe.data.sources.base import IMAGE, SourceBlock
from simpipe.data.sources.images import SUFFIXES, check_images
from simpipe.data.sources.listing import list_files, require, stat_files
from simpipe.errors import SourceError
from simpipe.types import Reject

_CURE = "put image files into one folder a class: PATH/CLASS/FILE.png"
_BLOCK_BYTES = 64 << 20


class Folder:
    """See `FolderSource`. Images that lie in `path` itself have no label; files are read in the order of their names."""

    metadata: tuple[pa.Field, ...] = ()

    def __init__(self, config: FolderSource) -> None:
        self.config = config
        self.input = InputSpec(name=IMAGE, shape=(*config.resize, config.channels), dtype="uint8", encoding="image")
        self.root = files.located(config.path)

    def blocks(self, rows: int) -> list[SourceBlock]:
        """Blocks of at most `rows` files and about 64 MiB; a block carries its file names.

        Raises:
          SourceError: `path` is missing, no folder, or without images.
        """
        root, names = _images(self.config)
        blocks: list[SourceBlock] = []
        items: list[str] = []
        size = 0
        for name in names:
            bytes_here = (root / name).stat().st_size
            if items and (len(items) == rows or size + bytes_here > _BLOCK_BYTES):
                blocks.append(SourceBlock(len(blocks), items=tuple(items)))
                items, size = [], 0
            items.append(name)
            size += bytes_here
        return [*blocks, SourceBlock(len(blocks), items=tuple(items))]

    def read(self, block: SourceBlock) -> tuple[pa.Table, list[Reject]]:
        contents: list[bytes | None] = []
        unread: dict[int, str] = {}
        for row, name in enumerate(block.items):
            try:
                contents.append((self.root / name).read_bytes())
            except OSError as error:
                contents.append(None)
                unread[row] = f"cannot be read: {error.strerror or error}"
        inputs, undecoded = check_images(contents, self.input.shape[2])
        unreadable = np.zeros(len(contents), bool)
        unreadable[list(unread)] = True
        labels = [None if (parent := PurePosixPath(name).parent.as_posix()) == "." else parent for name in block.items]
        names = pa.array(block.items, pa.string())
        table = pa.Table.from_arrays([names, pa.array(labels, pa.string()), inputs, names], schema=base.table_schema(self.input))
        return base.sift(table, [(unreadable, "unreadable-file", lambda row: unread[row]), undecoded])


def _images(config: FolderSource) -> tuple[Path, list[str]]:
    if not require(config.path, _CURE).is_dir():
        raise SourceError(f"source.path: {config.path} is no folder", _CURE)
    return list_files(config.path, SUFFIXES, _CURE)


def fingerprint(config: FolderSource) -> dict[str, Any]:
    return stat_files(*_images(config))
