"""What exports for Vertex AI Vector Search and Milvus hold, column by column, against rows made one by one."""

from __future__ import annotations

import datetime
import json
import math
from decimal import Decimal
from typing import Any

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from export_data import ids_of, metadata_of
from hypothesis import given, settings
from hypothesis import strategies as st
from release_maker import make_release

from pipelines import export
from simpipe.errors import ConfigError, ContractError, RejectedError
from simpipe.exports import columns, milvus, vertex
from simpipe.exports.contract import Contents, Place
from simpipe.exports.json_text import comma_joined, json_text, objects
from simpipe.exports.milvus_schema import collection_schema, field_of, fields_of
from simpipe.index.router import Router
from simpipe.items import ItemBlock

ROWS, DIM = 60, 5
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def block_of(metadata: pa.Table, ids: list[str] | None = None) -> tuple[ItemBlock, Contents]:
    """Items with such metadata, and the contents of their release."""
    n = len(metadata)
    labels = pa.array([None if row % 4 == 0 else f"l{row % 3}" for row in range(n)], pa.string())
    table = pa.table({"id": pa.array(ids or ids_of(n)), "label": labels})
    for name, column in zip(metadata.column_names, metadata.columns, strict=True):
        table = table.append_column(name, column)
    vectors = np.random.default_rng(0).normal(size=(n, DIM)).astype(np.float32)
    return ItemBlock(table, vectors), Contents("r", DIM, "cosine", n, 1, tuple(metadata.schema))


RESTRICT = {
    "type": "object",
    "properties": {"namespace": {"type": "string"}, "allow": {"type": "array", "items": {"type": "string"}, "minItems": 1}},
    "required": ["namespace", "allow"],
    "additionalProperties": False,
}
NUMBER = {
    "type": "object",
    "properties": {
        "namespace": {"type": "string"},
        "value_int": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
        "value_float": {"type": "number"},
        "value_double": {"type": "number"},
    },
    "required": ["namespace"],
    "minProperties": 2,
    "maxProperties": 2,  # one kind of number in a namespace
    "additionalProperties": False,
}
RECORD = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "minLength": 1},
        "embedding": {"type": "array", "items": {"type": "number"}, "minItems": DIM, "maxItems": DIM},
        "restricts": {"type": "array", "items": RESTRICT},
        "numeric_restricts": {"type": "array", "items": NUMBER},
        "crowding_tag": {"type": "string"},
    },
    "required": ["id", "embedding"],
    "additionalProperties": False,
}


def vertex_item(row: dict[str, Any], vector: list[float]) -> dict[str, Any]:
    """The oracle: one record from one row."""
    tokens, numbers = [], []
    for name, value in row.items():
        if name == "id" or value is None or name in ("raw", "box", "amount"):
            continue
        if isinstance(value, bool):
            tokens.append({"namespace": name, "allow": [str(value).lower()]})
        elif isinstance(value, str) or (isinstance(value, list) and value):
            tokens.append({"namespace": name, "allow": [value] if isinstance(value, str) else value})
        elif isinstance(value, datetime.datetime):
            micro = (value - EPOCH) // datetime.timedelta(microseconds=1)
            numbers.append({"namespace": name, "value_int": micro})
        elif isinstance(value, datetime.date):
            numbers.append({"namespace": name, "value_int": (value - EPOCH.date()).days})
        elif isinstance(value, int):
            numbers.append({"namespace": name, "value_int": value})
        elif isinstance(value, float) and not math.isnan(value):
            numbers.append({"namespace": name, "value_double" if name == "price" else "value_float": value})
    tag = {"crowding_tag": row["label"]} if row["label"] is not None else {}
    return {"id": row["id"], "embedding": vector, "restricts": tokens, "numeric_restricts": numbers, **tag}


def test_vertex_lines_say_what_the_rows_say(tmp_path):
    block, contents = block_of(metadata_of(ROWS))
    plan = vertex.plan(contents)
    done = vertex.write(iter([block.slice(0, 7), block.slice(7, ROWS - 7)]), Place(tmp_path, "00000-000", ROWS), plan)
    assert done.items == ROWS
    (path,) = done.paths
    assert path == tmp_path / "data" / "items-00000-000.json"
    lines = path.read_bytes().decode().splitlines()
    records = [json.loads(line) for line in lines]
    check = jsonschema.Draft202012Validator(RECORD)
    rows = block.table.to_pylist()
    for row, record in enumerate(records):
        check.validate(record)
        np.testing.assert_array_equal(np.array(record["embedding"], np.float32), block.vectors[row])
        for number in record["numeric_restricts"]:
            if "value_float" in number:
                number["value_float"] = float(np.float32(number["value_float"]))
        assert record == vertex_item(rows[row], record["embedding"])
    assert set(plan.left_out) == {"raw", "box", "amount"}
    assert plan.carried["seen"] == "numeric_restricts, value_int: microseconds since 1970-01-01 UTC"


