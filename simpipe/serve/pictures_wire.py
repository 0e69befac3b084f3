"""Messages between a server and its process for pictures: two lengths, a JSON object, and raw bytes.

Nothing that comes through the pipe is ever unpickled.
"""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO

from simpipe import errors
from simpipe.errors import SimpipeError
from simpipe.serve import errors as serve_errors

LENGTHS = struct.Struct("<II")
_KINDS: dict[str, type[SimpipeError]] = {
    kind.__name__: kind
    for module in (errors, serve_errors)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, SimpipeError)
}


def encode(head: dict[str, Any], body: bytes = b"") -> bytes:
    """A message."""
    text = json.dumps(head).encode()
    return LENGTHS.pack(len(text), len(body)) + text + body


def read(source: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """The next message of a file; None at its end."""
    lengths = source.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        return None
    head, body = LENGTHS.unpack(lengths)
    return json.loads(source.read(head)), source.read(body)


def error_of(error: SimpipeError) -> dict[str, str]:
    """An error, for a message."""
    return {"kind": type(error).__name__, "message": error.message, "cure": error.cure}


def raised(error: dict[str, str]) -> SimpipeError:
    """The error that `error_of` described, of the same class."""
    return _KINDS.get(error["kind"], SimpipeError)(error["message"], error["cure"])
