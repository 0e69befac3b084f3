"""`simpipe gate`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from simpipe import files, recording, releases
from simpipe.config import Config
from simpipe.errors import GateFailedError
from simpipe.verdict import Verdict


def execute(config: Config, options: argparse.Namespace, beam_args: Sequence[str]) -> int:
    """Judges a release and prints its checks; returns the exit code: 0 where all passed, else that of GateFailedError."""
    from pipelines import gate
    from pipelines.line import Line, told

    del beam_args
    root = files.located(config.root)
    if options.release is not None:
        folder, manifest = releases.find(root, options.release)
    else:
        folder, manifest = Line(config, say=lambda text: print(text, file=sys.stderr)).release()
    with gate.locked(root, manifest):
        _, manifest, verdict = gate.judged(config, root, folder, manifest, again=True)
    recording.note_release(manifest)
    recording.note_gate(verdict)
    recording.note(message=told(verdict))
    if options.json:
        print(json.dumps(verdict.to_json(), indent=2, ensure_ascii=False))
    else:
        print_verdict(verdict)
    return 0 if verdict.passed else GateFailedError.exit_code


def print_verdict(verdict: Verdict) -> None:
    """A row a check, and what it comes to."""
    from rich.markup import escape
    from rich.table import Table

    from simpipe.tables import console_of

    console = console_of()
    against = f"against {verdict.against}" if verdict.against else "on its own"
    console.print(f"[bold]release {verdict.release}[/bold] {against}", soft_wrap=True)
    table = Table()
    for column in ("gate", "state", "value", "limit", "live", "reason"):
        table.add_column(column, justify="right" if column in ("value", "limit", "live") else "left")
    for check in verdict.checks:
        cells = (check.name, check.state, *map(_cell, (check.value, check.limit, check.live)), escape(check.reason))
        table.add_row(*cells, style="bold" if not check.passed else None if check.judged else "dim")
    console.print(table)
    said = "passed: it may go live" if verdict.passed else f"FAILED: {', '.join(verdict.failed)}"
    console.print(f"[bold]{escape(said)}[/bold]", soft_wrap=True)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
