"""`simpipe reindex`: one idempotent command with exit codes and a summary that a scheduler can act on."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from simpipe.config import Config
from simpipe.errors import SimpipeError


def execute(config: Config, options: argparse.Namespace, beam_args: Sequence[str]) -> int:
    """Runs the verb.

    Returns:
      0: live is up to date (or built, with `--no-publish`); 3: another one published or re-indexes; 4: a gate failed.

    Raises:
      SimpipeError: anything else; with `--json` it is also printed as JSON.
    """
    from pipelines import reindex

    try:
        summary = reindex.run(
            config,
            deltas=options.deltas,
            force=options.force,
            publish=not options.no_publish,
            beam_args=beam_args,
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )
    except SimpipeError as error:
        if options.json:
            record = {"outcome": "error", "message": error.message, "cure": error.cure, "exit_code": error.exit_code}
            print(json.dumps(record, ensure_ascii=False), flush=True)
        raise
    if options.json:
        print(summary.to_json(), flush=True)
    elif summary.outcome in ("unchanged", "conflict"):
        print(f"reindex    {summary.message}", file=sys.stderr)
    return summary.exit_code
