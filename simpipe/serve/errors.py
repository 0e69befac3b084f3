"""Why a server did not answer, beyond what the library refuses."""

from __future__ import annotations

from simpipe.errors import SimpipeError


class NotReadyError(SimpipeError):
    """No release answers yet, or the process that did has died and is being replaced."""


class QueueFullError(SimpipeError):
    """More queries wait than the server takes."""


class DeadlineError(SimpipeError):
    """The answer did not come in time."""


class NotFoundError(SimpipeError):
    """There is no such item, release or picture."""
