"""Pictures for a server: those of items, of queries through the encoder, and maps, by a process that may die."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import clustered
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from picture_root import SECOND, PictureRoot, make_picture_root, png
from PIL import Image
from release_maker import RELEASE, make_release

import simpipe
from simpipe.data.examples import InputSpec
from simpipe.errors import IncompatibleError, QueryError, ReleaseError
from simpipe.index.router import Router
from simpipe.picture_encoder import read_picture, write_picture
from simpipe.release_map import release_map
from simpipe.serve.errors import DeadlineError, NotFoundError, NotReadyError
from simpipe.serve.pictures import ProcessPictures
from simpipe.serve.pictures_work import PIXELS, PictureWork

FAR = 60.0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> PictureRoot:
    return make_picture_root(tmp_path_factory.mktemp("pictures") / "root")


@pytest.fixture(scope="module")
def work(made: PictureRoot) -> PictureWork:
    return PictureWork(made.root)


def labels_of(made: PictureRoot, release: str) -> dict[str, str | None]:
    names = list(made.pictures[release])
    with simpipe.open_release(made.root, release) as searcher:
        return dict(zip(names, searcher.items_of(names).column("label").to_pylist(), strict=True))


@given(
    shape=st.sampled_from([(3, 4, 1), (5, 2, 3)]),
    inverted=st.booleans(),
    data=st.data(),
)
@settings(max_examples=30, deadline=None)
def test_a_picture_that_is_written_is_read_as_the_same_input(shape, inverted: bool, data: st.DataObject) -> None:
    spec = InputSpec(name="image", shape=shape, dtype="uint8", encoding="raw", inverted=inverted)
    picture = data.draw(arrays.arrays(np.uint8, shape))
    written = write_picture(picture, spec)
    np.testing.assert_array_equal(read_picture(written, spec, name="x", formats=("PNG",)), picture)


def test_items_look_as_they_were_indexed_in_each_release(made: PictureRoot, work: PictureWork) -> None:
    for release, wanted in made.pictures.items():
        found = work.pictures(release, {**labels_of(made, release), "nobody": "1", "stranger": None})
        assert found.keys() == wanted.keys(), "those of unchanged items lie in the examples of the release before"
        for name, picture in wanted.items():
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(found[name]))), picture)


def test_a_picture_of_an_item_is_embedded_as_the_item(made: PictureRoot, work: PictureWork) -> None:
    files = work.pictures(SECOND, labels_of(made, SECOND))
    vectors = work.embed(SECOND, list(files.values()), names=list(files), until=time.monotonic() + FAR)
    with simpipe.open_release(made.root) as searcher:
        np.testing.assert_allclose(vectors, searcher.vectors_of(list(files)), atol=1e-6)


def test_what_is_no_picture_is_refused(made: PictureRoot, work: PictureWork) -> None:
    bomb = bytearray(png(np.zeros((4, 4), np.uint8)))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2  # its head says 3.6e9 pixels
    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    wide = io.BytesIO()
    Image.new("L", (PIXELS + 1, 1)).save(wide, "PNG")
    gif = io.BytesIO()
    Image.new("L", (6, 5)).save(gif, "GIF")
    good = png(np.zeros((6, 5), np.uint8))
    for data in (b"", b"no picture", good[:40], good[:-20], bytes(bomb), wide.getvalue(), gif.getvalue()):
        with pytest.raises(QueryError, match="second: "):
            work.embed(SECOND, [good, data], names=["first", "second"], until=time.monotonic() + FAR)
    with pytest.raises(DeadlineError):
        work.embed(SECOND, [good], names=["x"], until=time.monotonic() - 1)
    with pytest.raises(ReleaseError):
        work.embed("20200101T000000Z-aaaaaa", [good], names=["x"], until=time.monotonic() + FAR)


def test_a_map_shows_the_items_with_the_lowest_hashes(tmp_path: Path) -> None:
    from simpipe.ids import hash_ids

    vectors, _ = clustered(300, dim=8, clusters=5)
    make_release(tmp_path, vectors, Router(3))
    with simpipe.open_release(tmp_path) as searcher:
        found = release_map(searcher, items=120)
        names = np.array([f"i{row}" for row in range(300)], object)
        assert found["ids"] == names[np.argsort(hash_ids(names.tolist()))[:120]].tolist()
        assert found["labels"] == searcher.items_of(found["ids"]).column("label").to_pylist()
        assert (found["release"], found["items"], found["method"]) == (RELEASE, 300, "t-SNE")
        points = np.array([found["x"], found["y"]]).T
        assert points.min() >= 0
        assert points.max() <= 1
        assert (points.max(axis=0) - points.min(axis=0)).max() == pytest.approx(1, abs=1e-4)
        own = searcher.vectors_of(found["ids"])
        near = np.argsort(np.linalg.norm(own[:, None] - own, axis=2), axis=1)[:, 1:6]
        placed = np.argsort(np.linalg.norm(points[:, None] - points, axis=2), axis=1)[:, 1:6]
        kept = np.mean([len(set(one) & set(other)) / 5 for one, other in zip(near, placed, strict=True)])
        assert kept > 0.3, "neighbors stay neighbors; by chance 0.04 of them would"
        assert release_map(searcher, items=120) == found
        json.dumps(found)


def test_a_process_answers_dies_and_is_started_again(made: PictureRoot) -> None:
    async def ask() -> None:
        pictures = ProcessPictures(str(made.root), warm=False)
        await pictures.start()
        labels = labels_of(made, SECOND)
        about = {"release": SECOND}
        try:
            files = await asyncio.gather(*(pictures.picture(about, *item, timeout=FAR) for item in labels.items()))
            vectors = await pictures.embed(about, files, timeout=FAR)
            with simpipe.open_release(made.root) as searcher:
                np.testing.assert_allclose(vectors, searcher.vectors_of(list(labels)), atol=1e-6)
            with pytest.raises(NotFoundError, match="item 'nobody' has no picture"):
                await pictures.picture(about, "nobody", "1", timeout=FAR)
            with pytest.raises(QueryError, match="image 1: cannot be read as an image"):
                await pictures.embed(about, [files[0], b"nonsense"], timeout=FAR)
            drawn = await asyncio.gather(pictures.map(about, timeout=FAR), pictures.map(about, timeout=FAR))
            assert sorted(drawn[0]["ids"]) == sorted(labels)
            assert drawn[0] is drawn[1], "made once"
            await die(pictures, about, files)
            assert await pictures.picture(about, next(iter(labels)), None, timeout=FAR) == files[0], "kept on this side"
        finally:
            await pictures.close()
        with pytest.raises(NotReadyError):
            await pictures.embed(about, files, timeout=FAR)

    asyncio.run(ask())


async def die(pictures: ProcessPictures, about: dict[str, str], files: list[bytes]) -> None:
    """Whoever waits while the process dies hears of it; the next one gets a new process."""
    child = pictures._child
    assert child is not None
    os.kill(child.pid, signal.SIGSTOP)
    with pytest.raises(DeadlineError):
        await pictures.embed(about, files, timeout=0.05)
    waiting = [asyncio.create_task(pictures.embed(about, files, timeout=FAR)) for _ in range(3)]
    await asyncio.sleep(0)
    os.kill(child.pid, signal.SIGKILL)
    for task in waiting:
        with pytest.raises(NotReadyError, match="ended before it answered"):
            await task
    assert pictures.deaths == 1
    files = await asyncio.gather(pictures.map({"release": "../live"}, timeout=FAR), return_exceptions=True)  # type: ignore[assignment]
    assert isinstance(files[0], ReleaseError)
    assert pictures._child is not None
    assert pictures._child.pid != child.pid


def test_a_release_without_encoder_has_a_map_and_nothing_else(tmp_path: Path) -> None:
    make_release(tmp_path, clustered(40, dim=4)[0], Router(2))
    work = PictureWork(tmp_path)
    drawn = work.map(RELEASE)
    assert (len(drawn["ids"]), drawn["method"]) == (40, "PCA")
    assert work.pictures(RELEASE, {"i1": "l1"}) == {}
    for ask in (work.warm, lambda: work.embed(RELEASE, [b""], names=["x"], until=time.monotonic() + FAR)):
        with pytest.raises(IncompatibleError, match="holds ready-made vectors"):
            ask()
