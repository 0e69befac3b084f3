"""Asks an HTTP server as fast as it answers, or at a given rate, from a process of its own.

    python -m benchmarks.load HOST PORT BODIES.npz OUT --connections 32 --seconds 10 [--rate 500]

It ends after so many seconds, or when it gets SIGTERM.

`BODIES.npz` holds finished request bodies (see `save_bodies`), taken in turn. Without `--rate` each connection sends its next
request when it has its answer (closed loop). With `--rate` requests are due at the times of a Poisson process, whether or not
earlier ones were answered, and a latency counts from when the request was due, so a server that stalls cannot hide it.

Writes `OUT.npz`, an array a column (body, due, ended, status, offset), seconds of `time.monotonic`; and `OUT.bin`, the answers.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

_GIVE_UP = 30.0  # seconds that answers may come late at the end
_REFUSED = 0  # status of a request without an answer


def save_bodies(path: Path, bodies: Sequence[bytes], *, url: str = "/v1/lookup") -> None:
    """Whole requests, of POSTed JSON bodies."""
    head = "POST {} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n"
    requests = [head.format(url, len(body)).encode() + body for body in bodies]
    ends = np.cumsum([len(request) for request in requests])
    np.savez(path, data=np.frombuffer(b"".join(requests), np.uint8), ends=ends)


@dataclass(frozen=True)
class Load:
    """What was asked and answered.

    Attributes:
      body: int64[r], which body. due, ended: float64[r], seconds of `time.monotonic`. status: int64[r], 0 without an answer.
      offset: int64[r + 1], of answers in `data`.
    """

    body: np.ndarray
    due: np.ndarray
    ended: np.ndarray
    status: np.ndarray
    offset: np.ndarray
    data: bytes

    def answer(self, number: int) -> bytes:
        return self.data[self.offset[number] : self.offset[number + 1]]

    @property
    def latency(self) -> np.ndarray:
        """float64[r], seconds."""
        return self.ended - self.due

    def between(self, first: float, last: float) -> np.ndarray:
        """bool[r]: due in [first, last)."""
        return (self.due >= first) & (self.due < last)


class Generator:
    """A process that asks; `wait` gives what came back."""

    def __init__(
        self, port: int, bodies: Path, out: Path, *, connections: int, seconds: float, rate: float | None = None
    ) -> None:
        command = [sys.executable, "-m", "benchmarks.load", "127.0.0.1", str(port), str(bodies), str(out)]
        command += ["--connections", str(connections), "--seconds", str(seconds)]
        command += [] if rate is None else ["--rate", str(rate)]
        self._out = out
        self._process = subprocess.Popen(command, cwd=Path(__file__).parent.parent)

    def stop(self) -> Load:
        """Ends it before its time."""
        self._process.terminate()
        return self.wait()

    def wait(self) -> Load:
        if self._process.wait():
            raise SystemExit(f"the load generator ended with {self._process.returncode}")
        with np.load(self._out.with_suffix(".npz")) as found:
            columns = {name: found[name] for name in found.files}
        return Load(**columns, data=self._out.with_suffix(".bin").read_bytes())


class _Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self, asker: _Asker) -> None:
        self.asker = asker
        self.transport: asyncio.Transport | None = None
        self._got = bytearray()
        self._body_at = self._length = 0
        self.asking: tuple[int, float] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self.asker.free(self)

    def send(self, body: int, due: float) -> None:
        assert self.transport is not None
        self.asking = (body, due)
        self.transport.write(self.asker.requests[body])

    def data_received(self, data: bytes) -> None:
        self._got += data
        if not self._body_at:
            head = self._got.find(b"\r\n\r\n")
            if head < 0:
                return
            lowered = bytes(self._got[:head]).lower()
            at = lowered.find(b"content-length:")
            self._length = int(lowered[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            self._body_at = head + 4
        if len(self._got) < self._body_at + self._length:
            return
        status = int(self._got[9:12])
        answer = bytes(self._got[self._body_at : self._body_at + self._length])
        self._got.clear()
        self._body_at = 0
        self._done(status, answer)

    def connection_lost(self, error: Exception | None) -> None:
        if self.asking is not None:
            self._done(_REFUSED, b"", alive=False)
        self.asker.lost()

    def _done(self, status: int, answer: bytes, *, alive: bool = True) -> None:
        assert self.asking is not None
        self.asker.answered(*self.asking, status, answer)
        self.asking = None
        if alive:
            self.asker.free(self)


class _Asker:
    def __init__(self, requests: list[bytes], seconds: float, rate: float | None) -> None:
        self.requests, self.rate = requests, rate
        self.stop = time.monotonic() + seconds
        self.rows: list[tuple[int, float, float, int]] = []
        self.answers: list[bytes] = []
        self.waiting: deque[tuple[int, float]] = deque()
        self.idle: deque[_Connection] = deque()
        self.next = self.open = 0
        self.broken = False

    def take(self) -> int:
        self.next += 1
        return (self.next - 1) % len(self.requests)

    def free(self, connection: _Connection) -> None:
        if self.waiting:
            connection.send(*self.waiting.popleft())
        elif self.rate is None and (now := time.monotonic()) < self.stop:
            connection.send(self.take(), now)
        else:
            self.idle.append(connection)

    def due(self, at: float) -> None:
        asked = (self.take(), at)
        if self.idle:
            self.idle.popleft().send(*asked)
        else:
            self.waiting.append(asked)

    def answered(self, body: int, due: float, status: int, answer: bytes) -> None:
        self.rows.append((body, due, time.monotonic(), status))
        self.answers.append(answer)

    def end(self) -> None:
        self.stop = time.monotonic()

    def lost(self) -> None:
        self.broken = True

    async def run(self, host: str, port: int, connections: int) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.end)
        made = [await loop.create_connection(lambda: _Connection(self), host, port) for _ in range(connections)]
        if self.rate is not None:
            rng = np.random.default_rng(0)
            at = time.monotonic()
            while (at := at + rng.exponential(1 / self.rate)) < self.stop:
                if (wait := at - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
                self.due(at)
        else:
            while time.monotonic() < self.stop:
                await asyncio.sleep(0.05)
        end = time.monotonic() + _GIVE_UP
        while len(self.idle) < connections and time.monotonic() < end and not self.broken:
            await asyncio.sleep(0.02)
        for body, due in self.waiting:
            self.answered(body, due, _REFUSED, b"")
        for transport, connection in made:
            if connection.asking is not None:
                self.answered(*connection.asking, _REFUSED, b"")
                connection.asking = None
            transport.close()


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("host")
    options.add_argument("port", type=int)
    options.add_argument("bodies", type=Path)
    options.add_argument("out", type=Path)
    options.add_argument("--connections", type=int, default=32)
    options.add_argument("--seconds", type=float, default=10.0)
    options.add_argument("--rate", type=float, help="requests a second; none: as fast as they are answered")
    chosen = options.parse_args()
    import gc

    import uvloop

    with np.load(chosen.bodies) as found:
        data, ends = found["data"].tobytes(), found["ends"].tolist()
    requests = [data[first:last] for first, last in zip([0, *ends], ends, strict=False)]
    gc.freeze()
    gc.disable()  # a pause of this process would count as the server's
    asker = _Asker(requests, chosen.seconds, chosen.rate)
    uvloop.run(asker.run(chosen.host, chosen.port, chosen.connections))
    body, due, ended, status = zip(*asker.rows, strict=True) if asker.rows else ((), (), (), ())
    offset = np.cumsum([0, *map(len, asker.answers)])
    chosen.out.with_suffix(".bin").write_bytes(b"".join(asker.answers))
    columns = {"body": body, "due": due, "ended": ended, "status": status, "offset": offset}
    np.savez(chosen.out.with_suffix(".npz"), **{name: np.array(values) for name, values in columns.items()})


if __name__ == "__main__":
    main()
