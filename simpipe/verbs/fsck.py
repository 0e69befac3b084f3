"""`simpipe fsck`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from simpipe import files
from simpipe.config import Config
from simpipe.errors import ContractError


def execute(config: Config, options: argparse.Namespace, beam_args: Sequence[str]) -> int:
    """Runs the verb; returns the exit code."""
    del beam_args
    from simpipe.fsck import check_root

    report = check_root(files.local(config.root), fast=options.fast)
    if options.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        from simpipe.fsck.show import print_report

        print_report(report)
    return 0 if report.ok else ContractError.exit_code
