"""`simpipe prune`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from simpipe import files, recording
from simpipe.config import Config
from simpipe.errors import ConfigError
from simpipe.prune import PruneReport, prune


def execute(config: Config, options: argparse.Namespace, beam_args: Sequence[str]) -> int:
    """Removes what nobody needs; returns the exit code."""
    del beam_args
    if options.keep < 0 or not options.older_than >= 0:
        raise ConfigError("--keep and --older-than: below 0", "give 0 or more")
    report = prune(files.located(config.root), keep=options.keep, older_than_days=options.older_than, dry_run=options.dry_run)
    recording.note(
        message=f"{_amount(report.files, report.bytes)} removed",
        facts={"releases": [each.release for each in report.removed], "files": report.files, "bytes": report.bytes},
    )
    if options.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        for line in _lines(report):
            print(f"prune      {line}", file=sys.stderr, flush=True)
    return 0


def _lines(report: PruneReport) -> list[str]:
    would = "would be " if report.dry_run else ""
    lines = [f"{name} kept: {', '.join(reasons)}" for name, reasons in report.kept.items()]
    for each in report.removed:
        left = f"; {each.left} files stay, referenced by {', '.join(each.needed_by)}" if each.left else ""
        lines.append(f"{each.release} {would}removed: {_amount(each.files, each.bytes)}{left}")
    lines += [f"{name} removed before; files stay, referenced by {', '.join(users)}" for name, users in report.partly.items()]
    lines += [f"{each.path} {would}removed: {each.what}, {_amount(each.files, each.bytes)}" for each in report.cleaned]
    return [*lines, *report.notes, f"{_amount(report.files, report.bytes)} {would}removed"]


def _amount(count: int, size: int) -> str:
    return f"{count:,} files, {size / 1e6:,.1f} MB"
