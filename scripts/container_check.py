"""Proves the image's installation without a container: the same commands in a clean environment, then every verb in it.

    python scripts/container_check.py [--venv FOLDER] [--keep]

Runs the `RUN pip` commands of docker/Dockerfile, read from it, in a virtual environment; then, from an empty folder and with no
way to this checkout: translates and opens every job of every verb (`simpipe run --dry-run`), and runs lines of digits and of
vectors, a re-index, dedupe and lookup, whose jobs run in worker processes of that environment. What it cannot prove: the base
images, and what Beam's boot program does before it starts Python.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
DOCKERFILE = REPOSITORY / "docker" / "Dockerfile"
_VECTORS = """
import numpy as np, pyarrow as pa, pyarrow.parquet as pq, pathlib, sys
version = int(sys.argv[1])
rng = np.random.default_rng(0)
centres, labels = rng.normal(size=(20, 16)), rng.integers(20, size=3000)
rows = (centres[labels] + 0.2 * rng.normal(size=(3000, 16))).astype(np.float32)
if version == 2:
    rows[:40] += 0.05
columns = {"id": [f"item-{n:05d}" for n in range(3000)], "label": [f"c{n}" for n in labels],
           "embedding": pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 16)}
pathlib.Path("source").mkdir(exist_ok=True)
pq.write_table(pa.table(columns), "source/part.parquet", row_group_size=1000)
pq.write_table(pa.table({name: columns[name][:50] for name in ("id", "embedding")}), "queries.parquet")
"""
_CONFIG = """
name: vectors
root: root
source: {kind: vectors, path: source, ids: id, labels: label}
build: {router: {kind: kmeans, partitions: 4}, backend: {kind: nmslib, exact_below: 100}, store_files: 2}
dedupe: {distance: 0.01}
runner: {kind: local, processes: 2}
"""


def install_commands(dockerfile: str) -> list[str]:
    """The `RUN pip` commands of the last stage, and before them those that make the wheel, in order.

    Raises:
      SystemExit: there are others than this check knows to run.
    """
    text = re.sub(r"\\\n\s*", " ", dockerfile)
    found = [line.removeprefix("RUN ").strip() for line in text.splitlines() if re.match(r"RUN\s+pip\b", line)]
    if [command.split()[1] for command in found] != ["install", "wheel", "install", "install"]:
        raise SystemExit(f"container check: {DOCKERFILE} installs in another way than this check runs: {found}")
    return found


class Check:
    """One check in a folder of its own."""

    def __init__(self, folder: Path, venv: Path) -> None:
        self.folder, self.venv = folder, venv
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        self.environment = {**kept, "PATH": f"{venv / 'bin'}:{kept['PATH']}", "TF_CPP_MIN_LOG_LEVEL": "3"}

    def run(self, *command: str, where: Path | None = None) -> str:
        """Runs a command from the empty folder; ends the check where it fails."""
        started = time.monotonic()
        print(f"$ {' '.join(command)[:200]}", flush=True)
        done = subprocess.run(
            command, cwd=where or self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"container check: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        print(f"  {time.monotonic() - started:.1f} s", flush=True)
        return done.stdout + done.stderr

    def install(self) -> None:
        """Runs the Dockerfile's commands, where they would find the same files."""
        lock, wheel, install, package = install_commands(DOCKERFILE.read_text())
        build = self.folder / "build"
        build.mkdir()
        for name in ("requirements.lock", "pyproject.toml", "README.md"):
            shutil.copy(REPOSITORY / name, build)
        for name in ("simpipe", "pipelines"):
            shutil.copytree(REPOSITORY / name, build / name, ignore=shutil.ignore_patterns("__pycache__"))
        if not (self.venv / "bin" / "python").exists():
            self.run(sys.executable, "-m", "venv", str(self.venv))
        assert lock == install, "both stages install the same lock file"
        # A cache saves the download here; what is installed is fixed by hashes either way.
        for command in (lock, wheel, package):
            target = build / "dist" if command == package else build
            self.run("bash", "-c", command.replace("--no-cache-dir ", ""), where=target)
        shutil.rmtree(build)
        where = self.run(str(self.venv / "bin" / "python"), "-I", "-c", "import simpipe, pipelines; print(simpipe.__file__)")
        if str(self.venv) not in where:
            raise SystemExit(f"container check: simpipe is imported from {where}")

    def dry_runs(self) -> None:
        """Every job of every verb is translated, and opened by a process of the environment."""
        for name in ("digits", "dataflow", "reindex"):
            shutil.copy(REPOSITORY / "configs" / f"{name}.yaml", self.folder)
            print(self.run("simpipe", "run", "--config", f"{name}.yaml", "--dry-run").strip().splitlines()[-1])

    def lines(self) -> None:
        """Runs all verbs whose jobs run in worker processes."""
        (self.folder / "vectors.yaml").write_text(_CONFIG)
        config = ("--config", "vectors.yaml")
        python = str(self.venv / "bin" / "python")
        self.run(python, "-I", "-c", _VECTORS, "1")
        self.run("simpipe", "run", *config)
        self.run("simpipe", "dedupe", *config)
        self.run(python, "-I", "-c", _VECTORS, "2")
        self.run("simpipe", "reindex", *config)
        self.run("simpipe", "lookup", *config, "--queries", "queries.parquet", "--out", "neighbors.parquet")
        self.run("simpipe", "match", *config, "--queries", "queries.parquet", "--out", "matches.parquet")
        self.run("simpipe", "fsck", *config)
        small = ("--set", "train.epochs=1", "--set", "train.steps_per_epoch=10", "--set", "train.encoder.filters=8")
        self.run("simpipe", "run", "--config", "digits.yaml", "--runner", "local", *small, "--set", "runner.processes=2")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, help="a folder for the environment, kept; one that is there is installed over")
    parser.add_argument("--keep", action="store_true", help="leave the work folder")
    options = parser.parse_args()
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="container-check-"))
    check = Check(folder, options.venv.resolve() if options.venv else folder / "venv")
    try:
        check.install()
        check.dry_runs()
        check.lines()
    finally:
        if not options.keep:
            shutil.rmtree(folder)
    print(f"container check: all passed in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
