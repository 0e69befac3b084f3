"""What importing costs, what the command line says, and that the wheel holds what it must."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import REPOSITORY

from simpipe.cli import main, parser

VERBS = [
    "shard",
    "train",
    "embed",
    "import",
    "build",
    "calibrate",
    "evaluate",
    "publish",
    "lookup",
    "match",
    "releases",
    "rollback",
    "run",
    "inspect",
    "plan",
    "runs",
    "serve",
    "export",
]


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_loads_neither_tensorflow_nor_beam():
    heavy = "print([m for m in ('tensorflow', 'keras', 'apache_beam') if m in sys.modules])"
    assert python(f"import sys, simpipe, simpipe.cli; {heavy}") == "[]"
    code = f"import sys, simpipe; simpipe.open_release; {heavy}"
    assert python(code) == "[]"


def test_workers_of_build_and_import_load_no_tensorflow():
    code = (
        "import sys, simpipe.beam.build, simpipe.beam.embed, simpipe.beam.query, simpipe.beam.shard, pipelines.line;"
        "print([m for m in ('tensorflow', 'keras') if m in sys.modules])"
    )
    assert python(code) == "[]"


def test_an_index_needs_no_tensorflow_and_modules_come_by_name():
    code = (
        "import sys, numpy as np, simpipe as tfsim; ix = tfsim.indexer.Indexer(2); ix.batch_add(np.eye(2), ['a', 'b']);"
        "print(ix.single_lookup(np.array([0.0, 1]), k=1)[0].label, [m for m in ('tensorflow', 'keras') if m in sys.modules])"
    )
    assert python(code) == "b []"
    names = (
        "architectures augmenters callbacks distances layers losses matchers models samplers schedules training_metrics utils "
        "visualization classification_metrics retrieval_metrics search types"
    )
    assert (
        python(f"import simpipe; print(all(getattr(simpipe, n).__name__ == 'simpipe.' + n for n in '{names}'.split()))") == "True"
    )


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert f"simpipe {verb}" in capsys.readouterr().out


def test_help_lists_every_verb():
    text = parser().format_help()
    assert all(verb in text for verb in VERBS)


def test_files_stay_small():
    long = {
        path.relative_to(REPOSITORY).as_posix(): lines
        for folder in ("simpipe", "pipelines")
        for path in (REPOSITORY / folder).rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 400
    }
    assert not long