def test_vertex_says_which_items_it_cannot_hold():
    table = pa.table({"size": pa.array([1, 2**63, 3], pa.uint64()), "price": [1.0, 2.0, float("inf")]})
    block, contents = block_of(table, ["a", "b", "c"])
    text, rejects = vertex.lines(block, vertex.plan(contents))
    assert [json.loads(line)["id"] for line in text.to_pylist()] == ["a"]
    assert [(each.id, each.reason) for each in rejects] == [
        ("b", f"column size: beyond {2**63 - 1}, the largest value_int"),
        ("c", "column price: an infinite number, which JSON cannot say"),
    ]


def test_vertex_reads_five_thousand_files():
    contents = Contents("r", 1024, "cosine", 10**7, 5001, ())
    with pytest.raises(ConfigError, match=r"up to 5,039 files for 10,000,000 vectors of dim 1024 \(40,960,000,000 bytes\)"):
        vertex.plan(contents)


def test_vertex_says_how_to_create_the_index(tmp_path):
    for distance, measure in (("cosine", "DOT_PRODUCT_DISTANCE"), ("euclidean", "SQUARED_L2_DISTANCE")):
        contents = Contents("r", 64, distance, 10**8, 4, ())
        vertex.finish(tmp_path, vertex.plan(contents), [], memory=0)
        config = json.loads((tmp_path / "index.json").read_text())["config"]
        assert (config["dimensions"], config["distanceMeasureType"]) == (64, measure)
        assert config["shardSize"] == "SHARD_SIZE_LARGE"  # 25.6 GB of vectors


def milvus_row(row: dict[str, Any]) -> dict[str, Any]:
    """The oracle: fields of one row."""
    out = {}
    for name, value in row.items():
        if name in ("raw", "box", "amount", "two words"):
            continue
        if isinstance(value, datetime.datetime):
            value = (value - EPOCH) // datetime.timedelta(microseconds=1)
        elif isinstance(value, datetime.date):
            value = (value - EPOCH.date()).days
        elif isinstance(value, float) and math.isnan(value):
            value = None
        out[name] = value
    return out


def test_milvus_files_hold_what_the_rows_say(tmp_path):
    metadata = metadata_of(ROWS)
    metadata = metadata.rename_columns([name.replace("two_words", "two words") for name in metadata.column_names])
    block, contents = block_of(metadata)
    plan = milvus.plan(contents)
    done = milvus.write(iter([block.slice(0, 9), block.slice(9, ROWS - 9)]), Place(tmp_path, "00000-000", ROWS), plan)
    found = pq.read_table(done.paths[0])
    rows = block.table.to_pylist()
    assert found.drop_columns(["embedding", "$meta"]).to_pylist() == [milvus_row(row) for row in rows]
    np.testing.assert_array_equal(np.array(found.column("embedding").to_pylist(), np.float32), block.vectors)
    for text, row in zip(found.column("$meta").to_pylist(), rows, strict=True):
        expected = {"box": row["box"], "amount": f"{row['amount']}", "two words": row["two words"]}
        assert json.loads(text) == {name: value for name, value in expected.items() if value is not None}
    allowed = {pa.string(), pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64()}
    kinds = {field.type.value_type if pa.types.is_list(field.type) else field.type for field in found.schema}
    assert kinds <= allowed  # what the import's reader of Parquet takes, lists of them too
    assert plan.left_out == {"raw": "binary: no field of Milvus holds bytes"}
    records = [{"longest": longest, "size": 1} for longest in (done.longest, {"shop": 70})]
    milvus.finish(tmp_path, plan, records, memory=0)
    schema = json.loads((tmp_path / "schema.json").read_text())
    fields = {field["name"]: field for field in schema["fields"]}
    assert list(fields) == [field.name for field in found.schema if field.name != "$meta"]
    assert fields["id"]["is_primary"]
    assert "nullable" not in fields["id"]
    assert fields["shop"]["params"] == {"max_length": 128}
    assert fields["tags"]["params"] == {"max_length": 64, "max_capacity": 64}
    assert fields["embedding"]["params"] == {"dim": DIM}
    assert schema["enable_dynamic_field"]


def test_milvus_says_which_items_it_cannot_hold():
    strange: dict[str, Any] = {
        "price": pa.array([1.0, float("inf"), 3.0, 4.0, 5.0, 6.0]),
        "tags": pa.array([["a"], ["a"], ["a", None], ["x"] * 4097, ["é" * 32_768], None], pa.list_(pa.string())),
        "size": pa.array([1, 2, 3, 4, 5, 2**63], pa.uint64()),
    }
    block, contents = block_of(pa.table(strange), list("abcdef"))
    fields, dynamic, _ = fields_of(contents.item_schema)
    kind = milvus.arrow_schema(fields, bool(dynamic))
    table, rejects, longest = milvus.converted(block, fields, dynamic, kind)
    assert table.column("id").to_pylist() == ["a"]
    assert [(each.id, each.reason) for each in rejects] == [
        ("b", "column price: an infinite number"),
        ("c", "column tags: a list with null or NaN in it"),
        ("d", "column tags: more than 4096 values"),
        ("e", "column tags: text of more than 65535 bytes"),
        ("f", "column size: beyond 9223372036854775807"),
    ]
    assert longest["id"] == 1


