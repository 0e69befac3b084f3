"""Every batch loss through `fit` under MirroredStrategy: 2 x 8 and 4 x 4 examples equal 1 x 16."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replica_runs import LABELLED, TWO_VIEWS

SCRIPT = Path(__file__).parent / "replica_runs.py"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], dict[str, Any]]:
    """What `replica_runs.py` found, by (replicas, shapes)."""
    folder = tmp_path_factory.mktemp("replicas")
    wanted = {1: ("fixed", "ragged"), 2: ("fixed",), 4: ("ragged",)}
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    processes = {}
    for replicas, shapes in wanted.items():
        with (folder / f"{replicas}.log").open("w") as log:
            command = [sys.executable, str(SCRIPT), str(folder / f"{replicas}.json"), str(replicas), *shapes]
            processes[replicas] = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    found = {}
    for replicas, process in processes.items():
        assert process.wait() == 0, (folder / f"{replicas}.log").read_text()[-3000:]
        for shapes, losses in json.loads((folder / f"{replicas}.json").read_text()).items():
            found[replicas, shapes] = losses
    return found


@pytest.mark.parametrize("name", [*LABELLED, *TWO_VIEWS])
@pytest.mark.parametrize(("replicas", "shapes"), [(2, "fixed"), (4, "ragged")])
def test_replicas_equal_one(runs: dict[tuple[int, str], dict[str, Any]], name: str, replicas: int, shapes: str) -> None:
    """The loss of each step, and afterwards the network's weights and the loss's variables (proxies, memory)."""
    one, several = runs[1, shapes][name], runs[replicas, shapes][name]
    assert len(one["loss"]) == (3 if shapes == "fixed" else 4)
    assert np.isfinite(one["weights"]).all()
    assert len(set(one["loss"])) == len(one["loss"]), "the batches differ, and so must their losses"
    np.testing.assert_allclose(several["loss"], one["loss"], rtol=1e-5)
    np.testing.assert_allclose(several["weights"], one["weights"], rtol=1e-4, atol=1e-6)


def test_every_loss_is_covered() -> None:
    from simpipe import losses

    made = {type(make()).__name__ for make in (*LABELLED.values(), *TWO_VIEWS.values())}
    concrete = {name for name in losses.__all__ if name not in ("PairLoss", "Pairs", "ProxyLoss", "ViewLoss")}
    assert {getattr(losses, name).__name__ for name in concrete} == made
