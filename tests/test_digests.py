"""Digests of records: the same for the same content however Arrow lays it out, another one for any other content."""

from __future__ import annotations

import datetime
import decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpipe.digests import digest_rows, digests_file, read_digests, write_digests
from simpipe.embeddings import vectors_column
from simpipe.errors import ContractError

VALUES = {
    pa.string(): st.one_of(st.text(max_size=12), st.sampled_from(["", "x" * 64, "x" * 65, "x" * 63 + "\0"])),
    pa.binary(): st.binary(max_size=80),
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.uint8(): st.integers(0, 255),
    pa.float64(): st.floats(allow_nan=False),
    pa.bool_(): st.booleans(),
    pa.timestamp("us"): st.datetimes(datetime.datetime(1970, 1, 1), datetime.datetime(2100, 1, 1)),
    pa.decimal128(9, 2): st.integers(-(10**8), 10**8).map(lambda cents: decimal.Decimal(cents) / 100),
    pa.list_(pa.int64()): st.lists(st.none() | st.integers(-5, 5), max_size=4),
    pa.list_(pa.string(), 2): st.lists(st.none() | st.text(max_size=3), min_size=2, max_size=2),
    pa.list_(pa.float32(), 3): st.lists(st.none() | st.sampled_from([0.0, 1.0, -1.0]), min_size=3, max_size=3),
    pa.struct([("a", pa.int8()), ("b", pa.list_(pa.string()))]): st.fixed_dictionaries(
        {"a": st.none() | st.integers(-2, 2), "b": st.none() | st.lists(st.sampled_from(["", "u", "v"]), max_size=2)}
    ),
}


@st.composite
def columns(draw):
    kind = draw(st.sampled_from(list(VALUES)))
    return pa.array(draw(st.lists(st.none() | VALUES[kind], min_size=1, max_size=20)), kind)


def texts(column) -> list[str]:
    return [repr(value) for value in column.to_pylist()]


def digests(**named) -> list[bytes]:
    return digest_rows(named).to_pylist()


@given(columns())
@settings(max_examples=300, deadline=None)
def test_equal_values_have_equal_digests_and_others_do_not(column):
    of = {}
    for value, digest in zip(texts(column), digests(x=column), strict=True):
        if "-0.0" not in value:  # differs from 0.0 by its bytes
            assert of.setdefault(value, digest) == digest
    assert len(set(of.values())) == len(of)


@given(columns(), st.data())
@settings(max_examples=200, deadline=None)
def test_layout_takes_no_part(column, data):
    whole = digests(x=column)
    first = data.draw(st.integers(0, len(column)))
    assert digests(x=pa.chunked_array([column[:first], column[first:]], column.type)) == whole
    assert digests(x=column[first:]) == whole[first:], "a slice has an offset"
    assert [digests(x=column[row : row + 1])[0] for row in range(len(column))] == whole, "no record depends on others"
    order = np.random.default_rng(first).permutation(len(column))
    assert digests(x=column.take(pa.array(order))) == [whole[row] for row in order]


def test_one_kind_of_text_whatever_its_encoding():
    words = pa.array(["a", None, "b", "", "a" * 200])
    same = [words, words.cast(pa.large_string()), words.cast(pa.string_view()), words.dictionary_encode()]
    assert all(digests(x=each) == digests(x=words) for each in same)
    twice = pa.chunked_array([words[:2].dictionary_encode(), words[2:].dictionary_encode()])
    assert digests(x=twice) == digests(x=words)
    named = pa.array([[1, 2], None], pa.list_(pa.field("other", pa.int64())))
    assert digests(x=named) == digests(x=named.cast(pa.list_(pa.int64())))


def test_names_types_nulls_and_signs_count():
    one, two = pa.array([1, 2]), pa.array([1, 2], pa.int32())
    text, empty, null = pa.array(["1"]), pa.array([""]), pa.array([None], pa.string())
    assert digests(x=one) != digests(y=one)
    assert digests(x=one) != digests(x=two), "a column that changes its type changes"
    assert digests(a=text, b=empty) != digests(a=empty, b=text)
    assert digests(a=text, b=empty) == digests(b=empty, a=text)
    assert len({*digests(x=text), *digests(x=empty), *digests(x=null), *digests(x=text, y=null)}) == 4
    assert digests(x=null) == digests(x=pa.array([None], pa.null())), "a block of nulls may not know the type"
    assert digests(x=pa.array([0.0])) != digests(x=pa.array([-0.0]))
    assert digests(x=pa.array([float("nan")])) == digests(x=pa.array([float("nan")]))
    with pytest.raises(ContractError, match="sparse_union"):
        digests(x=pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])]))


def test_what_lies_under_a_null_takes_no_part():
    for junk in ([1, 2], [7, 2]):
        column = pa.Array.from_buffers(pa.int64(), 2, [pa.py_buffer(b"\x02"), pa.py_buffer(np.array(junk).tobytes())])
        assert digests(x=column) == digests(x=pa.array([None, 2]))
        assert digests(x=pa.FixedSizeListArray.from_arrays(column, 2)) == digests(
            x=pa.array([[None, 2]], pa.list_(pa.int64(), 2))
        )


@pytest.mark.parametrize("dim", [1, 2, 3, 17, 64])
def test_single_and_paired_flips_of_bits_in_vectors_are_seen(dim):
    """Every bit of a vector, and every pair of the bits of two places: the signs of two values among them."""
    base = np.random.default_rng(dim).normal(size=dim).astype(np.float32)
    variants = [base.tobytes()]
    bits = base.view(np.uint32)
    for place in range(dim):
        for bit in range(32):
            for other in {place, (place + 2) % dim, (place + 1) % dim}:
                changed = bits.copy()
                changed[place] ^= np.uint32(1 << bit)
                if other != place:
                    changed[other] ^= np.uint32(1 << bit)
                variants.append(changed.tobytes())
    variants = sorted(set(variants))
    table = np.frombuffer(b"".join(variants), np.float32).reshape(-1, dim)
    found = digests(x=vectors_column(table))
    assert len(set(found)) == len(variants)
    assert len({digest[:8] for digest in found}) == len(variants), "each half alone tells them apart"
    assert len({digest[8:] for digest in found}) == len(variants)


def test_the_values_stay_as_they_are_on_disk():
    vectors = vectors_column(np.arange(6, dtype=np.float32).reshape(2, 3))
    found = digests(label=pa.array(["a", None]), embedding=vectors, price=pa.array([1, 2]))
    assert [digest.hex() for digest in found] == ["3aece720e104a4af9c1dd79497f5e6ba", "1795133e1b47cc96ad0ca376908796ce"]
    assert digest_rows({"x": pa.array([], pa.string())}).type == pa.binary(16)


def test_digests_of_a_release_come_back_in_the_order_of_ids(tmp_path):
    table = pa.table(
        {"id": ["b", "a", "c"], "digest": pa.array([b"2" * 16, b"1" * 16, b"3" * 16], pa.binary(16)), "row": [1, 2, 3]}
    )
    path = tmp_path / digests_file(3, 16)
    write_digests(table, path)
    assert path.name == "00003-of-00016.parquet"
    assert read_digests(path).to_pydict() == {"id": ["a", "b", "c"], "digest": [b"1" * 16, b"2" * 16, b"3" * 16]}
    before = path.read_bytes()
    write_digests(table.take(pa.array([2, 0, 1])), path)
    assert path.read_bytes() == before
