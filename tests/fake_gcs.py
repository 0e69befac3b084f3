"""A small Google Cloud Storage on loopback, for tests: objects of a local folder over the JSON API, with faults on demand.

Metadata, contents with `Range`, listing with prefix, delimiter and pages; uploads of one request; generations and
`ifGenerationMatch`.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c

PAGE = 3  # objects a page of a listing: small, so that pages are followed


class FakeGcs:
    """Serves `root/BUCKET/KEY` as objects.

    Attributes:
      url: for STORAGE_EMULATOR_HOST.
      requests: how many were answered, failed ones too. ranges: each `Range` header that was asked for.
      fail_every: every n-th request gets 503. refuse: all get 403. cut_every: every n-th body ends half way.
      lose_every: every n-th upload takes effect, and then gets 503. uploads: how many took effect.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests = 0
        self.ranges: list[str] = []
        self.fail_every = self.cut_every = self.lose_every = self.uploads = 0
        self._objects: dict[Path, tuple[int, dict[str, str]]] = {}
        self.refuse = False
        self.url = ""
        self._lock = threading.Lock()

    def count(self, asked: str | None) -> int:
        with self._lock:
            self.requests += 1
            if asked:
                self.ranges.append(asked)
            return self.requests

    def about(self, path: Path, key: str) -> dict[str, object]:
        """An object's resource; one that a test laid there itself is of generation 1."""
        generation, metadata = self._objects.get(path, (1, {}))
        about: dict[str, object] = {"kind": "storage#object", "name": key, "size": str(path.stat().st_size)}
        return {**about, "generation": str(generation), "metadata": metadata}

    def read(self, path: Path, generation: str | None) -> bytes | None:
        """An object's content; None where it is of another generation."""
        with self._lock:
            matches = generation is None or self._objects.get(path, (1, {}))[0] == int(generation)
            return path.read_bytes() if matches else None

    def write(self, path: Path, data: bytes, metadata: dict[str, str], generation: str | None) -> bool | None:
        """Writes an object; None where it is of another generation; False where the answer is to be lost."""
        with self._lock:
            found = self._objects.get(path, (1, {}))[0] if path.is_file() else 0
            if generation is not None and found != int(generation):
                return None
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            self.uploads += 1
            self._objects[path] = (1000 + self.uploads, metadata)
            return not self.lose_every or self.uploads % self.lose_every != 0


@contextmanager
def serving(root: Path) -> Iterator[FakeGcs]:
    """Runs a server on a free port of loopback for the block."""
    gcs = FakeGcs(root)

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

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that closes its connection is no news."""


class _Handler(BaseHTTPRequestHandler):
    fake: FakeGcs
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        number = self.fake.count(self.headers.get("Range"))
        if self.fake.refuse:
            return self._error(403, "the account does not have storage.objects.get access")
        if self.fake.fail_every and number % self.fake.fail_every == 0:
            return self._error(503, "backend is not available")
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        pieces = parts.path.removeprefix("/download").removeprefix("/storage/v1/b/").split("/")
        bucket = self.fake.root / unquote(pieces[0])
        if not bucket.is_dir():
            return self._error(404, "The specified bucket does not exist.")
        if len(pieces) == 2:
            return self._list(bucket, query)
        key = unquote(pieces[2])
        path = bucket / key
        if not path.is_file():
            return self._error(404, f"No such object: {pieces[0]}/{key}")
        if query.get("alt") != "media":
            return self._json(200, self.fake.about(path, key))
        content = self.fake.read(path, query.get("ifGenerationMatch"))
        if content is None:
            return self._error(412, "At least one of the pre-conditions you specified did not hold.")
        data, status, headers = content, 200, {}
        checksum = base64.b64encode(google_crc32c.Checksum(data).digest()).decode()
        asked = self.headers.get("Range")
        if asked:
            first, last = asked.removeprefix("bytes=").split("-")
            if int(first) >= len(data):
                return self._error(416, "The requested range cannot be satisfied.")
            stop = min(int(last) + 1 if last else len(data), len(data))
            headers["Content-Range"] = f"bytes {first}-{stop - 1}/{len(data)}"
            data, status = data[int(first) : stop], 206
        else:
            headers["X-Goog-Hash"] = f"crc32c={checksum}"
        self._send(status, data, headers, cut=bool(self.fake.cut_every) and number % self.fake.cut_every == 0)

    def do_POST(self) -> None:
        number, body = self.fake.count(None), self.rfile.read(int(self.headers["Content-Length"]))
        if self.fake.refuse:
            return self._error(403, "the account does not have storage.objects.create access")
        if self.fake.fail_every and number % self.fake.fail_every == 0:
            return self._error(503, "backend is not available")
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        bucket = self.fake.root / unquote(parts.path.removeprefix("/upload/storage/v1/b/").split("/")[0])
        if not bucket.is_dir():
            return self._error(404, "The specified bucket does not exist.")
        kind = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        first, second = message_from_bytes(kind + body).get_payload()  # type: ignore[misc]
        about, data = json.loads(first.get_payload()), bytes(second.get_payload(decode=True))  # type: ignore
        key = about["name"]
        written = self.fake.write(bucket / key, data, about.get("metadata", {}), query.get("ifGenerationMatch"))
        if written is None:
            return self._error(412, "At least one of the pre-conditions you specified did not hold.")
        if not written:
            return self._error(503, "backend is not available")
        self._json(200, self.fake.about(bucket / key, key))

    def _list(self, bucket: Path, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        keys = sorted(path.relative_to(bucket).as_posix() for path in bucket.rglob("*") if path.is_file())
        keys = [key for key in keys if key.startswith(prefix)]
        if delimiter:
            keys = [key for key in keys if delimiter not in key[len(prefix) :]]
        start = int(query.get("pageToken", 0))
        answer = {"kind": "storage#objects", "items": [self.fake.about(bucket / key, key) for key in keys[start : start + PAGE]]}
        if start + PAGE < len(keys):
            answer["nextPageToken"] = str(start + PAGE)
        self._json(200, answer)

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
