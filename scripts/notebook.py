"""Runs a notebook in an empty folder and stores its outputs: python -m scripts.notebook docs/simpipe-in-15-minutes.ipynb"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

_SECONDS = 1200  # of a cell
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def run_notebook(path: Path, folder: Path, *, changes: Mapping[str, str] | None = None) -> Any:
    """A notebook with the outputs of its cells.

    Args:
      path: of the notebook. folder: it runs there.
      changes: texts of code cells that are replaced before, each of which is in one cell.

    Raises:
      CellExecutionError: a cell fails. ValueError: a text to be replaced is not in one cell.
    """
    notebook = nbformat.read(path, as_version=4)
    for text, other in (changes or {}).items():
        cells = [cell for cell in notebook.cells if cell.cell_type == "code" and text in cell.source]
        if len(cells) != 1:
            raise ValueError(f"{path}: {text!r} is in {len(cells)} cells")
        cells[0].source = cells[0].source.replace(text, other)
    client = NotebookClient(
        notebook, timeout=_SECONDS, record_timing=False, coalesce_streams=True, resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    return notebook


def tidy(notebook: Any) -> None:
    """Leaves out what differs from run to run and says nothing: colours of a terminal, the kernel's version."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "stream":
                output.text = _COLOURS.sub("", output.text)
    notebook.metadata = {name: notebook.metadata[name] for name in ("kernelspec",) if name in notebook.metadata}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebook", type=Path)
    path = parser.parse_args().notebook
    with tempfile.TemporaryDirectory() as folder:
        try:
            notebook = run_notebook(path, Path(folder))
        except CellExecutionError as error:
            raise SystemExit(str(error)) from None
    tidy(notebook)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
