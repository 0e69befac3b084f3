"""`simpipe lookup` and `match` print the same from a server as from the release itself."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from client_server import DIM, OTHER, InProcess, SearcherEngine, open_both

from simpipe import client
from simpipe.cli import main
from simpipe.index import searcher as searcher_module

URL = "http://simpipe.test"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, InProcess, object]]:
    root = tmp_path_factory.mktemp("commands")
    opened = open_both(root)
    np.save(root / "x.npy", np.random.default_rng(0).normal(size=(7, DIM)).astype(np.float32))
    np.save(root / "other.npy", np.zeros((1, DIM + 1), np.float32))
    transport = InProcess(SearcherEngine(root, opened, [OTHER]), max_queries=3)
    yield root, transport, opened[OTHER]
    transport.close()


@pytest.fixture
def root(served, monkeypatch: pytest.MonkeyPatch) -> Path:
    root, transport, searcher = served
    monkeypatch.setattr(transport, "close", lambda: None)  # it serves more than one client
    monkeypatch.setattr(client, "Client", functools.partial(client.Client, transport=transport))
    monkeypatch.setattr(searcher_module, "open_release", lambda *_: searcher)  # whose calibration is in memory
    return root


def said(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code, printed = main(list(args)), capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.parametrize(
    "args",
    [
        ["lookup", "--id", "i3", "--id", "i14", "-k", "3"],
        ["lookup", "--id", "i3", "--exact", "--json"],
        ["lookup", "--vectors", "x.npy", "-k", "2"],
        ["lookup", "--vectors", "x.npy", "--json"],
        ["lookup", "--id", "i3", "--filter", '{"number": {"lt": 50}}'],
        ["lookup", "--id", "i3", "--filter", '{"label": "l3"}', "--json"],
        ["match", "--id", "i3", "--filter", '{"label": {"in": ["l1", "l3"]}}'],
        ["match", "--id", "i3", "--id", "i4"],
        ["match", "--id", "i3", "--cutpoint", "tight", "--json", "-k", "4"],
        ["match", "--vectors", "x.npy", "--matcher", "match_nearest@1"],
        ["match", "--vectors", "x.npy", "--json"],
    ],
    ids=" ".join,
)
def test_the_same_is_printed(root: Path, capsys: pytest.CaptureFixture[str], args: list[str]) -> None:
    args = [str(root / arg) if arg.endswith(".npy") else arg for arg in args]
    here = said(capsys, *args, "--root", str(root))
    assert here[0] == 0, here
    assert said(capsys, *args, "--server", URL) == here
    assert "i3" in here[1] or "row 6" in here[1]
    if "--json" in args:
        assert json.loads(here[1])["release"] == OTHER


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["lookup", "--id", "i3", "--root", "x"], 2, "--root: does not go with --server"),
        (["lookup", "--id", "i3", "--encoder", "x"], 2, "--encoder: does not go with --server"),
        (["lookup", "--id", "i3", "--set", "a.b=1"], 2, "--set: does not go with --server"),
        (["match", "--id", "i3", "--runner", "flink"], 2, "--runner: does not go with --server"),
        (["match", "--queries", "x.parquet"], 2, "--queries: does not go with --server"),
        (["match", "--id", "i3", "--", "--streaming"], 2, "takes nothing after `--`"),
        (["lookup", "--id", "i3", "--filter", "{"], 1, "filter: no JSON"),
        (["lookup", "--id", "i3", "--filter", "[1]"], 1, "filter"),
        (["lookup", "--id", "i3", "--filter", '{"colour": 1}'], 1, "colour"),
        (["lookup", "--id", "nobody"], 1, "id 'nobody' is not in release"),
        (["lookup", "--id", "i3", "--release", "nope"], 1, "'nope'"),
        (["match", "--id", "i3", "--cutpoint", "loose"], 1, "there are: optimal, tight"),
        (["lookup", "--vectors", "other.npy"], 1, f"queries have dim {DIM + 1}"),
        (["lookup", "--vectors", "missing.npy"], 1, "NumPy cannot read it"),
    ],
)
def test_what_is_refused(root: Path, capsys: pytest.CaptureFixture[str], args: list[str], code: int, says: str) -> None:
    args = [str(root / arg) if arg.endswith(".npy") else arg for arg in args]
    cut = args.index("--") if "--" in args else len(args)
    found = said(capsys, *args[:cut], "--server", URL, *args[cut:])
    assert found[:2] == (code, "")
    assert says in found[2]
    assert "cure: " in found[2]
