"""`simpipe diff`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from simpipe import files
from simpipe.config import Config


def execute(config: Config, options: argparse.Namespace, beam_args: Sequence[str]) -> int:
    """Runs the verb; returns the exit code."""
    del beam_args
    from simpipe.diff import diff_releases

    found = diff_releases(files.located(config.root), options.one, options.other, ids=options.ids)
    if options.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        from simpipe.diff_tables import print_diff

        print_diff(found)
    return 0
