"""The notebook runs from beginning to end, shows what it says, and is stored with what it showed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import REPOSITORY

from scripts.notebook import run_notebook, tidy

NOTEBOOK = REPOSITORY / "docs" / "simpipe-in-15-minutes.ipynb"
LESS = {"EPOCHS, STEPS = 6, 100": "EPOCHS, STEPS = 1, 40"}
MACHINE = re.compile(r"/(?:work|tmp|root|home|usr|opt)/|\.venv|site-packages|Traceback")


def texts_of(notebook: Any) -> dict[str, str]:
    """What cells printed or showed, by their tag."""
    found = {}
    for cell in notebook.cells:
        for tag in cell.metadata.get("tags", ()):
            shown = [output.get("text") or output.data.get("text/plain", "") for output in cell.outputs]
            found[tag] = "\n".join(shown)
    return found


def pictures_in(notebook: Any) -> int:
    return sum("image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", ()))


def check(notebook: Any, *, precision: float) -> None:
    said = texts_of(notebook)
    assert "publish" in said["run"]
    assert float(re.findall(r"label_precision_at_1\s+│\s+([\d.]+)", said["run"])[0]) >= precision
    assert {"optimal", "precision>=0.99", "recall>=0.95"} <= set(re.findall(r"│ (\S+)\s+│\s+0\.\d+ │", said["run"]))
    assert re.search(r"query digit-0004 \(label 4\)", said["match"])
    assert re.search(r"(match: \d|no match)  \(distance 0\.\d+ (<=|>) cutpoint optimal", said["match"])
    own, noise = said["noise"].strip().splitlines()
    assert own.startswith("label 3: distance 0.000")
    assert noise.startswith("label None")
    assert re.search(r"matching=\d+", said["filter"])
    assert said["filter"].count("digit-0003") == 5, "five neighbors, although few items fit"
    assert "answers from the live release" in said["serve"]
    assert "the same ids: True  the same distances: True" in said["serve"]
    assert re.search(r"label (3|None): distance", said["image"])
    assert "82 items added, 0 changed, 8 deleted" in said["reindex"]
    live = re.findall(r"(\S+) is live \(before: (\S+)\)", said["reindex"] + said["rollback"])
    assert live[0] == live[1][::-1], "the rollback goes back to what was live"
    assert re.search(rf"the server answers from {live[0][0]}: 1,448 items, before 1,374", said["swap"])
    assert "answers from the release before: True" in said["back"]
    assert pictures_in(notebook) == 3


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    notebook = run_notebook(NOTEBOOK, tmp_path, changes=LESS)
    tidy(notebook)
    check(notebook, precision=0.9)
    assert {path.name for path in tmp_path.iterdir()} <= {"digits.parquet", "digits.yaml", "runs"}


def test_it_is_stored_with_what_it_showed() -> None:
    text = NOTEBOOK.read_text()
    stored = nbformat.reads(text, as_version=4)
    nbformat.validate(stored)
    assert not MACHINE.search(text)
    cells = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    check(stored, precision=0.97)
    for link in re.findall(r"\]\(([^)#]+)\)", "".join(cell.source for cell in stored.cells if cell.cell_type == "markdown")):
        assert (NOTEBOOK.parent / link).exists(), link
