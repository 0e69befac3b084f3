"""One call of a client as several requests of bounded size, all of them answered by one release."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from simpipe.client_http import TooLargeError
from simpipe.serve.errors import NotReadyError

_ROUNDS = 8
Value = TypeVar("Value")


@dataclass(frozen=True)
class Piece(Generic[Value]):
    """What answered the queries `first` to `stop`."""

    first: int
    stop: int
    release: str
    value: Value


def ask_in_pieces(
    count: int, most: int, post: Callable[[int, int], dict[str, Any]], read: Callable[[dict[str, Any]], Value]
) -> list[Value]:
    """The answers to queries, in their order.

    Where the live release changes meanwhile, what the old one answered is asked again.

    Args:
      count: of queries. most: of a request; halved where the server says that it is too large.
      post: asks for queries from one number up to another one. read: what is kept of an answer.

    Raises:
      NotReadyError: the release changes ever again. What `post` and `read` raise.
    """

    def ask(first: int, stop: int) -> list[Piece[Value]]:
        try:
            answer = post(first, stop)
        except TooLargeError:  # this server takes less: half of it again
            if stop - first < 2:
                raise
            middle = (first + stop) // 2
            return [*ask(first, middle), *ask(middle, stop)]
        return [Piece(first, stop, str(answer.get("release")), read(answer))]

    pieces = [piece for first in range(0, count, most) for piece in ask(first, min(first + most, count))]
    latest = pieces[-1].release
    for _ in range(_ROUNDS):
        if all(piece.release == latest for piece in pieces):
            return [piece.value for piece in pieces]
        kept, pieces, asked_last = pieces, [], latest
        for piece in kept:
            again = [piece] if piece.release == latest else ask(piece.first, piece.stop)
            asked_last = asked_last if piece.release == latest else again[-1].release
            pieces += again
        latest = asked_last
    raise NotReadyError("the live release changes again and again while it is asked", "name a release, or ask again later")
