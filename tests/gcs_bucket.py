"""A bucket of the fake service for a test, with caches of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fake_gcs import FakeGcs, serving


@contextmanager
def bucket_at(folder: Path, *, seed: int = 0) -> Iterator[tuple[FakeGcs, pytest.MonkeyPatch]]:
    """Serves `folder/gcs/bucket`; the cache is `folder/cache/simpipe`."""
    (folder / "gcs" / "bucket").mkdir(parents=True, exist_ok=True)
    with serving(folder / "gcs", seed=seed) as fake, pytest.MonkeyPatch.context() as patch:
        fake.page = 1000
        patch.setenv("STORAGE_EMULATOR_HOST", fake.url)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield fake, patch
