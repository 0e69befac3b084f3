"""Whether over-fetch finds what an exact scan does, for a filter."""

from __future__ import annotations

import numpy as np

CHECKED = 32  # queries that are compared before over-fetch is trusted


class Trust:
    """How over-fetch did for a filter and k, against exact scans. Threads may share it: a count that is lost does no harm."""

    def __init__(self) -> None:
        self.asked = self.found = self.queries = 0

    @property
    def known(self) -> bool:
        return self.queries >= CHECKED

    def good(self, wanted: float) -> bool:
        return self.found >= wanted * self.asked

    def note(self, exact: np.ndarray, over: np.ndarray) -> None:
        """Compares distances float32[n, k] of both: one as small as the exact k-th counts as found."""
        there = np.isfinite(exact)
        last = np.where(there, exact, -np.inf).max(axis=1, initial=-np.inf)
        self.asked += int(there.sum())
        self.found += int((over <= last[:, None]).sum(axis=1).clip(max=there.sum(axis=1)).sum())
        self.queries += len(exact)
