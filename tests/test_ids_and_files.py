"""Hashes of ids, atomic writes, checksums, and paths that may not leave their root."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simpipe import files
from simpipe.errors import ContractError
from simpipe.ids import bucket_of, hash_ids, holdout


def slow_hash(text: str, seed: int = 0) -> int:
    """FNV-1a and SplitMix64 with Python integers."""
    mask = 2**64 - 1
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) & mask
    value = (value + seed * 0x9E3779B97F4A7C15) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return value ^ (value >> 31)


@given(st.lists(st.text(max_size=30), max_size=20), st.integers(0, 1000))
def test_hash_equals_the_plain_one(ids, seed):
    assert hash_ids(ids, seed).tolist() == [slow_hash(text, seed) for text in ids]


@given(st.lists(st.text(max_size=10), min_size=3, max_size=20))
def test_hash_does_not_depend_on_slices_or_chunks(ids):
    array = pa.array(ids, pa.string())
    assert hash_ids(array[2:]).tolist() == hash_ids(ids).tolist()[2:]
    assert hash_ids(pa.chunked_array([array[:1], array[1:]])).tolist() == hash_ids(ids).tolist()


def test_buckets_and_holdout_are_even():
    ids = [f"item-{i}" for i in range(20_000)]
    counts = np.bincount(bucket_of(ids, 16), minlength=16)
    assert counts.min() > 1000
    assert counts.max() < 1500
    assert abs(holdout(ids, 0.1, 42).mean() - 0.1) < 0.01
    assert not holdout(ids, 0.0, 42).any()
    assert holdout(ids, 1.0, 42).all()


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "", "a\\b"])
def test_paths_stay_inside(tmp_path, path):
    with pytest.raises(ContractError):
        files.inside(tmp_path, path)


def test_replacing_leaves_no_half_file(tmp_path):
    path = tmp_path / "a.txt"
    files.write_bytes(path, b"old")

    def interrupted():
        with files.replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_verify_names_the_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"12345")
    entry = files.entry_of(path, tmp_path)
    files.verify(path, entry)
    for content in (b"12346", b"123"):
        path.write_bytes(content)
        with pytest.raises(ContractError, match=r"a\.bin"):
            files.verify(path, entry)
    path.unlink()
    with pytest.raises(ContractError, match="missing"):
        files.verify(path, entry)


def test_lock_goes_with_its_process(tmp_path):
    lock = str(tmp_path / "lock")
    code = f"""
import time
from pathlib import Path
from simpipe import files
with files.locked(Path({lock!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    waited = []

    def waiting():
        waited.append(True)
        holder.kill()

    with files.locked(tmp_path / "lock", waiting):
        assert waited == [True]
    holder.wait()
