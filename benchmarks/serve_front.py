"""What the HTTP side of a server takes by itself: requests that an engine answers at once.

    python -m benchmarks.serve_front [--seconds 3]

A process of its own serves finished answers of ten neighbors a query; this one asks over raw connections. JSON lines: requests a
second, and CPU microseconds that the server takes a request and a vector, by vectors a request and connections, with and without
its log.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import signal
import socket
import time
from typing import Any

import numpy as np
import orjson

from simpipe.config.serve import ServeConfig
from simpipe.serve.jobs import EngineStatus, Job, Reply

_DIM, _K = 64, 10
_CASES = ((1, 1), (1, 32), (32, 32), (256, 8), (1024, 4))
_WAIT = 60.0


class _AtOnce:
    """`Engine` that has the answer."""

    def __init__(self) -> None:
        near = [{"rank": rank + 1, "id": f"item-{rank:09d}", "label": "x", "distance": 0.1234} for rank in range(_K)]
        result = {"query": "row 0", "label": None, "neighbors": near}
        self._bodies = {
            size: orjson.dumps({"release": "r", "distance": "cosine", "results": [result] * size}) for size, _ in _CASES
        }

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    def status(self) -> EngineStatus:
        return EngineStatus(ready=True, release="r")

    async def ask(self, job: Job, *, release: str | None = None, timeout: float) -> Reply:
        return Reply("r", self._bodies[job.queries], 1, 1.0)

    async def about(self, release: str | None = None) -> dict[str, Any]:
        return {"release": "r"}

    async def releases(self) -> list[dict[str, Any]]:
        return []


def _serve(bound: socket.socket, log: bool) -> None:
    from simpipe.serve.run import serve

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    serve(_AtOnce(), None, ServeConfig(access_log=log), bound, ready=lambda: None)


async def _ask(port: int, size: int, connections: int, seconds: float) -> float:
    """Requests a second."""
    vectors = np.random.default_rng(0).normal(size=(size, _DIM)).astype(np.float32)
    body = orjson.dumps({"vectors": vectors, "k": _K}, option=orjson.OPT_SERIALIZE_NUMPY)
    head = f"POST /v1/lookup HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    request, end, done = head.encode() + body, time.perf_counter() + seconds, 0

    async def connection() -> None:
        nonlocal done
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            first = answer.index(b"content-length: ") + 16
            await reader.readexactly(int(answer[first : answer.index(b"\r", first)]))
            done += 1
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(connection() for _ in range(connections)))
    return done / (time.perf_counter() - began)


def _cpu(pid: int | None) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    import uvloop

    from simpipe.serve.run import listen

    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--seconds", type=float, default=3.0, help="of each case (default: %(default)s)")
    chosen = options.parse_args()
    for log in (False, True):
        bound = listen("127.0.0.1", 0)
        bound.listen()  # connections wait until the process takes them
        port = bound.getsockname()[1]
        server = multiprocessing.get_context("spawn").Process(target=_serve, args=(bound, log), daemon=True)
        server.start()
        bound.close()
        uvloop.run(_ask(port, 1, 1, 1.0))
        for size, connections in _CASES:
            before, began = _cpu(server.pid), time.perf_counter()
            rate = uvloop.run(_ask(port, size, connections, chosen.seconds))
            request = (_cpu(server.pid) - before) / (rate * (time.perf_counter() - began)) * 1e6
            line = {"what": "front", "log": log, "vectors": size, "connections": connections, "requests_a_s": round(rate, 1)}
            print(json.dumps({**line, "cpu_us": round(request, 1), "cpu_us_a_vector": round(request / size, 2)}), flush=True)
        os.kill(server.pid or 0, signal.SIGTERM)
        server.join(_WAIT)


if __name__ == "__main__":
    main()