def test_a_file_that_milvus_does_not_read_fails_the_export(tmp_path):
    plan = milvus.plan(Contents("r", DIM, "cosine", 10, 1, ()))
    record = {"path": "data/items-00000-000.parquet", "size": 16_000_000_001, "items": 10, "longest": {}}
    with pytest.raises(ContractError, match=r"16,000,000,001 bytes of 10 items; Milvus reads files of 16,000,000,000"):
        milvus.finish(tmp_path, plan, [record], memory=0)


def test_milvus_names_and_numbers_of_fields():
    for name in ("two words", "1st", "é", "Timestamp", "RowID", "$meta", "x" * 256):
        assert field_of(name, pa.string()) is None
    many = pa.schema([("id", pa.string()), ("label", pa.string()), *((f"c{place}", pa.int8()) for place in range(80))])
    fields, dynamic, left_out = fields_of(many)
    assert len(fields) + 2 == 64  # with the vector and the dynamic field
    assert dynamic == [f"c{place}" for place in range(60, 80)]
    assert not left_out
    longest = {"id": 60_000}
    room = collection_schema(fields[:1], dim=2, dynamic=False, longest=longest, about="")["fields"][0]["params"]["max_length"]
    assert 60_000 <= room <= 65_535


def test_items_that_break_a_limit_fail_the_export_and_are_listed(tmp_path, monkeypatch):
    vectors = np.random.default_rng(1).normal(size=(30, DIM)).astype(np.float32)
    make_release(tmp_path / "root", vectors, Router(2))
    monkeypatch.setattr(milvus, "MOST_BYTES", 2)  # ids of three letters are too long
    out = tmp_path / "out"
    with pytest.raises(RejectedError, match=r"20 of 30 items break a limit of the target(.|\n)*'i10': column id: text of more"):
        export.run(str(tmp_path / "root"), str(out), "milvus")
    listed = (out / ".work" / "rejects" / "00000.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["id"] for line in listed) == [f"i{row}" for row in range(10, 30)]
    assert not list(out.glob("data/*"))
    assert not (out / "export.json").exists()
    monkeypatch.undo()
    assert export.run(str(tmp_path / "root"), str(out), "milvus")[1].items == 30  # the same folder, once mended


# --- JSON text ----------------------------------------------------------------------------------------------------------

FINITE = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
COLUMN = st.one_of(
    *(
        st.tuples(st.just(kind), st.lists(st.none() | values, max_size=8))
        for kind, values in (
            (pa.string(), TEXT),
            (pa.large_string(), TEXT),
            (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
            (pa.float64(), FINITE),
            (pa.bool_(), st.booleans()),
            (pa.list_(pa.string()), st.lists(st.none() | TEXT, max_size=4)),
            (pa.list_(pa.list_(pa.float64())), st.lists(st.none() | st.lists(FINITE, max_size=3), max_size=3)),
            (pa.struct([("a b", pa.int64()), ("t", pa.string())]), st.fixed_dictionaries(
                {"a b": st.none() | st.integers(0, 9), "t": st.none() | TEXT})),
        )
    )
)  # fmt: skip


@settings(deadline=None, max_examples=120)
@given(COLUMN, st.integers(0, 3))
def test_json_text_reads_back(column, first):
    kind, values = column
    array = pa.array(values, kind).slice(first)  # a slice has offsets of its own
    assert [json.loads(text) for text in json_text(array).to_pylist()] == values[first:]


def test_json_text_of_numbers_and_times():
    floats = np.array([0.1, 1e-7, 3e38, -0.0, 1 / 3], np.float32)
    assert (
        np.array([json.loads(text) for text in json_text(pa.array(floats)).to_pylist()], np.float32).tolist() == floats.tolist()
    )
    assert json_text(pa.array([float("nan"), float("inf"), None, 1.5])).to_pylist() == ["null", "null", "null", "1.5"]
    assert json_text(pa.array([Decimal("1.20"), None])).to_pylist() == ['"1.20"', "null"]
    assert json_text(pa.array([datetime.date(2024, 2, 3)])).to_pylist() == ['"2024-02-03"']
    assert json_text(pa.array(["a", None, "a"]).dictionary_encode()).to_pylist() == ['"a"', "null", '"a"']
    assert json_text(pa.nulls(2)).to_pylist() == ["null", "null"]


def test_members_and_rows_without_values_stay():
    one, other = pa.array([None, "1", None, "2"]), pa.array([None, None, "3", "4"])
    assert comma_joined([one, other], 4).to_pylist() == ["", "1", "3", "2,4"]
    assert comma_joined([one], 4).to_pylist() == ["", "1", "", "2"]
    assert objects([('"a', one)], 4).to_pylist() == ["{}", '{"\\"a":1}', "{}", '{"\\"a":2}']
    assert columns.since(pa.timestamp("ms")) == "milliseconds since 1970-01-01"
