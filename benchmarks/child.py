"""Runs a command and measures what it and its children took: CPU seconds and peak memory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_EVERY_S = 0.05


@dataclass(frozen=True)
class Usage:
    """What a command took.

    Attributes:
      cpu_s: user and system time of the process and of its children that ended.
      wall_s: from start to end.
      peak_mib: largest resident memory, summed over the processes of the tree (sampled), or the largest process's high-water
        mark, whichever is more. Pages of memory-mapped files are in it.
      private_mib: the same without pages of files; sampled only.
    """

    cpu_s: float
    wall_s: float
    peak_mib: float
    private_mib: float

    def to_json(self) -> dict[str, float]:
        return {name: round(value, 2) for name, value in vars(self).items()}


class _Watch(threading.Thread):
    """Samples the memory of a process and its descendants."""

    def __init__(self, pid: int, *, high_water: bool = True) -> None:
        """`high_water`: count the process's own high-water mark as well; it never falls."""
        super().__init__(daemon=True)
        self._pid = pid
        self._high_water = high_water
        self._end = threading.Event()
        self.peak = self.private = 0

    def run(self) -> None:
        while not self._end.wait(_EVERY_S):
            pages = [_pages(pid) for pid in _tree(self._pid)]
            marked = _high_water(self._pid) if self._high_water else 0
            self.peak = max(self.peak, sum(resident for resident, _ in pages) * _PAGE, marked)
            self.private = max(self.private, sum(resident - shared for resident, shared in pages) * _PAGE)

    def stop(self) -> None:
        self._end.set()
        self.join()


def _tree(pid: int) -> list[int]:
    found = [pid]
    try:
        for path in Path(f"/proc/{pid}/task").iterdir():
            for child in (path / "children").read_text().split():
                found += _tree(int(child))
    except OSError:  # it ended meanwhile
        pass
    return found


def _pages(pid: int) -> tuple[int, int]:
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
        return int(resident), int(shared)
    except (OSError, ValueError):
        return 0, 0


def resident(pid: int) -> tuple[float, float]:
    """Resident MiB of a process and its descendants, with and without pages of files."""
    pages = [_pages(each) for each in _tree(pid)]
    return sum(all_ for all_, _ in pages) * _PAGE / 2**20, sum(all_ - shared for all_, shared in pages) * _PAGE / 2**20


def _high_water(pid: int) -> int:
    """Bytes. (What `wait4` tells starts with the memory of the process that forked.)"""
    try:
        line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        return 0


def run_child(command: list[str], *, echo: bool = True) -> tuple[Usage, str]:
    """Runs a command to its end.

    Args:
      command: program and arguments. echo: pass its stderr on, else keep it for the error.

    Returns:
      What it took, and its stdout.

    Raises:
      SystemExit: it failed.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=None if echo else subprocess.STDOUT, text=True, cwd=Path(__file__).parent.parent
    )
    watch = _Watch(process.pid)
    watch.start()
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, took = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    watch.stop()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        print(said, file=sys.stderr)
        raise SystemExit(f"{' '.join(command)}: ended with {process.returncode}")
    return Usage(took.ru_utime + took.ru_stime, wall, watch.peak / 2**20, watch.private / 2**20), said


def run_steps(command: list[str]) -> tuple[Usage, dict[str, Usage]]:
    """Runs a `simpipe` command of several steps, and measures each by the lines `STEP done in ...` on its stderr.

    Returns:
      What the whole process took, and what each step took (from the end of the step before it; the first from the start).

    Raises:
      SystemExit: it failed.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=Path(__file__).parent.parent
    )
    watch = _Watch(process.pid, high_water=False)
    watch.start()
    assert process.stderr is not None
    steps: dict[str, Usage] = {}
    peak = private = cpu = 0.0
    wall = began
    for line in process.stderr:
        say(line.rstrip())
        name, _, told = line.partition(" ")
        if told.lstrip().startswith("done in"):
            so_far, now = _cpu(process.pid), time.perf_counter()
            steps[name] = Usage(so_far - cpu, now - wall, watch.peak / 2**20, watch.private / 2**20)
            cpu, wall = so_far, now
            peak, private = max(peak, watch.peak), max(private, watch.private)
            watch.peak = watch.private = 0
    _, status, took = os.wait4(process.pid, 0)
    watch.stop()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: ended with {process.returncode}")
    peak, private = max(peak, watch.peak), max(private, watch.private)
    whole = Usage(took.ru_utime + took.ru_stime, time.perf_counter() - began, peak / 2**20, private / 2**20)
    return whole, steps


def _cpu(pid: int) -> float:
    """CPU seconds of a tree of processes so far, children that ended included."""
    total = 0
    for each in _tree(pid):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        total += sum(map(int, fields[11:15]))
    return total / os.sysconf("SC_CLK_TCK")


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)
