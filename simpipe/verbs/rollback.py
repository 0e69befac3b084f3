"""`simpipe rollback`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from simpipe import files, releases, storage
from simpipe.config import Config


def execute(config: Config, options: argparse.Namespace, beam_args: Sequence[str]) -> int:
    """Makes the previous release live; returns the exit code."""
    del options, beam_args
    pointer = releases.rollback(config.root if storage.is_remote(config.root) else files.local(config.root))
    print(f"rollback   {pointer.release} is live (before: {pointer.previous})", file=sys.stderr, flush=True)
    return 0
