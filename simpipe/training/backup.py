"""The state of a training run after its last finished epoch, in one file that is replaced as a whole."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import keras
import numpy as np

from simpipe import files

_FILE = "state.npz"


class Backup:
    """Weights, optimizer state and history of a run in `folder`.

    Args:
      folder: where to; removed by `remove`.
      run: digest of everything that determines the run; a state of another run is ignored.
    """

    def __init__(self, folder: Path, *, run: str) -> None:
        self._folder, self._run = folder, run

    def save(self, model: keras.Model, *, epoch: int, losses: list[float]) -> None:
        """Writes the state after `epoch` finished epochs."""
        arrays = {f"v{place:05d}": np.asarray(variable) for place, variable in enumerate(_variables(model))}
        meta = json.dumps({"run": self._run, "epoch": epoch, "losses": losses})
        with files.replacing(self._folder / _FILE) as temporary, open(temporary, "wb") as handle:
            np.savez(handle, meta=np.array(meta), **arrays)  # type: ignore[arg-type]

    def restore(self, model: keras.Model) -> tuple[int, list[float]]:
        """Loads the state into `model`, optimizer included.

        Returns:
          The number of finished epochs and their losses; (0, []) where there is no state of this run.
        """
        try:
            with np.load(self._folder / _FILE, allow_pickle=False) as state:
                meta = json.loads(str(state["meta"]))
                if meta["run"] != self._run:
                    return 0, []
                arrays = [state[f"v{place:05d}"] for place in range(len(state.files) - 1)]
        except (FileNotFoundError, zipfile.BadZipFile, KeyError, ValueError, EOFError):
            return 0, []  # none, or damaged: training begins anew
        for variable, array in zip(_variables(model), arrays, strict=True):
            variable.assign(array)
        return meta["epoch"], meta["losses"]

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _variables(model: keras.Model) -> list[keras.Variable]:
    return [*model.variables, *model.optimizer.variables]
