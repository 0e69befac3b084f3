"""Requests to Google Cloud Storage: the one place that talks to it, repeats what failed in passing, and says what did not.

429, 408, 5xx, broken connections and bodies that end early are repeated with growing random waits for up to two minutes.
All of it is safe from several threads and after a fork.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from simpipe.errors import ContractError, SimpipeError

SCHEME = "gs://"
ACCESS_CURE = "run `gcloud auth application-default login`, or grant the account `storage.objects.get` and `.list` on the bucket"
WRITE_CURE = (
    "run `gcloud auth application-default login`, or grant the account `storage.objects.create` and `.delete` on the bucket"
)
_MISSING_CURE = "check the path, or run the step that writes it again"
_NETWORK_CURE = "check the network and run again, or copy the data to a local folder"
DEADLINE = 120.0  # seconds that a request is repeated for before it counts as failed
_CONNECTIONS = 64  # kept open for threads that read at the same time
_CHUNK = 32 << 20  # of a big upload: repeated alone, held in memory once
_DAMAGED = 3  # downloads whose checksum differs before it counts as damaged
_WRITE_TOKEN = "simpipe-write"  # metadata of an object: which call wrote it
_FIELDS = "name,size,generation,crc32c,updated"


class Changed(Exception):
    """The object is not, or no longer, of the generation that was asked for."""


@dataclass(frozen=True)
class Object:
    """What is known of an object.

    Attributes:
      key: its name in the bucket. size: bytes. crc32c: base64, as the service gives it.
      updated: nanoseconds since 1970.
    """

    key: str
    size: int
    generation: int
    crc32c: str
    updated: int


class Listing(NamedTuple):
    """Objects under a prefix, and with a delimiter the prefixes below it."""

    objects: list[Object]
    prefixes: list[str]


def address(bucket: str, key: str) -> str:
    return f"{SCHEME}{bucket}/{key}".rstrip("/")


def about(bucket: str, key: str) -> Object | None:
    """An object's size, generation and checksum; None where there is none."""
    with plain_errors(address(bucket, key)):
        blob = _bucket(bucket).get_blob(key, retry=_retry())
    return None if blob is None else _object(blob)


def listing(bucket: str, prefix: str, *, delimiter: str | None = None, first: int | None = None) -> Listing:
    """Objects whose keys begin with `prefix`, in order of keys.

    Args:
      delimiter: `/` for those directly below, and the prefixes of the others. first: no more than so many objects.
    """
    with plain_errors(address(bucket, prefix)):
        fields = f"items({_FIELDS}),prefixes,nextPageToken"
        found = _bucket(bucket).client.list_blobs(
            bucket, prefix=prefix, delimiter=delimiter, max_results=first, fields=fields, retry=_retry()
        )
        objects = [_object(blob) for blob in found]
        return Listing(objects, sorted(found.prefixes))


def read(bucket: str, key: str, *, start: int = 0, stop: int | None = None, generation: int | None = None) -> bytes:
    """Bytes `start` to `stop` (exclusive), fewer where the object ends before.

    Raises:
      ContractError: there is no such object. Changed: it is of another generation.
    """
    from google.api_core.exceptions import PreconditionFailed, RequestRangeNotSatisfiable

    if stop is not None and start >= stop:
        return b""
    span: dict[str, Any] = {} if stop is None and not start else {"start": start, "end": None if stop is None else stop - 1}
    if generation is not None:
        span["if_generation_match"] = generation
    with plain_errors(address(bucket, key)):
        try:
            # Raw: a gzip shard must arrive as it is stored, whatever its Content-Encoding says.
            return _whole(lambda: _bucket(bucket).blob(key).download_as_bytes(raw_download=True, retry=_retry(), **span))
        except RequestRangeNotSatisfiable:
            return b""  # begins behind the end
        except PreconditionFailed:
            raise Changed(key) from None


def download(bucket: str, wanted: Object, target: Path) -> None:
    """Writes an object of one generation to a local file, checked by size and CRC32C.

    Raises:
      ContractError: there is no such object. Changed: it is of another generation.
      SimpipeError: what arrives is damaged again and again.
    """
    from google.api_core.exceptions import PreconditionFailed

    where = address(bucket, wanted.key)
    with plain_errors(where):
        for _ in range(_DAMAGED):
            blob = _bucket(bucket).blob(wanted.key)
            try:
                with contextlib.suppress(_damage()), open(target, "wb") as handle:
                    blob.download_to_file(handle, raw_download=True, if_generation_match=wanted.generation, retry=_retry())
            except PreconditionFailed:
                raise Changed(wanted.key) from None
            if target.stat().st_size == wanted.size and wanted.crc32c in ("", crc32c(target)):
                return
    raise SimpipeError(f"{where}: arrives damaged", _NETWORK_CURE)


