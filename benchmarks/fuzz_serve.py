"""Broken and odd requests against a real server: what it answers, and whether its memory comes back.

    python -m benchmarks.fuzz_serve [--n 100000] [--requests 10000] [--seed 0] [--scratch FOLDER]

One `simpipe serve` answers a release of n x 64 vectors (see `benchmarks.serve`). It is warmed by 500 honest requests and 500
odd ones, then gets `--requests` bodies that were made from honest ones: other types, depths and sizes, NaN, huge numbers,
odd Unicode, cut, packed, binary, in other encodings, with other headers. JSON lines: counts by status; answers that are of 5xx or
no JSON (`odd`, bar 0); resident MiB of all its processes before and after, with its ratio (bar 1.10).
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import gzip
import json
import random
import re
import time
from collections.abc import Callable
from typing import Any

from benchmarks.child import say
from benchmarks.releases import workplace
from benchmarks.serve import queries, ready_root
from benchmarks.served import Served, serving

BAR_MEMORY = 1.10
_CONNECTIONS, _WARM = 8, 500
_REST = 8.0  # seconds until memory is looked at
_KEPT = 20  # odd answers that are shown
_NUMBERS = (0, -1, 1, 2**31, 2**63, 2**64, 10**30, 10**400, 1e-400, -1e308, 1e39, 0.1, -0.0)
_TEXTS = (
    "",
    "\x00",
    "\u202e",
    "é" * 300,
    "a" * 70_000,
    "../../etc/passwd",
    "gs://a/b",
    "\U0001f600",
    "null",
    "optimal",
    "live",
    "-",
)
_FIELDS = (
    *("vectors", "ids", "images", "names", "k", "filter", "cutpoint", "matcher", "group", "by_label", "target_recall", "exact"),
    *("where", "metadata", "release", "timeout", "nobody"),
)


class _Fuzz:
    """Draws requests."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self._vectors = queries(64).round(4).tolist()
        self._rows = json.dumps(self._vectors).encode()[1:-1]
        self._ways: tuple[Callable[[], bytes], ...] = (
            *((self.honest,) + (self._typed,) * 4 + (self._numbers,) * 2 + (self._fields,) * 2),
            *(self._deep, self._large, self._cut, self._bytes, self._binary, self._encoded, self._long, self._literal),
        )

    def body(self) -> bytes:
        return self._draw.choice(self._ways)()

    def _query(self) -> dict[str, Any]:
        draw = self._draw
        about: dict[str, Any] = {"k": draw.choice((1, 5, 10, 100))}
        if draw.random() < 0.7:
            about["vectors"] = draw.sample(self._vectors, draw.choice((1, 1, 2, 16)))
        else:
            about["ids"] = [f"vectors-{draw.randrange(10**6):09d}" for _ in range(draw.choice((1, 3)))]
        return about

    def honest(self) -> bytes:
        return json.dumps(self._query()).encode()

    def _any(self, depth: int = 0) -> Any:
        draw = self._draw
        kind = draw.randrange(7 if depth < 3 else 5)
        if kind == 5:
            return [self._any(depth + 1) for _ in range(draw.randrange(4))]
        if kind == 6:
            return {draw.choice((*_FIELDS, *_TEXTS)): self._any(depth + 1) for _ in range(draw.randrange(4))}
        return (None, draw.random() < 0.5, draw.choice(_NUMBERS), draw.choice(_TEXTS), draw.gauss(0, 1))[kind]

    def _typed(self) -> bytes:
        """A field of another type."""
        return json.dumps({**self._query(), self._draw.choice(_FIELDS): self._any()}).encode()

    def _fields(self) -> bytes:
        """Many fields at the same time, of which some are right."""
        about: dict[str, Any] = {**self._query(), "cutpoint": "optimal", "target_recall": 0.9, "timeout": 5, "metadata": True}
        for name in self._draw.sample(_FIELDS, 2):
            about[name] = self._any()
        return json.dumps(about).encode()

    def _numbers(self) -> bytes:
        """Vectors with something else among the numbers."""
        rows = [list(row) for row in self._draw.sample(self._vectors, 2)]
        rows[self._draw.randrange(2)][self._draw.randrange(64)] = self._draw.choice((*_NUMBERS, None, "1", True, [], {}))
        if self._draw.random() < 0.3:
            rows[1] = rows[1][: self._draw.randrange(64)]
        return json.dumps({"vectors": rows}).encode()

    def _deep(self) -> bytes:
        levels = self._draw.choice((20, 500, 2000, 100_000))
        opening, closing = self._draw.choice(((b"[", b"]"), (b'{"a":', b"}")))
        within = opening * levels + b"1" + closing * levels
        return b'{"ids": ["a"], "filter": ' + within + b"}" if self._draw.random() < 0.5 else b'{"vectors": ' + within + b"}"

    def _large(self) -> bytes:
        rows = b", ".join([self._rows] * self._draw.choice((1, 2, 4, 8, 65, 80)))  # of 64 vectors
        return b'{"vectors": [%b], "k": %d}' % (rows, self._draw.choice((1, 10)))

    def _long(self) -> bytes:
        return json.dumps({"ids": ["x" * self._draw.choice((10, 10_000, 1_000_000))] * self._draw.choice((1, 5))}).encode()

    def _cut(self) -> bytes:
        body = self.honest()
        return body[: self._draw.randrange(len(body))]

    def _bytes(self) -> bytes:
        """Some bytes are others."""
        body = bytearray(self.honest())
        for _ in range(self._draw.randrange(1, 8)):
            body[self._draw.randrange(len(body))] = self._draw.randrange(256)
        return bytes(body)

    def _binary(self) -> bytes:
        return self._draw.randbytes(self._draw.choice((0, 1, 100, 100_000)))

    def _encoded(self) -> bytes:
        text = self.honest().decode()
        return self._draw.choice(
            (text.encode("utf-16"), text.encode("utf-32"), b"\xef\xbb\xbf" + text.encode(), gzip.compress(text.encode()))
        )

    def _literal(self) -> bytes:
        odd = self._draw.choice(("NaN", "-Infinity", "1e999", "0x10", "01", "1.", "+1", '"\\ud800"', "1e-999", "tru", "1,,2"))
        return b'{"vectors": [[' + odd.encode() + b", 1" * 63 + b"]]}"

    def request(self, body: bytes) -> bytes:
        """With the headers of a client, mostly."""
        draw = self._draw
        path = draw.choice(("/v1/lookup", "/v1/lookup", "/v1/match"))
        kind = "application/json" if draw.random() < 0.95 else draw.choice(("text/plain", "", "application/json; charset=x", "é"))
        head = [f"POST {path} HTTP/1.1", "host: localhost", f"content-type: {kind}"]
        if draw.random() < 0.03:
            head.append(f"content-encoding: {draw.choice(('gzip', 'br', 'identity'))}")
        if draw.random() < 0.05:
            head.append(f"x-request-id: {draw.choice(('a', 'x' * 5000, '{}'))}")
        if draw.random() < 0.1:
            pieces = [body[at : at + 5000] for at in range(0, len(body), 5000)]
            chunked = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
            return "\r\n".join([*head, "transfer-encoding: chunked", "", ""]).encode() + chunked
        return "\r\n".join([*head, f"content-length: {len(body)}", "", ""]).encode() + body


