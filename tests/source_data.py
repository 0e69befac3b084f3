"""What tests of sources share: a configuration, all that a source gives, pictures."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from pydantic import TypeAdapter

from simpipe.config.models import Source
from simpipe.data.sources import open_source


def source(kind, **fields):
    return TypeAdapter(Source).validate_python(
        {"kind": kind, **{k: str(v) if isinstance(v, Path) else v for k, v in fields.items()}}
    )


def read_all(config, rows=500):
    """All blocks as one table, and all rejects; checks what holds for every source."""
    opened = open_source(config)
    tables, rejects = [], []
    for number, block in enumerate(opened.blocks(rows)):
        assert block.index == number
        table, bad = opened.read(block)
        if block.rows is not None:
            assert table.num_rows + len(bad) == block.rows
        assert opened.read(block)[0].equals(table), "a block must read the same twice"
        tables.append(table)
        rejects += bad
    table = pa.concat_tables(tables)
    assert table.column_names[:4] == ["id", "label", "input", "source"]
    assert table["id"].null_count == table["input"].null_count == 0
    return opened, table, rejects


def images_of(table, shape):
    return np.stack([np.frombuffer(value, np.uint8).reshape(shape) for value in table["input"].to_pylist()])


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()
