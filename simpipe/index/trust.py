"""Whether over-fetch finds what an exact scan does, for a filter."""

from __future__ import annotations

import numpy as np

CHECKED = 32  # queries that are compared before over-fetch is trusted


class Trust:
    """How over-fetch did for a filter and k, against exact scans. Threads may share it: a count that is lost does no harm.

    Attributes:
      queries: that were compared; for `complete` of them it found k that fit.
      asked, found: true neighbors of these, and how many of them it found.
    """

    def __init__(self) -> None:
        self.queries = self.complete = self.asked = self.found = 0

    @property
    def known(self) -> bool:
        return self.queries >= CHECKED

    @property
    def share(self) -> float:
        """Of queries that over-fetch answers; the others are scanned after it has been paid for."""
        return self.complete / max(self.queries, 1)

    def good(self, wanted: float) -> bool:
        """Whether it found the share `wanted` of the true neighbors."""
        return self.found >= wanted * self.asked

    def note(self, exact: np.ndarray, over: np.ndarray, complete: np.ndarray) -> None:
        """Compares distances float32[n, k] of both; one as small as the exact k-th counts as found.

        Args:
          complete: bool[n], queries that over-fetch answered.
        """
        self.queries += len(exact)
        self.complete += int(complete.sum())
        exact, over = exact[complete], over[complete]
        there = np.isfinite(exact)
        last = np.where(there, exact, -np.inf).max(axis=1, initial=-np.inf)
        self.asked += int(there.sum())
        self.found += int(np.minimum((over <= last[:, None]).sum(axis=1), there.sum(axis=1)).sum())
