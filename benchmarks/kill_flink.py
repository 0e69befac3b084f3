"""Kills a task manager of a Flink cluster with SIGKILL in mid-build, and checks that the release is what it is without.

    python -m benchmarks.kill_flink [--n 200000] [--kills 3]

Starts a cluster of its own from what `python -m scripts.flink start` made (other ports, so that one that runs is left alone).
Ready-made vectors are built once undisturbed; then, for each kill, anew in an empty release: when the first partition is there, a
task manager is killed, with its SDK workers or without them. Flink starts the job again on the other task manager; should the job
fail all the same, `simpipe build` is run again. Router, rows, vectors and store must be the same bytes. Prints a line a kill;
exit status 1 where a release differs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import vectors
from benchmarks.child import run_child, say
from benchmarks.engines import CACHE
from benchmarks.releases import workplace
from scripts.flink import Cluster
from scripts.flink_home import RELEASES
from scripts.job_server import ABOUT, JAR, find_job_server
from simpipe.manifest import Manifest

_SAME = ("router.npz", "partitions/", "store/")  # the rest of a release holds times
_GRAPH = "nmslib.hnsw"  # built by several threads: no two builds give the same bytes
_PORTS = {"rest_port": 18081, "job_port": 18099}


def missing(made: Path) -> str | None:
    """Why no cluster can be started from a folder, or None."""
    about = find_job_server(made)
    if not shutil.which("java") or about is None or not (made / f"flink-{RELEASES[about.engine]}").exists():
        return f"no Flink in {made}: `python -m scripts.flink start` makes it"
    return None


@contextmanager
def cluster_of(made: Path, folder: Path) -> Iterator[Cluster]:
    """A cluster of two task managers that runs in `folder`, from what was made in another; ended on leaving."""
    folder.mkdir(parents=True, exist_ok=True)
    about = find_job_server(made)
    assert about is not None
    for name in (ABOUT, JAR, f"flink-{RELEASES[about.engine]}"):
        (folder / name).symlink_to((made / name).resolve())
    cluster = Cluster(folder, **_PORTS)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def section(cluster: Cluster) -> dict[str, Any]:
    """The `runner` of a configuration that runs on a cluster."""
    return {
        "kind": "flink",
        "job_server": f"localhost:{cluster.job_port}",
        "environment": "process",
        "command": str(cluster.run / "sdk-worker"),
        "parallelism": cluster.task_managers,
        "options": ["--sdk_worker_parallelism=2"],
    }


def content(root: Path) -> dict[str, str]:
    """Digests of what must be equal in the one release under a root."""
    (path,) = root.glob("releases/*/manifest.json")
    files = [entry for entry in Manifest.load(path.parent).files if not entry.path.endswith(_GRAPH)]
    return {entry.path: entry.sha256 for entry in files if entry.path.startswith(_SAME)}


def build_with_kill(cluster: Cluster, config: Path, root: Path, *, workers_too: bool) -> dict[str, Any]:
    """Runs `build`, and kills the first task manager once a partition is there; runs it again should it fail.

    Args:
      workers_too: kill its SDK workers at the same moment, as where a machine is lost; else they find out by themselves.

    Returns:
      Partitions `built_before` the kill, runs of the command (`attempts`), why Flink `restarted` the job, and `seconds`.

    Raises:
      SystemExit: the build ended before the kill, or fails twice.
    """
    started = time.monotonic()
    command = [sys.executable, "-m", "simpipe.cli", "build", "--config", str(config)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not (built := len(list(root.glob("releases/*/partitions/[0-9]*")))):
        if child.poll() is not None:
            raise SystemExit(f"the build ended before the kill: {child.communicate()[0][-500:]}")
        time.sleep(0.02)
    victim = next(process for process in cluster.processes() if process.name == "taskmanager-1")
    (os.killpg if workers_too else os.kill)(victim.pid, signal.SIGKILL)
    said, _ = child.communicate()
    attempts = 1
    if child.returncode:
        say(f"the job did not recover: {said[-300:]}")
        attempts = 2
        run_child(command, echo=False)
    job = max(cluster.ask("jobs/overview")["jobs"], key=lambda job: job["start-time"])
    history = cluster.ask(f"jobs/{job['jid']}/exceptions")["exceptionHistory"]["entries"]
    return {
        "built_before": built,
        "attempts": attempts,
        "restarted": [entry["exceptionName"] for entry in history],
        "seconds": round(time.monotonic() - started, 1),
    }


def configure(folder: Path, root: Path, n: int, runner: dict[str, Any]) -> Path:
    """A configuration over `n` ready-made vectors."""
    if not (folder / "x.npy").exists():
        np.save(folder / "x.npy", vectors.load("medium", n, 0)[0])
    path = folder / f"{root.name}.yaml"
    config = {
        "name": "kill",
        "root": str(root),
        "runner": runner,
        "source": {"kind": "vectors", "path": str(folder / "x.npy")},
        "build": {"router": {"kind": "kmeans", "partitions": 16}, "backend": {"kind": "nmslib"}},
    }
    path.write_text(yaml.safe_dump(config))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200_000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--flink", type=Path, default=CACHE / "flink", help="folder of scripts.flink (default: %(default)s)")
    parser.add_argument("--scratch")
    options = parser.parse_args()
    why = missing(options.flink)
    if why:
        raise SystemExit(why)
    failed = False
    with workplace(options.scratch) as folder, cluster_of(options.flink, folder / "flink") as cluster:
        whole = folder / "whole"
        config = configure(folder, whole, options.n, section(cluster))
        for verb in ("import", "build"):
            run_child([sys.executable, "-m", "simpipe.cli", verb, "--config", str(config)], echo=False)
        for number in range(options.kills):
            root = folder / f"kill-{number}"
            shutil.copytree(whole / "embeddings", root / "embeddings")
            config = configure(folder, root, options.n, section(cluster))
            found = build_with_kill(cluster, config, root, workers_too=number % 2 == 0)
            differ = sorted({path for path, _ in content(root).items() ^ content(whole).items()})
            failed |= bool(differ)
            print(json.dumps({"kill": number, "workers_too": number % 2 == 0, **found, "differs": differ}), flush=True)
            cluster.start()  # brings the task manager back
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
