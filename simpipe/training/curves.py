"""Curves for TensorBoard that a killed and continued run draws once.

Each backup closes one event file, named by the step it goes up to and put in place as a whole. A run that goes on from
an earlier step first deletes the files beyond it, then writes the same ones again.
"""

from __future__ import annotations

import time
from pathlib import Path

import tensorflow as tf

from simpipe import files

_NAME = "events.out.tfevents.{:012d}.simpipe"
_VERSION = "brain.Event:2"


class Curves:
    """Scalars in event files under `folder`.

    Args:
      folder: where to.
      step: the run goes on after this step; what lies beyond is deleted.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        self._folder = folder
        self._events: list[tf.compat.v1.Event] = []
        for path in folder.glob("events.out.tfevents.*"):
            if int(path.name.split(".")[3]) > step:
                path.unlink()

    def add(self, step: int, values: dict[str, float]) -> None:
        """Values after `step` steps, by curve."""
        summary = tf.compat.v1.Summary(value=[tf.compat.v1.Summary.Value(tag=tag, simple_value=v) for tag, v in values.items()])
        self._events.append(tf.compat.v1.Event(wall_time=time.time(), step=step, summary=summary))

    def close(self, step: int) -> None:
        """Puts what was added since into one file; it goes up to `step`."""
        if not self._events:
            return
        path = self._folder / _NAME.format(step)
        with files.replacing(path) as temporary, tf.io.TFRecordWriter(str(temporary)) as writer:
            first = tf.compat.v1.Event(wall_time=self._events[0].wall_time, file_version=_VERSION)
            for event in (first, *self._events):
                writer.write(event.SerializeToString())
        self._events.clear()
