"""`simpipe rollback`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from simpipe import recording, releases
from simpipe.config import Config


def execute(config: Config, options: argparse.Namespace, beam_args: Sequence[str]) -> int:
    """Makes the previous release live; returns the exit code."""
    del options, beam_args
    pointer = releases.rollback(config.root)
    said = f"{pointer.release} is live (before: {pointer.previous})"
    recording.note(outcome="published", release=pointer.release, message=said)
    print(f"rollback   {said}", file=sys.stderr, flush=True)
    return 0
