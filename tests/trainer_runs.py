"""Small runs of the trainer on digits, shared by its tests; also a program that trains, and kills itself on the way.

    python tests/trainer_runs.py CONFIG.json EXAMPLES FOLDER KILL_AFTER REPLICAS

KILL_AFTER: in how many steps SIGKILL ends the process; 0 for never. REPLICAS: logical CPU devices to train on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from make_examples import make_examples
from sklearn.datasets import load_digits

from simpipe import files
from simpipe.config import Config, parse_config
from simpipe.training.encoder import EncoderInfo

SMALL: dict[str, Any] = {
    "encoder": {"filters": 8, "dim": 8},
    "sampler": {"classes_per_batch": 4, "examples_per_class": 4},
    "augment": {"rotate": 10},
    "epochs": 3,
    "steps_per_epoch": 8,
}


def config_of(seed: int = 42, **train_settings: Any) -> Config:
    raw = {"name": "digits", "root": "unused", "seed": seed, "source": "digits", "train": {**SMALL, **train_settings}}
    return parse_config(raw)


def digits() -> tuple[np.ndarray, np.ndarray]:
    data: Any = load_digits()
    return np.round(data.images * 255 / 16).astype(np.uint8)[..., None], data.target


def write_examples(folder: Path) -> Path:
    """All ten classes train, in three shards."""
    make_examples(folder, *digits(), num_shards=3)
    return folder


def train_here(config: Config, examples: Path, folder: Path) -> EncoderInfo:
    from simpipe.training.trainer import train

    return train(config, examples=examples, folder=folder, key="k")


def train_apart(config: Config, examples: Path, folder: Path, *, kill_after: int = 0, replicas: int = 1) -> None:
    """Trains in a process of its own, which must end as asked."""
    path = folder.with_name(f"{folder.name}.json")
    path.write_text(config.model_dump_json())
    done = subprocess.run(
        [sys.executable, __file__, str(path), str(examples), str(folder), str(kill_after), str(replicas)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (-signal.SIGKILL if kill_after else 0), done.stderr[-3000:]


def losses_of(folder: Path) -> np.ndarray:
    return np.load(folder / "losses.npy", allow_pickle=False)


def record_of(folder: Path) -> dict[str, Any]:
    return files.read_json(folder / "train.json")


def stop_after(steps: int, monkeypatch: Any) -> None:
    """Interrupts the run at the beginning of the step after `steps` more ones."""
    from simpipe.training.task import Task

    step, left = Task.step, [steps]

    def step_or_stop(self: Any, batches: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return step(self, batches)

    monkeypatch.setattr(Task, "step", step_or_stop)


def kill_in(steps: int) -> None:
    """Arms a kill at the beginning of the step after `steps` more ones."""
    from simpipe.training.task import Task

    step, left = Task.step, [steps]

    def step_or_die(self: Any, batches: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, batches)

    Task.step = step_or_die


def main() -> None:
    config, examples, folder, kill_after, replicas = sys.argv[1:]
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * int(replicas))
    if int(kill_after):
        kill_in(int(kill_after))
    train_here(parse_config(files.read_json(Path(config))), Path(examples), Path(folder))


if __name__ == "__main__":
    main()
