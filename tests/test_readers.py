"""Readers in processes of their own, while releases are published, rolled back and pruned under them."""

from __future__ import annotations

from pathlib import Path

from benchmarks.readers import watch


def test_readers_get_whole_answers_from_one_release_each_and_no_error(tmp_path: Path) -> None:
    found = watch(tmp_path, rounds=20, readers=2)
    assert found["errors"] == {}
    assert found["wrong"] == 0
    assert found["answers"] >= 2 * 20
    assert found["answered_by"] > 10
    assert found["removed"] > 10
    assert found["left"] == 2, "the live one and the one before"
