"""`simpipe prune`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from simpipe.config import Config


def execute(config: Config, options: argparse.Namespace, beam_args: Sequence[str]) -> int:
    """Runs the verb; returns the exit code."""
    raise NotImplementedError
