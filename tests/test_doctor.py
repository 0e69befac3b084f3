"""`simpipe doctor` and the names of search frameworks."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version

import pytest

from simpipe import doctor
from simpipe.cli import main
from simpipe.errors import ConfigError
from simpipe.search import FaissSearch, make_search

WHEEL = """Your CPU supports instructions that this binary was not compiled to use: SSE3 SSE4.1 SSE4.2 AVX AVX2
For maximum performance, you can install NMSLIB from sources
pip install --no-binary :all: nmslib
"""


def test_tells_the_slow_wheel_from_a_build_for_this_cpu():
    slow = doctor.nmslib_build("nmslib", "2.1.2", WHEEL)
    assert slow.note == "nmslib, a wheel built without SSE3 SSE4.1 SSE4.2 AVX AVX2"
    assert "--no-binary nmslib" in slow.cure
    assert slow.ok, "it works, only slower"
    fast = doctor.nmslib_build("nmslib", "2.1.2", "")
    assert "built for this CPU" in fast.note
    assert not fast.cure


def test_prints_json_without_importing_the_libraries(capsys):
    before = "tensorflow" in sys.modules
    assert main(["doctor", "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["ok"]
    found = {each["name"]: each for each in about["libraries"]}
    assert list(found) == ["python", "numpy", "tensorflow", "scann", "nmslib", "faiss", "beam"]
    assert found["scann"]["version"] == version("scann")
    assert found["nmslib"]["note"]
    assert ("tensorflow" in sys.modules) == before


def test_says_what_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "_LIBRARIES", {"faiss": ("no-such-faiss",), "beam": ("no-such-beam",)})
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["faiss", "not", "installed", "(optional)"]
    assert lines[2].strip() == "cure: pip install 'simpipe[faiss]'"
    assert lines[3].split() == ["beam", "not", "installed"]


def test_a_broken_nmslib_is_named(monkeypatch):
    monkeypatch.setattr(doctor.sys, "executable", "/bin/false")
    found = doctor._nmslib("nmslib", "2.1.2")
    assert not found.ok
    assert "cannot be imported" in found.note


def test_doctor_takes_no_beam_options(capsys):
    assert main(["doctor", "--", "--runner=X"]) == 2
    assert "takes nothing after" in capsys.readouterr().err


def test_faiss_by_its_names():
    assert make_search("faiss").model_dump()["index"] == "hnsw"
    assert make_search(FaissSearch(algo="ivf", nlist=30, nprobe=4)).model_dump(
        exclude={"exact_below", "ef_construction", "m"}
    ) == {
        "kind": "faiss",
        "index": "ivf",
        "lists": 30,
        "effort": 4,
    }
    assert make_search(FaissSearch(algo="flat")).kind == "exact"
    with pytest.raises(ConfigError, match="ivfpq"):
        FaissSearch(algo="ivfpq")