async def _ask(served: Served, requests: list[bytes]) -> tuple[collections.Counter[int], list[dict[str, Any]]]:
    """Counts by status, and answers that are odd; a connection that ends is opened again."""
    statuses: collections.Counter[int] = collections.Counter()
    odd: list[dict[str, Any]] = []
    waiting = iter(requests)

    async def connection() -> None:
        reader = writer = None
        for request in waiting:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            assert reader is not None
            status, body = 0, b""
            try:
                writer.write(request)
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
                status = int(head.split()[1])
                length = re.search(rb"content-length: (\d+)", head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                closes = b"connection: close" in head
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                closes = True
            statuses[status] += 1
            late = status == 504 and b'"timeout"' in request  # as it asked for: what is drawn may be milliseconds
            if (status >= 500 and not late) or not _is_answer(status, body):
                odd.append({"status": status, "asked": repr(request[:300]), "answer": repr(body[:300])})
            if closes:
                writer.close()
                writer = None
        if writer is not None:
            writer.close()

    await asyncio.gather(*(connection() for _ in range(_CONNECTIONS)))
    return statuses, odd


def _is_answer(status: int, body: bytes) -> bool:
    """Whether it is JSON, of results or of an error with a reason."""
    try:
        about = json.loads(body)
    except ValueError:
        return False
    return "results" in about if status == 200 else bool(about["error"]["message"]) and "request_id" in about


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--n", type=int, default=100_000)
    options.add_argument("--requests", type=int, default=10_000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--scratch")
    chosen = options.parse_args()
    fuzz = _Fuzz(chosen.seed)
    with workplace(chosen.scratch) as scratch:
        root = ready_root(scratch, chosen.n)
        with serving(root, ["pictures=false"], log=scratch / "fuzz.log") as served:
            say("warm-up")
            warm = [fuzz.request(fuzz.honest()) for _ in range(_WARM)] + [fuzz.request(fuzz.body()) for _ in range(_WARM)]
            asyncio.run(_ask(served, warm))
            time.sleep(_REST)
            before = served.memory()
            say(f"{chosen.requests} requests")
            statuses: collections.Counter[int] = collections.Counter()
            odd: list[dict[str, Any]] = []
            for first in range(0, chosen.requests, 1000):
                count = min(1000, chosen.requests - first)
                found = asyncio.run(_ask(served, [fuzz.request(fuzz.body()) for _ in range(count)]))
                statuses += found[0]
                odd += found[1]
            time.sleep(_REST)
            after = served.memory()
    print(json.dumps({"what": "fuzz", "requests": chosen.requests, "statuses": dict(sorted(statuses.items())), "odd": len(odd)}))
    for line in odd[:_KEPT]:
        print(json.dumps({"what": "odd", **line}))
    for name, at in (("resident", 0), ("without pages of files", 1)):
        line = {"what": "memory", "of": name, "before_mib": round(before[at], 1), "after_mib": round(after[at], 1)}
        print(json.dumps({**line, "ratio": round(after[at] / before[at], 3), "bar": BAR_MEMORY}))


if __name__ == "__main__":
    main()
