"""`simpipe serve` as one process, or as several on one port with a parent that starts them, and starts them again."""

from __future__ import annotations

import socket
import sys

from simpipe.config.serve import ServeConfig
from simpipe.serve.jobs import Engine, Pictures


def run(root: str, settings: ServeConfig) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
      ConfigError: the port cannot be had. SimpipeError: no release could be opened.
    """
    from simpipe.serve.run import listen

    _one(root, settings, listen(settings.host, settings.port))


def _one(root: str, settings: ServeConfig, bound: socket.socket) -> None:
    from simpipe.serve.run import serve, url_of

    engine, pictures = make_engine(root, settings)

    def ready() -> None:
        _say(f"serve      {url_of(bound)} answers from {engine.status().release}")

    serve(engine, pictures, settings, bound, ready=ready)


def make_engine(root: str, settings: ServeConfig) -> tuple[Engine, Pictures | None]:
    """What answers, not started."""
    from simpipe.serve.stand_in import InProcessEngine

    return InProcessEngine(root), None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