def upload(bucket: str, key: str, source: Path | bytes, *, generation: int | None = None) -> Object:
    """Writes an object; nobody sees half of it. A file is streamed, a big one in chunks that are repeated alone.

    Args:
      generation: write only if the object is still of it; 0: only if there is none.

    Raises:
      Changed: it is of another generation.
    """
    from google.api_core.exceptions import PreconditionFailed

    token = secrets.token_hex(8)
    with plain_errors(address(bucket, key), "written", WRITE_CURE):
        blob = _bucket(bucket).blob(key, chunk_size=_CHUNK)
        blob.metadata = {_WRITE_TOKEN: token}
        told: dict[str, Any] = {"content_type": "application/octet-stream", "checksum": "crc32c", "retry": _retry()}
        if generation is not None:
            told["if_generation_match"] = generation
        try:
            if isinstance(source, bytes):
                blob.upload_from_string(source, **told)
            else:
                blob.upload_from_filename(str(source), **told)
        except PreconditionFailed:
            # The answer to a write that took effect may have been lost, and the repeated write then met its own.
            there = _bucket(bucket).get_blob(key, retry=_retry())
            if there is None or (there.metadata or {}).get(_WRITE_TOKEN) != token:
                raise Changed(key) from None
            blob = there
        return _object(blob)


def copy(bucket: str, key: str, target: str) -> None:
    """Copies an object within its bucket, on the service.

    Raises:
      ContractError: there is no such object.
    """
    with plain_errors(address(bucket, key), "copied", WRITE_CURE):
        source, token = _bucket(bucket).blob(key), None
        blob = _bucket(bucket).blob(target)
        while True:  # a big object takes several calls
            token, _, _ = blob.rewrite(source, token=token, retry=_retry())
            if token is None:
                return


def delete(bucket: str, key: str, *, generation: int | None = None) -> bool:
    """Removes an object; False where there was none, as a repeated request finds as well.

    Raises:
      Changed: it is of another generation.
    """
    from google.api_core.exceptions import NotFound, PreconditionFailed

    with plain_errors(address(bucket, key), "removed", WRITE_CURE):
        told = {} if generation is None else {"if_generation_match": generation}
        try:
            _bucket(bucket).blob(key).delete(retry=_retry(), **told)
        except NotFound:
            return False
        except PreconditionFailed:
            raise Changed(key) from None
    return True


def crc32c(path: Path) -> str:
    """CRC32C of a local file, in base64 as the service gives it."""
    import google_crc32c

    checksum = google_crc32c.Checksum()
    with open(path, "rb") as handle:
        while block := handle.read(4 << 20):
            checksum.update(block)
    return base64.b64encode(checksum.digest()).decode()


def _object(blob: Any) -> Object:
    updated = blob.updated
    seconds = 0 if updated is None else int(updated.timestamp() * 1_000_000) * 1000
    return Object(blob.name, int(blob.size or 0), int(blob.generation), blob.crc32c or "", seconds)


def _damage() -> type[Exception]:
    from google.cloud.storage.exceptions import DataCorruption

    return DataCorruption


def _whole(get: Any) -> bytes:
    """Bytes whose checksum agrees; damaged ones are asked for again."""
    for _ in range(_DAMAGED - 1):
        with contextlib.suppress(_damage()):
            return get()
    return get()


def _bucket(name: str) -> Any:
    return _client(os.getpid(), os.environ.get("STORAGE_EMULATOR_HOST")).bucket(name)


def _retry() -> Any:
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_delay(initial=0.25, maximum=30.0, multiplier=2.0).with_timeout(DEADLINE)


@functools.lru_cache(maxsize=4)
def _client(process: int, emulator: str | None) -> Any:
    """One client a process (connections do not survive a fork), shared by its threads."""
    try:
        from google.cloud import storage
    except ImportError as error:
        raise SimpipeError(
            f"Google Cloud Storage: google-cloud-storage is not installed ({error})", "pip install 'simpipe[gcp]'"
        ) from None
    from google.auth.exceptions import DefaultCredentialsError
    from requests.adapters import HTTPAdapter

    try:
        client = storage.Client(project="none")  # objects need no project; anonymous where STORAGE_EMULATOR_HOST is set
    except DefaultCredentialsError as error:
        reason = str(error).splitlines()[0]
        raise SimpipeError(f"Google Cloud Storage: no credentials ({reason})", ACCESS_CURE) from None
    for scheme in ("https://", "http://"):
        client._http.mount(scheme, HTTPAdapter(pool_connections=_CONNECTIONS, pool_maxsize=_CONNECTIONS))
    return client


@contextlib.contextmanager
def plain_errors(path: str, done: str = "read", access_cure: str = ACCESS_CURE) -> Iterator[None]:
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
    except (exceptions.GoogleAPIError, GoogleAuthError, RequestException, OSError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SimpipeError(f"{path}: cannot be {done} ({text})", _NETWORK_CURE) from None
