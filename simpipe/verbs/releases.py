"""`simpipe releases`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from simpipe import files
from simpipe.config import Config
from simpipe.overview import overview


def execute(config: Config, options: argparse.Namespace, beam_args: Sequence[str]) -> int:
    """Runs the verb; returns the exit code."""
    del beam_args
    rows = overview(files.located(config.root))
    if options.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        from simpipe.tables import print_releases

        print_releases(rows, config.root)
    return 0
