"""`simpipe runs`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from simpipe import files
from simpipe.config import Config
from simpipe.errors import ConfigError
from simpipe.run_summary import latest_runs


def execute(config: Config, options: argparse.Namespace, beam_args: Sequence[str]) -> int:
    """Lists the newest summaries of runs; returns the exit code."""
    del beam_args
    if options.last < 1:
        raise ConfigError(f"--last {options.last}: below 1", "give 1 or more")
    found = latest_runs(files.located(config.root), limit=options.last)
    if options.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print_runs(found, config.root)
    return 0


def print_runs(runs: Sequence[dict[str, Any]], root: str) -> None:
    """A row a run, newest first."""
    from rich.markup import escape
    from rich.table import Table

    from simpipe.tables import console_of

    console = console_of()
    if not runs:
        console.print(f"no runs under {escape(root)}", soft_wrap=True)
        return
    table = Table()
    for column in ("run", "verb", "outcome", "release", "items", "rejected", "seconds"):
        table.add_column(column, justify="right" if column in ("items", "rejected", "seconds") else "left", no_wrap=True)
    for run in runs:
        texts = (run["run_id"], run.get("verb", ""), run.get("outcome", run["state"]), run.get("release") or "")
        items = "" if run.get("items") is None else f"{run['items']:,}"
        seconds = "" if run.get("seconds") is None else f"{run['seconds']:,.1f}"
        style = "bold" if run["state"] in ("failed", "unreadable") else None
        table.add_row(*map(escape, texts), items, _rejected(run), seconds, style=style)
    console.print(table)


def _rejected(run: dict[str, Any]) -> str:
    """Records, over the run's jobs; nothing where it ran none, or the runner did not count."""
    found = [job["counters"]["rejected"] for job in run.get("jobs", ()) if "rejected" in job["counters"]]
    return f"{sum(found):,}" if found else ""
