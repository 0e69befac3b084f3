"""A `simpipe serve` of its own process group, for benchmarks, and what its processes take."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.child import resident, say

_WAIT = 300.0  # seconds until it must answer


@dataclass(frozen=True)
class Served:
    """A server that answers. `pid`: of its first process."""

    port: int
    pid: int

    def memory(self) -> tuple[float, float]:
        """Resident MiB of all its processes, with and without pages of files."""
        return resident(self.pid)


@contextlib.contextmanager
def serving(root: Path, settings: Sequence[str] = (), *, log: Path | None = None) -> Iterator[Served]:
    """Starts a server on any free port, and ends it.

    Args:
      root: of the releases. settings: `KEY=VALUE` of `serve`. log: where its stderr goes; None: nowhere.
    """
    command = [sys.executable, "-m", "simpipe.cli", "serve", str(root), "--port", "0"]
    command += [word for setting in settings for word in ("--set", f"serve.{setting}")]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        cwd=Path(__file__).parent.parent,
    )
    found: list[int] = []
    ready = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        with contextlib.ExitStack() as stack:
            sink = stack.enter_context(log.open("w")) if log is not None else None
            for line in process.stderr:
                if sink is not None:
                    sink.write(line)
                    sink.flush()
                if not found and (at := re.search(r"http://[^\s:/]+:(\d+)", line)):
                    found.append(int(at[1]))
                    ready.set()
        ready.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        if not ready.wait(_WAIT) or not found:
            raise SystemExit(f"{' '.join(command)}: does not answer")
        yield Served(found[0], process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            say("the server does not end; killed")
        with contextlib.suppress(ProcessLookupError):  # all of its group has ended, as it should
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(0.2)
