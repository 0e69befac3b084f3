"""What `simpipe run` ends with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from report_data import record_of
from rich.console import Console

from simpipe import tables


def summary(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cutpoints: dict[str, Any], width: int) -> str:
    monkeypatch.setattr("simpipe.index.searcher.Searcher", lambda *_: SimpleNamespace(cutpoints=cutpoints))
    monkeypatch.setattr(tables, "console_of", lambda: Console(width=width, highlight=False))
    line: Any = SimpleNamespace(
        config=SimpleNamespace(name="digits"),
        release=lambda: (Path("r"), SimpleNamespace(release="R")),
        metrics=lambda: {"map_at_r": 0.51237},
    )
    tables.print_summary(line)
    return capsys.readouterr().out


def test_intervals_stand_below_values_and_fit_a_terminal(monkeypatch, capsys):
    cutpoints = record_of()["cutpoints"]
    said = summary(monkeypatch, capsys, cutpoints, 80)
    assert "0.5124" in said
    rows = [line.split("│")[1:-1] for line in said.splitlines() if line.count("│") == 6]
    cells = [[cell.strip() for cell in row] for row in rows]
    at = [row[0] for row in cells].index("optimal")
    point = cutpoints["optimal"]
    for place, key in enumerate(("distance", "precision", "recall", "f1"), 1):
        low, high = point["interval"][key]
        assert (cells[at][place], cells[at + 1][place]) == (f"{point[key]:.4f}", f"({low:.3f}-{high:.3f})")
    assert len(rows) == 2 * len(cutpoints), "no cell is broken"


def test_without_intervals_one_line_a_cutpoint(monkeypatch, capsys):
    bare = {
        name: {key: value for key, value in point.items() if key != "interval"}
        for name, point in record_of()["cutpoints"].items()
    }
    said = summary(monkeypatch, capsys, bare, 80)
    assert said.count("\n│") == 1 + len(bare)
    assert "(" not in said.split("cutpoints")[1].split("release")[0]
