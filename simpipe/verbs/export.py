"""`simpipe export`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from simpipe import recording
from simpipe.config import Config
from simpipe.exports.contract import ExportInfo


def execute(config: Config, options: argparse.Namespace, beam_args: Sequence[str]) -> int:
    """Exports a release of the configuration's root; returns the exit code."""
    return export_root(config.root, config, options, beam_args)


def export_root(root: str, config: Config | None, options: argparse.Namespace, beam_args: Sequence[str]) -> int:
    """Exports a release of a root, or the release whose folder it is; returns the exit code.

    Raises:
      SimpipeError: see `pipelines.export.run`.
    """
    from pipelines import export

    folder, info = export.run(root, options.out, options.to, release=options.release, config=config, beam_args=beam_args)
    size = sum(file.size for file in info.files)
    said = f"{info.items:,} items of {info.release} for {info.kind}: {len(info.files):,} files, {size / 1e6:,.1f} MB in {folder}"
    recording.note(
        release=info.release,
        items=info.items,
        message=said,
        facts={"to": info.kind, "out": str(folder), "files": len(info.files), "bytes": size},
    )
    if options.json:
        print(json.dumps({"out": str(folder), **info.model_dump(mode="json")}, indent=2, ensure_ascii=False))
    for line in _lines(said, folder, info):
        print(f"export     {line}", file=sys.stderr, flush=True)
    return 0


def _lines(said: str, folder: Path, info: ExportInfo) -> list[str]:
    left_out = [f"column {name} is left out: {why}" for name, why in info.left_out.items()]
    return [said, *left_out, *info.notes, f"how to read it: {folder / 'export.json'}"]
