"""`simpipe fsck`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from simpipe import files, recording
from simpipe.config import Config
from simpipe.errors import ContractError


def execute(config: Config, options: argparse.Namespace, beam_args: Sequence[str]) -> int:
    """Runs the verb; returns the exit code."""
    del beam_args
    from simpipe.fsck import check_root
    from simpipe.fsck.findings import ERROR, WARNING

    report = check_root(files.located(config.root), fast=options.fast)
    errors, warnings = (len(report.of(severity)) for severity in (ERROR, WARNING))
    message = f"{errors} errors and {warnings} warnings in {report.releases} releases"
    recording.note(message=message, facts={"errors": errors, "warnings": warnings, "releases": report.releases})
    if options.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        from simpipe.fsck.show import print_report

        print_report(report)
    return 0 if report.ok else ContractError.exit_code
