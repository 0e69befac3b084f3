"""`simpipe tag`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from simpipe import files, recording, releases, tags
from simpipe.config import Config


def execute(config: Config, options: argparse.Namespace, beam_args: Sequence[str]) -> int:
    """Names a release, or removes the name; returns the exit code."""
    del beam_args
    root = files.located(config.root)
    if options.remove:
        said = f"{options.name} removed (was {tags.remove_tag(root, options.name)})"
    else:
        release = releases.find(root, options.release or "live")[1].release
        before = tags.set_tag(root, options.name, release)
        moved = "" if before is None else " already" if before == release else f" (before: {before})"
        said = f"{options.name} is {release}{moved}"
        recording.note(release=release)
    recording.note(message=said)
    print(f"tag        {said}", file=sys.stderr, flush=True)
    return 0
