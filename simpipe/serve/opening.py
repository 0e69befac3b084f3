"""Opens a release such that its first answer is as quick as any other: verified, loaded, asked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from simpipe import files
from simpipe.errors import ReleaseError
from simpipe.index.searcher import Searcher, open_release
from simpipe.manifest import MANIFEST_JSON
from simpipe.serve.answers import answer
from simpipe.serve.facts import facts_of
from simpipe.serve.jobs import Job

_ASKED = 32  # stored vectors that warm


@dataclass(frozen=True)
class Opening:
    """What is opened.

    Attributes:
      root: local or `gs://`. release: id.
      manifest_sha256: of the manifest as it was published; None: not known.
      target_recall: how most requests ask.
    """

    root: str
    release: str
    manifest_sha256: str | None = None
    target_recall: float | None = None


def open_whole(opening: Opening) -> tuple[Searcher, dict[str, Any]]:
    """The searcher of a release that was verified file by file, with its partitions loaded as far as the cache holds them.

    Returns:
      The searcher, and what a server says of the release.

    Raises:
      ReleaseError: it is not there, unfinished, altered, or not as it was published.
    """
    root = files.located(opening.root)
    searcher = open_release(root, opening.release)
    manifest = searcher.folder / MANIFEST_JSON
    if opening.manifest_sha256 not in (None, files.sha256_file(manifest)):
        message = f"{manifest}: altered after it was published (SHA-256 differs from the pointer's)"
        raise ReleaseError(message, "restore it, or publish another release")
    searcher.verify()
    searcher.load()
    about = facts_of(searcher, root)
    _warm(searcher, opening.target_recall)
    return searcher, about


def _warm(searcher: Searcher, target_recall: float | None) -> None:
    """Asks stored vectors of loaded partitions in every way that is likely: pages are read, code is imported."""
    parts = [number for number, rows in enumerate(searcher.partition_rows) if rows and searcher.is_loaded(number)]
    if not parts:
        return
    a_part = max(1, _ASKED // len(parts))
    vectors = [np.asarray(searcher.partition(number).vectors[:a_part], np.float32) for number in parts[:_ASKED]]
    block = np.concatenate(vectors)
    targets = {None, target_recall, *(searcher.profile.targets if searcher.profile is not None else ())}
    ways: list[dict[str, Any]] = [{} if target is None else {"target_recall": target} for target in targets]
    jobs = [Job("lookup", block, k=10, options=way) for way in ways] + [
        Job("lookup", block[:1], k=10, options=way) for way in ways
    ]
    jobs += [Job("match", block, options={"cutpoint": "optimal"}), Job("sample", k=8)]
    answer(searcher, jobs)  # what cannot be answered is no matter here
