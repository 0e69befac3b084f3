"""What the process for pictures does: embeds pictures, fetches those of items, makes maps. No pipe here."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simpipe import files, releases
from simpipe.data.examples import DatasetInfo
from simpipe.gs_path import GsPath
from simpipe.index.searcher import Searcher
from simpipe.item_pictures import example_sets, fetch_pictures
from simpipe.leases import take_lease
from simpipe.manifest import Manifest
from simpipe.picture_encoder import PictureEncoder, find_encoder, load_encoder, read_picture, write_picture
from simpipe.pointer import read_pointer
from simpipe.serve.errors import DeadlineError

PIXELS = 1 << 25  # of a picture that a request brings; most cameras' have half as many
FORMATS = ("PNG", "JPEG")
_RELEASES, _MODELS = 8, 2  # kept in memory


class PictureWork:
    """Pictures of the releases under a root. One thread asks for pictures and embeddings, another may ask for maps.

    Args:
      root: of releases, embeddings, examples and encoders.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._encoder = functools.lru_cache(_MODELS)(self._open_encoder)
        self._model = functools.lru_cache(_MODELS)(_load_model)
        self._sets = functools.lru_cache(_RELEASES)(self._find_sets)

    def warm(self) -> None:
        """Loads the live release's encoder, where it has one that reads pictures.

        Raises:
          SimpipeError: it has none, or it cannot be loaded.
        """
        pointer = read_pointer(self._root)
        if pointer is not None:
            self._encoder(pointer.release)

    def embed(self, release: str, images: Sequence[bytes], *, names: Sequence[str], until: float) -> np.ndarray:
        """Embeddings float32[n, dim] of PNG or JPEG files.

        Args:
          release: id. names: what messages call the files. until: when it is too late, by `time.monotonic`.

        Raises:
          DeadlineError, QueryError, IncompatibleError: see `Pictures.embed`.
        """
        encoder = self._encoder(release)
        inputs = []
        for data, name in zip(images, names, strict=True):
            if time.monotonic() > until:
                raise DeadlineError("the pictures were not read in time", "send fewer or smaller pictures, or allow more time")
            inputs.append(read_picture(data, encoder.info.input, name=name, pixels=PIXELS, formats=FORMATS))
        return encoder.embed(np.stack(inputs))

    def pictures(self, release: str, items: Mapping[str, str | None]) -> dict[str, bytes]:
        """PNG files of items by id, each as it was before it was indexed; those that have none are left out.

        Args:
          release: id. items: label by id.
        """
        found = fetch_pictures(self._sets(release), items)
        return {name: write_picture(picture, spec) for name, (picture, spec) in found.items()}

    def map(self, release: str) -> dict[str, Any]:
        """See `simpipe.release_map.release_map`."""
        from simpipe.release_map import release_map

        with self._opened(release) as searcher:
            return release_map(searcher)

    def _find_sets(self, release: str) -> list[tuple[Path, DatasetInfo]]:
        return example_sets(self._root, releases.find(self._root, release)[1])

    def _open_encoder(self, release: str) -> PictureEncoder:
        with self._opened(release) as searcher:
            folder, _ = find_encoder(self._root, searcher)
            return load_encoder(folder, searcher, self._model)

    @contextlib.contextmanager
    def _opened(self, release: str) -> Iterator[Searcher]:
        """A release with a lease, for as long as it is read."""
        folder, _ = releases.find(self._root, release)
        lease = take_lease(folder)
        # Who serves the release has verified every file of it; what lies in a bucket is checked when it is copied.
        fetch = releases.verify_file if isinstance(folder, GsPath) else releases.resolve
        with Searcher(folder, Manifest.load(folder), fetch=fetch, lease=lease) as searcher:
            yield searcher


def _load_model(folder: Path) -> Any:
    from simpipe.training.encoder import load_model

    return load_model(folder)


def open_root(root: str) -> PictureWork:
    """The work for a root, local or `gs://`."""
    return PictureWork(files.located(root))
