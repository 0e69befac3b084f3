"""The process for pictures: reads messages from its standard input and answers on its standard output until the input ends.

Three threads: queries wait for one, which loads TensorFlow; pictures of items for another one, which does without; maps for a
third one that gives way to everything else.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from simpipe.errors import SimpipeError
from simpipe.serve import pictures_wire as wire
from simpipe.serve.errors import DeadlineError, NotFoundError
from simpipe.serve.pictures_work import PictureWork, open_root

_TOGETHER = 64  # pictures of items that are fetched in one pass over their shards
_NICE = 10
Job = tuple[dict[str, Any], bytes]


class PicturesProcess:
    """Takes jobs, answers them.

    Args:
      work: what is done. out: where answers go.
    """

    def __init__(self, work: PictureWork, out: BinaryIO) -> None:
        self._work, self._out = work, out
        self._lock = threading.Lock()
        self._waiting: dict[str, queue.SimpleQueue[Job]] = {verb: queue.SimpleQueue() for verb in ("embed", "picture", "map")}

    def run(self, source: BinaryIO, *, warm: bool) -> None:
        """Serves the messages of a file until it ends."""
        for serve, given in ((self._serve_queries, (warm,)), (self._serve_pictures, ()), (self._serve_maps, ())):
            threading.Thread(target=serve, args=given, daemon=True).start()
        while (message := wire.read(source)) is not None:
            self._waiting[message[0]["verb"]].put(message)

    def _serve_queries(self, warm: bool) -> None:
        if warm:
            with contextlib.suppress(Exception):  # who asks hears why
                self._work.warm()
        while True:
            head, body = self._waiting["embed"].get()
            self._answer(head, lambda head=head, body=body: self._embed(head, body))

    def _serve_pictures(self) -> None:
        while True:
            jobs = [self._waiting["picture"].get()]
            with contextlib.suppress(queue.Empty):
                while len(jobs) < _TOGETHER:
                    jobs.append(self._waiting["picture"].get_nowait())
            by_release: dict[str, list[dict[str, Any]]] = {}
            for head, _ in jobs:
                by_release.setdefault(head["release"], []).append(head)
            for release, heads in by_release.items():
                self._fetch(release, heads)

    def _embed(self, head: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        _check_time(head)
        ends = np.cumsum([0, *head["sizes"]]).tolist()
        images = [body[first:stop] for first, stop in itertools.pairwise(ends)]
        names = [f"image {row}" for row in range(len(images))]
        vectors = self._work.embed(head["release"], images, names=names, until=head["until"])
        return {"shape": list(vectors.shape)}, np.ascontiguousarray(vectors, "<f4").tobytes()

    def _fetch(self, release: str, heads: list[dict[str, Any]]) -> None:
        """Answers for pictures of items of a release that wait at the same time."""
        late = [head for head in heads if time.monotonic() > head["until"]]
        for head in late:
            self._answer(head, lambda head=head: _check_time(head))
        wanted = {head["item"]: head["label"] for head in heads if head not in late}
        try:
            found = self._work.pictures(release, wanted) if wanted else {}
        except Exception as error:  # of any kind: each of them hears of it
            for head in heads:
                if head not in late:
                    self._answer(head, lambda error=error: _throw(error))
            return
        for head in heads:
            if head not in late:
                self._answer(head, lambda head=head: _picture_in(found, head))

    def _serve_maps(self) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while True:
            head, _ = self._waiting["map"].get()
            self._answer(head, lambda head=head: ({}, json.dumps(self._work.map(head["release"])).encode()))

    def _answer(self, head: dict[str, Any], work: Callable[[], tuple[dict[str, Any], bytes]]) -> None:
        """Sends what the work makes, or why it failed."""
        try:
            about, body = work()
        except SimpipeError as error:
            about, body = {"error": wire.error_of(error)}, b""
        except Exception as error:  # a bug, or a library's: whoever asked hears of it, and the process goes on
            said = {"kind": "SimpipeError", "message": f"{type(error).__name__}: {error}", "cure": "report it"}
            about, body = {"error": said}, b""
        with self._lock:
            self._out.write(wire.encode({"number": head["number"], "verb": head["verb"], **about}, body))
            self._out.flush()


def _check_time(head: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    if time.monotonic() > head["until"]:
        raise DeadlineError("the pictures were not read in time", "ask again, or allow more time")
    return {}, b""


def _throw(error: Exception) -> tuple[dict[str, Any], bytes]:
    raise error


def _picture_in(found: dict[str, bytes], head: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    if head["item"] not in found:
        cure = "items have pictures where the release was made from examples that are pictures, and these are still there"
        raise NotFoundError(f"item {head['item']!r} has no picture", cure)
    return {}, found[head["item"]]


def main() -> None:
    """Entry point of the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("root")
    parser.add_argument("--warm", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    try:
        PicturesProcess(open_root(options.root), out).run(sys.stdin.buffer, warm=options.warm)
    finally:
        os._exit(0)  # nobody waits for what is still being made


if __name__ == "__main__":
    main()
