"""What a failed job says to the user: simpipe's own error where a worker raised one, else the runner's last words."""

from __future__ import annotations

import re

from simpipe import errors
from simpipe.errors import SimpipeError

_LOG, _AGAIN = "the runner's log", "the step can be run again"
_RAISED = re.compile(r"simpipe\.errors\.(\w+): (.+?)\n  cure: ([^\n]+)", re.DOTALL)
_WHERE = re.compile(r" \[while running '[^']*'\]")  # runners append it to the message; that is no help to a user


def raised_in(error: Exception) -> SimpipeError | None:
    """The error that a worker raised, where the runner chained it to its own, as in-process runners do."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, SimpipeError):
        cause = cause.__cause__
    return None if cause is None else type(cause)(_WHERE.sub("", cause.message), cause.cure)


def told_by(error: Exception, *, job: str, link: str | None = None) -> SimpipeError:
    """The error that a runner tells of in words: a worker's traceback, or what the runner itself has to say.

    Args:
      job: its name, and its id where it has one. link: where the job is shown.
    """
    if found := _RAISED.search(str(error)):
        kind = getattr(errors, found[1], SimpipeError)
        seen = f"; {link}" if link else ""
        return kind(_WHERE.sub("", found[2]), _WHERE.sub("", found[3]) + seen)
    if found := re.search(r"State: ([A-Z]+), Error:\nNone\b", str(error)):  # Dataflow's own words, such as of a cancelled job
        return SimpipeError(f"job {job} ended in state {found[1]}", f"see {link or _LOG}; {_AGAIN}")
    last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return SimpipeError(f"job {job} failed: {last[:300]}", f"see {link or _LOG}; {_AGAIN}")
