"""A small Google Cloud Storage on loopback, for tests: objects of a local folder over the JSON API, with faults on demand.

Metadata, contents with `Range`, listing with prefix, delimiter and pages; uploads of one request and in chunks, copies,
removal; generations and `ifGenerationMatch`.
"""

from __future__ import annotations

import base64
import json
import random
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c

_STATUS = (429, 500, 503)


class FakeGcs:
    """Serves `root/BUCKET/KEY` as objects.

    Attributes:
      url: for STORAGE_EMULATOR_HOST.
      requests: how many were answered, failed ones too. ranges: each `Range` header that was asked for.
      kinds: requests by method.
      page: objects a page of a listing; small, so that pages are followed.
      fail_every: every n-th request gets 503. refuse: all get 403. cut_every: every n-th body ends half way.
      lose_every: every n-th upload that changes something takes effect, and then gets 503. uploads: how many took effect.
      fail_share, cut_share: shares of requests that get 429, 500 or 503, and of bodies that end half way; drawn at random.
      failed, cut: how many were.
      written, sent: keys that were written, and whose contents were asked for, in order.
    """

    def __init__(self, root: Path, *, seed: int = 0) -> None:
        self.root = root
        self.requests = 0
        self.kinds: Counter[str] = Counter()
        self.ranges: list[str] = []
        self.page = 3
        self.fail_every = self.cut_every = self.lose_every = self.uploads = 0
        self.fail_share = self.cut_share = 0.0
        self.failed = self.cut = 0
        self.written: list[str] = []
        self.sent: list[str] = []
        self.refuse = False
        self.url = ""
        self.sessions: dict[str, tuple[Path, dict[str, object], str | None, bytearray]] = {}
        self._objects: dict[Path, tuple[int, dict[str, str], datetime]] = {}
        self._sums: dict[Path, tuple[tuple[int, int], str]] = {}
        self._random = random.Random(seed)
        self._lock = threading.RLock()

    def count(self, asked: str | None, kind: str) -> int:
        with self._lock:
            self.requests += 1
            self.kinds[kind] += 1
            if asked:
                self.ranges.append(asked)
            return self.requests

    def fault(self, number: int) -> int | None:
        """The status that this request fails with, if it does."""
        with self._lock:
            if self.fail_every and number % self.fail_every == 0:
                self.failed += 1
                return 503
            if self.fail_share and self._random.random() < self.fail_share:
                self.failed += 1
                return self._random.choice(_STATUS)
            return None

    def cuts(self, number: int) -> bool:
        """Whether this body ends half way."""
        with self._lock:
            every = bool(self.cut_every) and number % self.cut_every == 0
            found = every or (bool(self.cut_share) and self._random.random() < self.cut_share)
            self.cut += found
            return found

    def about(self, path: Path, key: str) -> dict[str, object]:
        """An object's resource; one that a test laid there itself is of generation 1."""
        with self._lock:
            now = path.stat()
            generation, metadata, updated = self._objects.get(path, (1, {}, datetime.fromtimestamp(now.st_mtime, UTC)))
            mark = (now.st_size, now.st_mtime_ns)
            if self._sums.get(path, (None,))[0] != mark:
                self._sums[path] = (mark, checksum(path.read_bytes()))
            about: dict[str, object] = {"kind": "storage#object", "name": key, "size": str(now.st_size)}
            about |= {"crc32c": self._sums[path][1], "updated": updated.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
            return {**about, "generation": str(generation), "metadata": metadata}

    def _generation(self, path: Path) -> int:
        return self._objects.get(path, (1, {}, None))[0] if path.is_file() else 0

    def read(self, path: Path, generation: str | None) -> bytes | None:
        """An object's content; None where it is of another generation."""
        with self._lock:
            matches = generation is None or self._generation(path) == int(generation)
            return path.read_bytes() if matches else None

    def write(self, path: Path, data: bytes, metadata: dict[str, str], generation: str | None) -> bool | None:
        """Writes an object; None where it is of another generation; False where the answer is to be lost."""
        with self._lock:
            if generation is not None and self._generation(path) != int(generation):
                return None
            path.parent.mkdir(parents=True, exist_ok=True)
            again = path.is_file() and path.read_bytes() == data
            path.write_bytes(data)
            self.uploads += 1
            self.written.append(path.relative_to(self.root).as_posix())
            self._objects[path] = (1000 + self.uploads, metadata, datetime.now(UTC))
            return again or not self.lose_every or self.uploads % self.lose_every != 0

    def remove(self, path: Path, generation: str | None) -> bool | None:
        """Removes an object; None where it is of another generation, False where there is none."""
        with self._lock:
            if not path.is_file():
                return False
            if generation is not None and self._generation(path) != int(generation):
                return None
            path.unlink()
            self._objects.pop(path, None)
            for parent in path.parents:  # a prefix is no folder: what is empty is not there
                if parent.parent == self.root or any(parent.iterdir()):
                    break
                parent.rmdir()
            return True

    def keys(self, bucket: Path, prefix: str) -> list[str]:
        start = bucket / prefix.rpartition("/")[0]
        with self._lock:
            found = [path for path in start.rglob("*") if path.is_file()] if start.is_dir() else []
            keys = sorted(path.relative_to(bucket).as_posix() for path in found)
        return [key for key in keys if key.startswith(prefix)]


def checksum(data: bytes) -> str:
    return base64.b64encode(google_crc32c.Checksum(data).digest()).decode()


@contextmanager
def serving(root: Path, *, seed: int = 0) -> Iterator[FakeGcs]:
    """Runs a server on a free port of loopback for the block."""
    gcs = FakeGcs(root, seed=seed)

    class Handler(_Handler):
        fake = gcs

    server = _Server(("127.0.0.1", 0), Handler)
    gcs.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield gcs
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that closes its connection is no news."""


class _Handler(BaseHTTPRequestHandler):
    fake: FakeGcs
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        number = self._begin("GET", "storage.objects.get")
        if number is None:
            return
        parts, query = self._asked()
        pieces = parts.removeprefix("/download").removeprefix("/storage/v1/b/").split("/")
        bucket = self.fake.root / unquote(pieces[0])
        if not bucket.is_dir():
            return self._error(404, "The specified bucket does not exist.")
        if len(pieces) == 1:
            return self._json(200, {"kind": "storage#bucket", "id": bucket.name, "name": bucket.name})
        if len(pieces) == 2:
            return self._list(bucket, query)
        key = unquote(pieces[2])
        path = bucket / key
        if not path.is_file():
            return self._error(404, f"No such object: {pieces[0]}/{key}")
        if query.get("alt") != "media":
            return self._json(200, self.fake.about(path, key))
        self.fake.sent.append(f"{pieces[0]}/{key}")
        content = self.fake.read(path, query.get("ifGenerationMatch"))
        if content is None:
            return self._conflict()
        data, status, headers = content, 200, {}
        asked = self.headers.get("Range")
        if asked:
            first, last = asked.removeprefix("bytes=").split("-")
            if int(first) >= len(data):
                return self._error(416, "The requested range cannot be satisfied.")
            stop = min(int(last) + 1 if last else len(data), len(data))
            headers["Content-Range"] = f"bytes {first}-{stop - 1}/{len(data)}"
            data, status = data[int(first) : stop], 206
        else:
            headers["X-Goog-Hash"] = f"crc32c={checksum(data)}"
        self._send(status, data, headers, cut=bool(data) and self.fake.cuts(number))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self._begin("POST", "storage.objects.create") is None:
            return
        parts, query = self._asked()
        pieces = parts.removeprefix("/upload").removeprefix("/storage/v1/b/").split("/")
        bucket = self.fake.root / unquote(pieces[0])
        if not bucket.is_dir():
            return self._error(404, "The specified bucket does not exist.")
        if "rewriteTo" in pieces:
            return self._copy(bucket / unquote(pieces[2]), bucket, unquote(pieces[7]))
        if query.get("uploadType") == "resumable":
            about = json.loads(body)
            token = f"s{len(self.fake.sessions)}"
            self.fake.sessions[token] = (bucket / about["name"], about, query.get("ifGenerationMatch"), bytearray())
            where = f"{self.fake.url}/upload/storage/v1/b/{pieces[0]}/o?uploadType=resumable&upload_id={token}"
            return self._send(200, b"", {"Location": where})
        kind = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        first, second = message_from_bytes(kind + body).get_payload()  # type: ignore[misc]
        about, data = json.loads(first.get_payload()), bytes(second.get_payload(decode=True))  # type: ignore
        self._write(bucket / about["name"], about, data, query.get("ifGenerationMatch"))

    def do_PUT(self) -> None:
        """A chunk of an upload, or the question how much of it is there."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self._begin("PUT", "storage.objects.create") is None:
            return
        path, about, generation, held = self.fake.sessions[self._asked()[1]["upload_id"]]
        span = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", self.headers["Content-Range"])
        assert span is not None
        if span[1] is not None and int(span[1]) <= len(held):
            del held[int(span[1]) :]
            held += body
        if span[3] != "*" and len(held) == int(span[3]):
            return self._write(path, about, bytes(held), generation)
        self._send(308, b"", {"Range": f"bytes=0-{len(held) - 1}"} if held else {})

    def do_DELETE(self) -> None:
        if self._begin("DELETE", "storage.objects.delete") is None:
            return
        parts, query = self._asked()
        pieces = parts.removeprefix("/storage/v1/b/").split("/")
        gone = self.fake.remove(self.fake.root / unquote(pieces[0]) / unquote(pieces[2]), query.get("ifGenerationMatch"))
        if gone is None:
            return self._conflict()
        if not gone:
            return self._error(404, f"No such object: {unquote(pieces[2])}")
        self._send(204, b"", {})

    def _begin(self, kind: str, right: str) -> int | None:
        """Counts a request; None where it has failed already."""
        number = self.fake.count(self.headers.get("Range"), kind)
        if self.fake.refuse:
            return self._error(403, f"the account does not have {right} access")
        status = self.fake.fault(number)
        return number if status is None else self._error(status, "backend is not available")

    def _asked(self) -> tuple[str, dict[str, str]]:
        parts = urlsplit(self.path)
        return parts.path, {name: values[0] for name, values in parse_qs(parts.query).items()}

    def _write(self, path: Path, about: dict[str, object], data: bytes, generation: str | None) -> None:
        if about.get("crc32c") not in (None, checksum(data)):
            return self._error(400, "Provided CRC32C does not match.")
        written = self.fake.write(path, data, about.get("metadata") or {}, generation)  # type: ignore[arg-type]
        if written is None:
            return self._conflict()
        if not written:
            return self._error(503, "backend is not available")
        self._json(200, self.fake.about(path, str(about["name"])))

    def _copy(self, source: Path, bucket: Path, key: str) -> None:
        if not source.is_file():
            return self._error(404, f"No such object: {source.name}")
        self.fake.write(bucket / key, source.read_bytes(), {}, None)
        size = str(source.stat().st_size)
        about = {"objectSize": size, "totalBytesRewritten": size, "done": True, "resource": self.fake.about(bucket / key, key)}
        self._json(200, about)

    def _list(self, bucket: Path, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        keys, prefixes = self.fake.keys(bucket, prefix), []
        if delimiter:
            deep = [key for key in keys if delimiter in key[len(prefix) :]]
            prefixes = sorted({prefix + key[len(prefix) :].partition(delimiter)[0] + delimiter for key in deep})
            keys = [key for key in keys if delimiter not in key[len(prefix) :]]
        start, page = int(query.get("pageToken", 0)), min(self.fake.page, int(query.get("maxResults", self.fake.page)))
        items = [self.fake.about(bucket / key, key) for key in keys[start : start + page] if (bucket / key).is_file()]
        answer: dict[str, object] = {"kind": "storage#objects", "items": items}
        if prefixes and not start:
            answer["prefixes"] = prefixes
        if start + page < len(keys):
            answer["nextPageToken"] = str(start + page)
        self._json(200, answer)

    def _conflict(self) -> None:
        self._error(412, "At least one of the pre-conditions you specified did not hold.")

    def _error(self, status: int, message: str) -> None:
        self._json(status, {"error": {"code": status, "message": message}})

    def _json(self, status: int, value: object) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str], cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = self.close_connection or cut

    def log_message(self, format: str, *args: object) -> None:
        pass
