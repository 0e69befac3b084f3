"""Translates every job of a configuration as a submission would, and checks it: no data, no network, nothing is written.

simpipe run --config configs/dataflow.yaml --runner dataflow --dry-run
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from pipelines.dry_plans import DryPlans
from simpipe.beam.drive import Drive
from simpipe.beam.translate import Translation, translate, workers_told
from simpipe.config import Config
from simpipe.config.runner import DataflowRunner, LocalRunner
from simpipe.errors import ContractError, SimpipeError
from simpipe.job import Job, job_of


def execute(config: Config, *, items: int, beam_args: Sequence[str] = ()) -> int:
    """`simpipe run --dry-run`: prints a table of all jobs; returns the exit code.

    Raises:
      SimpipeError: lists everything that is wrong.
    """
    from simpipe.tables import console_of

    found = run(config, items=items, beam_args=beam_args)
    problems = check(found)
    table = Table(title=f"{config.name}: jobs for {items:,} items on {config.runner.kind}", title_justify="left")
    for column in ("job", "workers of", "transforms", "stages", "graph, bytes", "largest element", "worker"):
        table.add_column(column, justify="left" if column in ("job", "workers of", "worker") else "right")
    for each in found:
        worker = workers_told(config.runner.workers_of(each.job.verb)) if isinstance(config.runner, DataflowRunner) else ""
        counts = (each.transforms, each.stages, each.size, each.element)
        table.add_row(each.title, each.job.verb, *(f"{count:,}" for count in counts), worker)
    console_of().print(table)
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        cure = "fewer or smaller parts (shard.num_shards, build.router.partitions, build.store_files); or report it"
        raise SimpipeError(f"dry run: {len(problems)} problem{'s' * (len(problems) > 1)}\n{lines}", cure)
    print(f"dry run    {len(found)} jobs translated, all that workers open was opened: nothing is wrong", file=sys.stderr)
    return 0


def run(config: Config, *, items: int, beam_args: Sequence[str] = ()) -> list[Translation]:
    """Translates the jobs of all verbs.

    Args:
      config: says where jobs run; where that is Dataflow, what the service would get is checked as well.
      items: that the plans are made up for. beam_args: Beam's own options.

    Returns:
      The jobs; what is wrong with each is in its `problems`.

    Raises:
      ConfigError: Beam refuses a graph.
    """
    found = [translate(job.title, job.graph, job_of(config, job.verb, beam_args)) for job in DryPlans(config, items).jobs()]
    command = ("reindex", "--config", "gs://bucket/config.yaml", "--runner", "dataflow")
    driver = Job("reindex", "simpipe-template", LocalRunner(kind="local"))
    return [*found, translate("template", lambda pipeline: pipeline | "Drive" >> Drive(command), driver)]


def check(translations: Sequence[Translation]) -> list[str]:
    """Everything that is wrong with jobs, also with what workers would open of them.

    Graphs are opened by a process that can import installed packages only.

    Raises:
      ContractError: that process failed.
    """
    with tempfile.TemporaryDirectory(prefix="simpipe-dry-run-") as folder:
        save(translations, Path(folder))
        # Nothing but what is installed is to be found: neither this folder nor PYTHONPATH.
        asked = [sys.executable, "-I", "-m", "simpipe.beam.unpickle", folder]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        done = subprocess.run(asked, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ContractError(f"graphs cannot be opened outside of this process: {last}", "install simpipe: pip install -e .")
    told = json.loads(done.stdout)
    missed = [each.title for each in translations if not told["opened"].get(_name(each))]
    return [
        *(problem for each in translations for problem in each.problems),
        *told["problems"],
        *(f"{title}: nothing of it was opened" for title in missed),
    ]


def save(translations: Sequence[Translation], folder: Path) -> None:
    """Writes each graph as `NAME.pb`, and what Dataflow's service would get as `NAME.json`."""
    for each in translations:
        (folder / f"{_name(each)}.pb").write_bytes(each.graph.SerializeToString())
        if each.request is not None:
            (folder / f"{_name(each)}.json").write_text(json.dumps(each.request, indent=2))


def _name(translation: Translation) -> str:
    return translation.title.replace(": ", "-").replace(" ", "-")
