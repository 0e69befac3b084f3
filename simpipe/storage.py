"""The files of a data set's folder, local or on Google Cloud Storage, by one small interface: reads, and conditional writes.

Nothing else of simpipe talks to object storage. All of it is safe from several threads and after a fork, and a folder
can be pickled: it holds its address only.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from simpipe import files
from simpipe.errors import ContractError, SimpipeError

_GCS = "gs://"
_BLOCK = 8 << 20
_MISSING_CURE = "check the path, or run the step that writes it again"
_ACCESS_CURE = "run `gcloud auth application-default login`, or grant the account `storage.objects.get` and `.list` on the bucket"
_WRITE_CURE = (
    "run `gcloud auth application-default login`, or grant the account `storage.objects.create` and `.delete` on the bucket"
)
_NETWORK_CURE = "check the network and run again, or copy the data to a local folder"
_DEADLINE = 120.0  # seconds that a request is repeated for before it counts as failed
_CONNECTIONS = 64  # kept open for threads that read at the same time
_MOVES = 20  # how often a file may be replaced while it is read
_WRITE_TOKEN = "simpipe-write"  # metadata of an object: which call wrote it


@runtime_checkable
class Folder(Protocol):
    """A folder of immutable files. `name` is relative to it and may not leave it.

    Every method raises ContractError for a name outside the folder, and SimpipeError where storage cannot be reached.
    """

    @property
    def where(self) -> str:
        """The folder's path, for messages."""
        ...

    def full(self, name: str) -> str:
        """The path of a file, for messages and for readers that open it themselves."""
        ...

    def read(self, name: str) -> bytes:
        """The whole file; ContractError where it is missing."""
        ...

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` (exclusive), fewer where the file ends before; ContractError where it is missing."""
        ...

    def size(self, name: str) -> int | None:
        """Bytes of a file, None where there is none."""
        ...

    def sizes(self) -> dict[str, int]:
        """Bytes of each file directly in the folder, by name, in order of names, from one listing."""
        ...

    def names(self) -> list[str]:
        """The files directly in the folder, in order; none where the folder is missing."""
        ...

    def read_with_generation(self, name: str) -> tuple[bytes, int] | None:
        """The whole file, and a number above 0 that another content of it does not have; None where there is no file."""
        ...

    def write_if(self, name: str, data: bytes, generation: int) -> bool:
        """Writes a file only if it is still of this generation; 0: only if there is none. Nobody sees half of it.

        Returns:
          Whether it was written. Of several that name the same generation exactly one writes.
        """
        ...


def is_remote(where: object) -> bool:
    """Whether an address is one of object storage."""
    return isinstance(where, GcsFolder) or str(where).startswith(_GCS)


def open_folder(where: str | Path | Folder) -> Folder:
    """The folder at a local path or at `gs://bucket/prefix`. Nothing is read yet.

    Raises:
      SimpipeError: another kind of address, or `gs://` without the `gcp` extra.
    """
    if isinstance(where, Path):
        return LocalFolder(where)
    if not isinstance(where, str):
        return where
    if not where.startswith(_GCS):
        return LocalFolder(files.local(where))
    bucket, _, prefix = where.removeprefix(_GCS).partition("/")
    if not bucket:
        raise SimpipeError(f"{where}: names no bucket", "write gs://BUCKET/FOLDER")
    try:
        import google.cloud.storage  # noqa: F401
    except ImportError as error:
        raise SimpipeError(f"{where}: google-cloud-storage is not installed ({error})", "pip install 'simpipe[gcp]'") from None
    return GcsFolder(bucket, prefix.strip("/"))


def subfolder(folder: Folder, name: str) -> Folder:
    """A folder within a folder."""
    return open_folder(Path(folder.full(name)) if isinstance(folder, LocalFolder) else folder.full(name))


def read_json(folder: Folder, name: str) -> Any:
    """A JSON file of the folder; ContractError where it is missing or malformed."""
    data = folder.read(name)
    try:
        return json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        cure = "restore it or run the step that writes it again"
        raise ContractError(f"{folder.full(name)}: not valid JSON ({error})", cure) from None


def sha256(folder: Folder, name: str, size: int) -> str:
    """SHA-256 of a file of `size` bytes, in hex, read in blocks."""
    hasher = hashlib.sha256()
    for start in range(0, size, _BLOCK):
        hasher.update(folder.read_range(name, start, min(start + _BLOCK, size)))
    return hasher.hexdigest()


@dataclass(frozen=True)
class LocalFolder:
    """A folder of the file system."""

    path: Path

    @property
    def where(self) -> str:
        return str(self.path)

    def full(self, name: str) -> str:
        return str(files.inside(self.path, name))

    def read(self, name: str) -> bytes:
        with self._opened(name) as handle:
            return handle.read()

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        with self._opened(name) as handle:
            handle.seek(start)
            return handle.read(max(stop - start, 0))

    def size(self, name: str) -> int | None:
        path = files.inside(self.path, name)
        return path.stat().st_size if path.is_file() else None

    def sizes(self) -> dict[str, int]:
        if not self.path.is_dir():
            return {}
        with os.scandir(self.path) as entries:
            found = {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
        return dict(sorted(found.items()))

    def names(self) -> list[str]:
        return list(self.sizes())

    def read_with_generation(self, name: str) -> tuple[bytes, int] | None:
        try:
            data = files.inside(self.path, name).read_bytes()
        except FileNotFoundError:
            return None
        return data, _content_number(data)

    def write_if(self, name: str, data: bytes, generation: int) -> bool:
        path = files.inside(self.path, name)
        with files.locked(path.with_name(f".{path.stem}.lock")):
            found = self.read_with_generation(name)
            if (found[1] if found else 0) != generation:
                return False
            files.write_bytes(path, data)
            return True

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[Any]:
        path = files.inside(self.path, name)
        try:
            handle = open(path, "rb", buffering=0)  # noqa: SIM115 (the caller's block closes it)
        except FileNotFoundError:
            raise ContractError(f"{path}: file is missing", "run the step that writes it again") from None
        with handle:
            yield handle


@dataclass(frozen=True)
class GcsFolder:
    """Objects of a bucket under a prefix. Requests are repeated by the client library for up to two minutes."""

    bucket: str
    prefix: str

    @property
    def where(self) -> str:
        return f"{_GCS}{self.bucket}/{self.prefix}".rstrip("/")

    def full(self, name: str) -> str:
        files.check_inside(self.where, name)
        return f"{self.where}/{name}"

    def read(self, name: str) -> bytes:
        return self._download(name)

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        from google.api_core.exceptions import RequestRangeNotSatisfiable

        if start >= stop:
            return b""
        try:
            return self._download(name, start=start, end=stop - 1)
        except RequestRangeNotSatisfiable:
            return b""  # begins behind the end

    def size(self, name: str) -> int | None:
        path = self.full(name)
        with _plain_errors(path):
            blob = self._bucket().get_blob(self._key(name), retry=_retry())
        return None if blob is None else int(blob.size or 0)

    def sizes(self) -> dict[str, int]:
        begin = f"{self.prefix}/" if self.prefix else ""
        with _plain_errors(self.where):
            blobs = self._bucket().client.list_blobs(
                self.bucket, prefix=begin, delimiter="/", fields="items(name,size),nextPageToken", retry=_retry()
            )
            # An object named like the folder itself is the placeholder that consoles make.
            return {blob.name.removeprefix(begin): int(blob.size or 0) for blob in blobs if blob.name != begin}

    def names(self) -> list[str]:
        return list(self.sizes())

    def read_with_generation(self, name: str) -> tuple[bytes, int] | None:
        from google.api_core.exceptions import NotFound, PreconditionFailed

        path = self.full(name)
        for _ in range(_MOVES):
            with _plain_errors(path), contextlib.suppress(NotFound, PreconditionFailed):  # replaced since: look again
                blob = self._bucket().get_blob(self._key(name), retry=_retry())
                if blob is None:
                    return None
                number = int(blob.generation)
                data = blob.download_as_bytes(raw_download=True, if_generation_match=number, retry=_retry())
                return data, number
        raise SimpipeError(f"{path}: is replaced faster than it can be read", "stop what writes it again and again")

    def write_if(self, name: str, data: bytes, generation: int) -> bool:
        from google.api_core.exceptions import PreconditionFailed

        path, token = self.full(name), secrets.token_hex(8)
        with _plain_errors(path, "written", _WRITE_CURE):
            blob = self._bucket().blob(self._key(name))
            blob.metadata = {_WRITE_TOKEN: token}
            try:
                blob.upload_from_string(
                    data, content_type="application/octet-stream", if_generation_match=generation, retry=_retry()
                )
            except PreconditionFailed:
                # The answer to a write that took effect may have been lost, and the repeated write then met its own.
                there = self._bucket().get_blob(self._key(name), retry=_retry())
                return there is not None and (there.metadata or {}).get(_WRITE_TOKEN) == token
            return True

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def _bucket(self) -> Any:
        return _client(os.getpid(), os.environ.get("STORAGE_EMULATOR_HOST")).bucket(self.bucket)

    def _download(self, name: str, **span: int) -> bytes:
        path = self.full(name)
        with _plain_errors(path):
            # Raw: a gzip shard must arrive as it is stored, whatever its Content-Encoding says.
            return self._bucket().blob(self._key(name)).download_as_bytes(raw_download=True, retry=_retry(), **span)


def _content_number(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") or 1


def _retry() -> Any:
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_timeout(_DEADLINE)


@functools.lru_cache(maxsize=4)
def _client(process: int, emulator: str | None) -> Any:
    """One client a process (connections do not survive a fork), shared by its threads."""
    from google.auth.exceptions import DefaultCredentialsError
    from google.cloud import storage
    from requests.adapters import HTTPAdapter

    try:
        client = storage.Client(project="none")  # reading needs no project; anonymous where STORAGE_EMULATOR_HOST is set
    except DefaultCredentialsError as error:
        reason = str(error).splitlines()[0]
        raise SimpipeError(f"Google Cloud Storage: no credentials ({reason})", _ACCESS_CURE) from None
    for scheme in ("https://", "http://"):
        client._http.mount(scheme, HTTPAdapter(pool_connections=_CONNECTIONS, pool_maxsize=_CONNECTIONS))
    return client


@contextlib.contextmanager
def _plain_errors(path: str, done: str = "read", access_cure: str = _ACCESS_CURE) -> Iterator[None]:
    """Turns the client library's errors into ours, each naming the `gs://` path."""
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError
    from requests import RequestException

    try:
        yield
    except exceptions.NotFound:
        raise ContractError(f"{path}: no such object or bucket", _MISSING_CURE) from None
    except (exceptions.Unauthorized, exceptions.Forbidden) as error:
        raise SimpipeError(f"{path}: access refused ({error.message})", access_cure) from None
    except exceptions.RequestRangeNotSatisfiable:
        raise
    except (exceptions.GoogleAPIError, GoogleAuthError, RequestException, OSError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SimpipeError(f"{path}: cannot be {done} ({text})", _NETWORK_CURE) from None
