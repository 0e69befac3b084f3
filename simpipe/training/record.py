"""`train.json` and `losses.npy` beside an encoder: what a run was, and everything needed to repeat it.

`parse_config(record["config"])` with the same examples gives the same encoder on the same kind of machine.
"""

from __future__ import annotations

import platform
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from simpipe import files
from simpipe.code import code_version
from simpipe.config import Config
from simpipe.data.examples import DatasetInfo
from simpipe.training.backup import RunState
from simpipe.training.encoder import EncoderInfo

TRAIN_JSON = "train.json"
LOSSES_NPY = "losses.npy"
FORMAT_VERSION = 1


def training_facts(config: Config, *, replicas: int, start: EncoderInfo | None) -> dict[str, Any]:
    """What determines the weights besides the examples: configuration, seed, replicas, library versions."""
    return {
        **config.train.model_dump(mode="json"),
        "start_fingerprint": None if start is None else start.fingerprint,
        "seed": config.seed,
        "replicas": replicas,
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__},
    }


def session(step: int, devices: list[str]) -> dict[str, Any]:
    """One start of a run: where it went on from, on which devices; `seconds` grows as it runs."""
    return {
        "from_step": step,
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "devices": devices,
        "replicas": len(devices),
        "command": sys.argv,
        "seconds": 0.0,
    }


def examples_digest(info: DatasetInfo) -> str:
    """One digest over the checksums of the train shards, in order."""
    return files.digest([shard.sha256 for shard in info.splits["train"].shards])


def write_record(
    folder: Path,
    *,
    config: Config,
    key: str,
    info: DatasetInfo,
    facts: dict[str, Any],
    state: RunState,
    history: dict[str, list[float]],
    held_out: tuple[str, ...],
    best: int | None,
    stopped: bool,
    sampler: dict[str, Any],
    fingerprint: str,
) -> None:
    """Writes both files.

    Args:
      folder: of the encoder.
      config, key: of the run.
      info: of the examples.
      facts: see `training_facts`.
      state: at the end.
      history: by epoch.
      held_out: names of the classes measured.
      best: place in `state.measured` of the weights that were kept; None for the last ones.
      stopped: whether the run ended early.
      sampler: its `summary()`; of the last session.
      fingerprint: of the encoder.
    """
    path = folder / LOSSES_NPY
    with files.replacing(path) as temporary, open(temporary, "wb") as handle:
        np.save(handle, np.array(state.losses, np.float64))
    record = {
        "format_version": FORMAT_VERSION,
        "key": key,
        "fingerprint": fingerprint,
        "config": config.model_dump(mode="json"),
        "seed": config.seed,
        "start_fingerprint": facts["start_fingerprint"],
        "examples": {"key": info.key, "train_shards": examples_digest(info), "shards": info.num_shards},
        "code": code_version("train"),
        "versions": {"python": platform.python_version(), **facts["versions"]},
        "machine": {"system": platform.platform(), "processor": platform.machine(), "devices": _devices()},
        "op_determinism": True,
        "steps": state.step,
        "history": history,
        "losses": {"file": LOSSES_NPY, "sha256": files.sha256_file(path)},
        "held_out": {"classes": held_out, "measured": state.measured, "best": best, "stopped_early": stopped},
        "sampler": sampler,
        "sessions": state.sessions,
        "resumes": len(state.sessions) - 1,
        "seconds": round(sum(one["seconds"] for one in state.sessions), 3),
    }
    files.write_json(folder / TRAIN_JSON, record)


def _devices() -> list[str]:
    return [
        tf.config.experimental.get_device_details(device).get("device_name", device.name)
        for device in tf.config.list_physical_devices()
    ]
