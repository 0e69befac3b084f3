"""Every error that simpipe raises on purpose: what is wrong, where, and the cure."""

from __future__ import annotations


class SimpipeError(Exception):
    """Base class. The CLI prints it without a traceback and exits with `exit_code`."""

    exit_code = 1

    def __init__(self, message: str, cure: str = "") -> None:
        super().__init__(message, cure)
        self.message = message
        self.cure = cure

    def __str__(self) -> str:
        return f"{self.message}\n  cure: {self.cure}" if self.cure else self.message


class ConfigError(SimpipeError):
    """The configuration is wrong; all mistakes are listed at once."""

    exit_code = 2


class SourceError(SimpipeError):
    """The source cannot be read, or holds nothing usable."""


class ContractError(SimpipeError):
    """A data set on disk breaks its written contract (names, counts, checksums, schema)."""


class RejectedError(SimpipeError):
    """More records were rejected than the configuration allows."""


class DuplicateIdError(SimpipeError):
    """One id names two items."""


class ReleaseError(SimpipeError):
    """A release is missing, unfinished or altered."""


class IncompatibleError(SimpipeError):
    """Encoder, dim or distance of a query differ from the release's."""


class QueryError(SimpipeError):
    """A query cannot be answered: unknown id, wrong shape, NaN, zero norm."""


class PublishConflictError(SimpipeError):
    """Somebody else published, or re-indexes at this moment; nothing was changed."""

    exit_code = 3


class GateFailedError(SimpipeError):
    """A release was judged and may not go live; names every gate that failed."""

    exit_code = 4


class EmptyIndexError(QueryError, IndexError):
    """A model's index was asked before anything was indexed."""


class NotCalibratedError(ReleaseError, ValueError):
    """A match was asked of an index that has no cutpoints."""
