"""The state of a training run after some step, in one file that is replaced as a whole."""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from simpipe import files

_LOG = logging.getLogger(__name__)
_FILE = "state.npz"


@dataclass
class RunState:
    """What a run has come to, besides the variables of its model, optimizer, loss and average.

    Attributes:
      losses: one a step; their number is the number of finished steps.
      measured: held-out metrics in order, each with its `epoch` and `step`.
      best: the encoder's weights at the best of those; empty before the first.
      neighbors: (first step, int32[class names, m]) of the hard classes that the sampler still needs.
      sessions: one for each start of the run, see `simpipe.training.record`.
    """

    losses: list[float] = field(default_factory=list)
    measured: list[dict[str, float]] = field(default_factory=list)
    best: list[np.ndarray] = field(default_factory=list)
    neighbors: list[tuple[int, np.ndarray]] = field(default_factory=list)
    sessions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def step(self) -> int:
        return len(self.losses)


class Backup:
    """A run's variables and `RunState` in `folder`.

    Args:
      folder: where to; removed by `remove`.
      run: digest of everything that determines the run; a state of another run is ignored.
    """

    def __init__(self, folder: Path, *, run: str) -> None:
        self._folder, self._run = folder, run

    def save(self, variables: Sequence[Any], state: RunState) -> None:
        """Writes the state; a kill at any time leaves the last one or this one."""
        arrays = {f"v{place:05d}": np.asarray(variable) for place, variable in enumerate(variables)}
        arrays |= {f"b{place:05d}": array for place, array in enumerate(state.best)}
        arrays |= {f"n{place:05d}": array for place, (_, array) in enumerate(state.neighbors)}
        about = {
            "run": self._run,
            "variables": len(variables),
            "best": len(state.best),
            "neighbors": [step for step, _ in state.neighbors],
            "measured": state.measured,
            "sessions": state.sessions,
        }
        with files.replacing(self._folder / _FILE) as temporary, open(temporary, "wb") as handle:
            losses = np.array(state.losses, np.float64)
            np.savez(handle, about=np.array(json.dumps(about)), losses=losses, **arrays)  # type: ignore[arg-type]

    def restore(self, variables: Sequence[Any]) -> RunState:
        """Loads the variables, and returns the rest; an empty state where there is none of this run."""
        try:
            with np.load(self._folder / _FILE, allow_pickle=False) as found:
                about = json.loads(str(found["about"]))
                if about["run"] != self._run or about["variables"] != len(variables):
                    _LOG.warning("%s: the backup is of another run: training begins anew", self._folder)
                    return RunState()
                arrays = [found[f"v{place:05d}"] for place in range(len(variables))]
                state = RunState(
                    losses=found["losses"].tolist(),
                    measured=about["measured"],
                    best=[found[f"b{place:05d}"] for place in range(about["best"])],
                    neighbors=[(step, found[f"n{place:05d}"]) for place, step in enumerate(about["neighbors"])],
                    sessions=about["sessions"],
                )
        except FileNotFoundError:
            return RunState()
        except (zipfile.BadZipFile, KeyError, ValueError, EOFError, OSError):
            _LOG.warning("%s: the backup is damaged: training begins anew", self._folder)
            return RunState()
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)
        return state

    def remove(self) -> None:
        files.remove_folder(self._folder)
