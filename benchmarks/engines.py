"""The Beam runners that this machine has, as `runner` sections of a configuration: for the benchmarks that compare them."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

CACHE = Path.home() / ".cache" / "simpipe"
NAMES = ("local", "processes", "prism", "flink", "spark")


def add_arguments(parser: argparse.ArgumentParser, *, only: str) -> None:
    """Options by which runners are picked and found."""
    parser.add_argument("--only", default=only, help=f"of {','.join(NAMES)} (default: %(default)s)")
    parser.add_argument("--prism", default=os.environ.get("SIMPIPE_PRISM", "prism"), help="binary (default: %(default)s)")
    parser.add_argument("--flink", type=Path, default=CACHE / "flink", help="folder of scripts.flink (default: %(default)s)")
    parser.add_argument("--job-port", type=int, default=8099, help="of the Flink cluster's job server (default: %(default)s)")
    parser.add_argument("--spark", type=Path, default=CACHE / "spark", help="folder of scripts.job_server (default: %(default)s)")


def chosen(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Runner sections by name, in the order asked for.

    Raises:
      SystemExit: one is not there; says how it is made.
    """
    return {name: _section(name, options) for name in options.only.split(",")}


def about(name: str, options: argparse.Namespace) -> str:
    """Which version of a runner's own program it is."""
    if name in ("flink", "spark"):
        made = json.loads((getattr(options, name) / "job-server.json").read_text())
        return f"{made['engine']} with Beam {made['beam']}'s job server ({made['made']})"
    return "Beam's Python SDK" if name != "prism" else "Prism"


def _section(name: str, options: argparse.Namespace) -> dict[str, Any]:
    if name == "local":
        return {"kind": "local"}
    if name == "processes":
        return {"kind": "local", "processes": 2}
    if name == "prism":
        binary = shutil.which(options.prism)
        if binary is None:
            raise SystemExit("no prism: go install github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0, then --prism=PATH")
        return {"kind": "prism", "binary": binary}
    if name == "flink":
        with socket.socket() as probe:
            if probe.connect_ex(("localhost", options.job_port)):
                raise SystemExit(f"no job server at port {options.job_port}: python -m scripts.flink start")
        return {
            "kind": "flink",
            "job_server": f"localhost:{options.job_port}",
            "environment": "process",
            "command": str(options.flink / "run" / "sdk-worker"),
            "parallelism": 2,
            "options": ["--sdk_worker_parallelism=2"],
        }
    if name == "spark":
        jar = options.spark / "job-server.jar"
        if not jar.exists():
            raise SystemExit(f"no {jar}: python -m scripts.job_server spark")
        return {"kind": "spark", "jar": str(jar), "master": "local[2]"}
    raise SystemExit(f"no runner {name}: one of {', '.join(NAMES)}")
