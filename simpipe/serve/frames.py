"""Messages between a server and its releases' processes: two lengths, a JSON object, raw bytes.

Nothing that comes through is ever unpickled.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import orjson

from simpipe.serve.jobs import Job

_LENGTHS = struct.Struct("<II")
Frame = tuple[dict[str, Any], memoryview]


def frame(head: dict[str, Any], body: bytes | memoryview = b"") -> bytes:
    """A message."""
    text = orjson.dumps(head)
    return b"".join((_LENGTHS.pack(len(text), len(body)), text, body))


class Frames:
    """Puts messages together from what arrives."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._wanted = _LENGTHS.size

    def feed(self, data: bytes | memoryview) -> list[Frame]:
        """The messages that are whole now."""
        self._kept += data
        if len(self._kept) < self._wanted:
            return []
        whole, found, at = memoryview(bytes(self._kept)), [], 0
        while len(whole) - at >= _LENGTHS.size:
            head, body = _LENGTHS.unpack_from(whole, at)
            first = at + _LENGTHS.size
            if len(whole) < first + head + body:
                self._wanted = _LENGTHS.size + head + body
                break
            found.append((orjson.loads(whole[first : first + head]), whole[first + head : first + head + body]))
            at = first + head + body
            self._wanted = _LENGTHS.size
        self._kept = bytearray(whole[at:])
        return found


def job_frame(number: int, job: Job, until: float) -> bytes:
    """A job that waits for an answer.

    Args:
      number: of the answer. until: by `time.monotonic`, when nobody waits for it any more.
    """
    head: dict[str, Any] = {"number": number, "until": until, "verb": job.verb, "k": job.k, "options": dict(job.options)}
    if job.ids is not None:
        head["ids"] = list(job.ids)
    if job.names is not None:
        head["names"] = list(job.names)
    if job.vectors is None:
        return frame(head)
    vectors = np.ascontiguousarray(job.vectors, "<f4")
    head["shape"] = vectors.shape
    return frame(head, vectors.reshape(-1).view(np.uint8).data)


def job_of(head: dict[str, Any], body: memoryview) -> Job:
    """The job of a message that `job_frame` made; its vectors lie in the message."""
    shape = head.get("shape")
    vectors = None if shape is None else np.frombuffer(body, "<f4").reshape(shape)
    return Job(head["verb"], vectors, head.get("ids"), head.get("names"), head["k"], head["options"])
