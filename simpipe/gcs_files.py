"""What `simpipe.files` does on `gs://`: files are finished locally and uploaded, each atomic by itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from simpipe import files, gcs, staging
from simpipe.errors import SimpipeError
from simpipe.gs_path import GsPath

_THREADS = 16
_ATTEMPTS = 20  # at an object that somebody who should not writes as well


@contextlib.contextmanager
def replacing(path: GsPath) -> Iterator[Path]:
    """Yields a local path of the same name; uploads it when the block ends without error. The copy is kept for readers."""
    cache = staging.cache_of(str(path))
    with cache.writing(path.name) as temporary:
        yield temporary
        cache.adopt(path.bucket, gcs.upload(path.bucket, path.key, temporary), temporary)


@contextlib.contextmanager
def replacing_folder(path: GsPath, *, last: str) -> Iterator[Path]:
    """Yields a local folder; uploads its files when the block ends without error, `last` after all others.

    Of two attempts one uploads at a time, and where `last` is there already the other's files stay. An attempt that stood
    still for so long that its lock was taken over overwrites nothing: it writes only over what it saw under the lock.

    Raises:
      SimpipeError: see `gcs_locks.locked`, or somebody else writes the same objects.
    """
    cache = staging.cache_of(str(path))
    with cache.writing(path.name) as temporary:
        temporary.mkdir()
        yield temporary
        with files.locked(path.with_name(f"{files.TMP_PREFIX}lock-{path.name}")):
            there = path.objects()
            if last in there:
                return
            names = [name for name in files.tree(temporary) if name != last]
            for name in set(there) - set(names):  # of an attempt that was stopped, and named its files otherwise
                (path / name).unlink(missing_ok=True)

            def send(name: str) -> None:
                target = path / name
                found = there.get(name)
                for _ in range(_ATTEMPTS):
                    try:
                        made = gcs.upload(path.bucket, target.key, temporary / name, generation=found.generation if found else 0)
                    except gcs.Changed:
                        if (path / last).is_file():
                            return  # the other attempt is complete
                        found = target.about()
                        continue
                    cache.adopt(path.bucket, made, temporary / name)
                    return
                raise SimpipeError(f"{target}: another process writes it as well", "run again")

            with ThreadPoolExecutor(_THREADS) as pool:
                list(pool.map(send, names))
            send(last)


def remove_folder(folder: GsPath) -> None:
    """Removes all objects below, several at the same time."""
    remove_files([folder / name for name in folder.objects()])


def remove_files(paths: Sequence[Path]) -> None:
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda path: path.unlink(missing_ok=True), paths))


def move_file(source: GsPath, target: GsPath) -> None:
    """Copies an object on the service, then removes it; see `copy_folder`."""
    _copy(source, target)
    source.unlink(missing_ok=True)


def copy_folder(source: GsPath, target: GsPath) -> None:
    """Copies all objects below on the service.

    Raises:
      SimpipeError: the two are not in one bucket.
    """

    def copy(name: str) -> None:
        _copy(source / name, target / name)

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(copy, source.objects()))


def _copy(source: GsPath, target: GsPath) -> None:
    if source.bucket != target.bucket:
        raise SimpipeError(f"{source}: is not in the bucket of {target}", "copy it within one bucket")
    gcs.copy(source.bucket, source.key, target.key)
