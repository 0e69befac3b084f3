"""Starts and stops a standalone Flink cluster on this machine that runs simpipe's jobs, and prints the options to use it.

  python -m scripts.flink start      makes what is missing (about 1 GB, once), starts what is not running, prints the options
  python -m scripts.flink options    prints them again, for: simpipe run --config X -- $(python -m scripts.flink options)
  python -m scripts.flink status     what runs; exit status 1 unless all of it does
  python -m scripts.flink stop       ends all of it; the distribution and the job server's jar stay

It is one job manager, task managers of two slots each, each of which starts two SDK worker processes a job (`sdk_worker.py`, with
the Python that runs this script), and Beam's job server. Needs Java 11 or 17, and Maven the first time. Flink listens on the
loopback address only, Beam's job server on all of the machine's: not for machines that others reach. A task manager that died is
started again by `start`.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from scripts.flink_home import make_flink
from scripts.job_server import CACHE, JAR, JAVA_OPENS, JobServer, SetupError, find_job_server, make_job_server
from simpipe.files import WORKING_FOLDER

REPOSITORY = Path(__file__).resolve().parent.parent
SLOTS = 2
_READY_S = 120
_STOP_S = 20


@dataclass(frozen=True)
class Process:
    """A process that this script started.

    Attributes:
      name: such as `taskmanager-1`. pid: also its session's and process group's number. born: its start in ticks since
        boot, by which a number that was given to another process later is known.
    """

    name: str
    pid: int
    born: int

    @property
    def alive(self) -> bool:
        return _born(self.pid) == self.born


def _born(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # no such process
        return None
    return None if fields[0] == "Z" else int(fields[19])


@dataclass(frozen=True)
class Cluster:
    """A cluster under a folder.

    Attributes:
      folder: holds the distribution, the jar and `run/` (processes, logs, settings, scratch).
      task_managers: how many. rest_port, job_port: of the job manager and the job server; they also use the number below
        `rest_port` and the two below `job_port`.
    """

    folder: Path
    task_managers: int = 2
    rest_port: int = 8081
    job_port: int = 8099

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def processes(self) -> list[Process]:
        """What was started last and not stopped, alive or dead."""
        path = self.run / "processes.json"
        return [Process(**entry) for entry in json.loads(path.read_text())] if path.exists() else []

    def start(self) -> JobServer:
        """Makes and starts what is missing, and waits until all task managers have come.

        Raises:
          SetupError: something cannot be had, or does not start.
        """
        java = shutil.which("java")
        if not java:
            raise SetupError("Java is missing: install version 17 (Debian: apt install openjdk-17-jre-headless)")
        about = make_job_server("flink", self.folder)
        home = make_flink(about.engine, self.folder)
        for name in ("log", "tmp", "conf", "artifacts"):
            (self.run / name).mkdir(parents=True, exist_ok=True)
        self._configure(home)
        self._write_worker()
        env = {
            **os.environ,
            "FLINK_CONF_DIR": str(self.run / "conf"),
            "FLINK_LOG_DIR": str(self.run / "log"),
            "FLINK_PID_DIR": str(self.run),
            "JAVA_HOME": str(Path(java).resolve().parents[1]),
        }
        self._launch("jobmanager", [str(home / "bin" / "jobmanager.sh"), "start-foreground"], env)
        for number in range(1, self.task_managers + 1):
            self._launch(f"taskmanager-{number}", [str(home / "bin" / "taskmanager.sh"), "start-foreground"], env)
        self._wait("the task managers", lambda: self.ask("overview").get("taskmanagers") == self.task_managers)
        ports = [f"--job-port={self.job_port}", f"--artifact-port={self.job_port - 1}", f"--expansion-port={self.job_port - 2}"]
        where = [
            f"--flink-master=localhost:{self.rest_port}",
            "--job-host=localhost",
            f"--artifacts-dir={self.run / 'artifacts'}",
        ]
        self._launch("jobserver", [java, *JAVA_OPENS, "-jar", str(self.folder / JAR), *where, *ports], env)
        self._wait("the job server", lambda: _listens(self.job_port))
        return about

    def stop(self) -> None:
        """Ends what was started, SDK workers included."""
        processes = self.processes()
        for process in reversed(processes):
            if process.alive:
                os.kill(process.pid, signal.SIGTERM)
        end = time.monotonic() + _STOP_S
        while time.monotonic() < end and any(process.alive for process in processes):
            time.sleep(0.2)
        for process in processes:
            _kill_group(process)  # SDK workers are in their task manager's group, also when it is dead
        shutil.rmtree(self.run / "tmp", ignore_errors=True)  # scratch of processes that are gone
        shutil.rmtree(self.run / "artifacts", ignore_errors=True)
        (self.run / "processes.json").unlink(missing_ok=True)

    def options(self) -> list[str]:
        """Beam options for jobs on this cluster, whose paths may be relative to the current folder."""
        environment = {"command": str(self.run / "sdk-worker"), "env": {WORKING_FOLDER: os.getcwd()}}
        return [
            "--runner=PortableRunner",
            f"--job_endpoint=localhost:{self.job_port}",
            "--environment_type=PROCESS",
            "--environment_config=" + json.dumps(environment, separators=(",", ":")),
            f"--parallelism={self.task_managers}",
            f"--sdk_worker_parallelism={SLOTS}",
        ]

    def ask(self, path: str) -> dict[str, Any]:
        """What the job manager answers to a REST path such as `overview`; empty where none listens."""
        try:
            with urllib.request.urlopen(f"http://localhost:{self.rest_port}/{path}", timeout=10) as answer:
                return json.load(answer)
        except (OSError, ValueError):  # not up, or not yet
            return {}

    def _launch(self, name: str, command: list[str], env: dict[str, str]) -> None:
        others = [process for process in self.processes() if process.name != name]
        before = [process for process in self.processes() if process.name == name]
        if any(process.alive for process in before):
            return
        for process in before:
            _kill_group(process)
        with (self.run / "log" / f"{name}.log").open("ab") as log:
            started = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True)
        born = _born(started.pid)
        if born is None:
            raise SetupError(f"{name} ended at once, see {log.name}")
        entries = [asdict(process) for process in (*others, Process(name, started.pid, born))]
        (self.run / "processes.json").write_text(json.dumps(entries, indent=1) + "\n")

    def _wait(self, what: str, ready: Callable[[], bool]) -> None:
        end = time.monotonic() + _READY_S
        while not ready():
            dead = [process.name for process in self.processes() if not process.alive]
            if dead or time.monotonic() > end:
                raise SetupError(f"waiting for {what}: {', '.join(dead) or 'nothing'} ended; see the logs in {self.run / 'log'}")
            time.sleep(0.3)

    def _configure(self, home: Path) -> None:
        """Writes the settings: the distribution's, and ours over them."""
        shutil.copytree(home / "conf", self.run / "conf", dirs_exist_ok=True)
        settings = _flat(yaml.safe_load((home / "conf" / "config.yaml").read_text()))
        settings |= {
            "jobmanager.rpc.port": self.rest_port - 1,
            "rest.port": self.rest_port,
            "rest.bind-port": self.rest_port,
            "taskmanager.numberOfTaskSlots": SLOTS,
            "taskmanager.load-balance.mode": "SLOTS",  # a job of parallelism 2 uses both machines
            "taskmanager.memory.process.size": "2g",
            "taskmanager.memory.managed.fraction": 0.2,
            "taskmanager.memory.jvm-metaspace.size": "512m",  # every job loads the runner's classes anew
            # All attempts together last longer than the heartbeats' timeout: until a dead task manager is missed, jobs are
            # sent to it again.
            "restart-strategy.type": "fixed-delay",
            "restart-strategy.fixed-delay.attempts": 3,
            "restart-strategy.fixed-delay.delay": "15 s",
            "heartbeat.interval": 2_000,  # ms: a killed task manager is missed after seconds, not a minute
            "heartbeat.timeout": 30_000,
            "io.tmp.dirs": str(self.run / "tmp"),
        }
        (self.run / "conf" / "config.yaml").write_text(yaml.safe_dump(settings, width=10_000))

    def _write_worker(self) -> None:
        """The command by which task managers start SDK workers: no arguments but the runner's can be given to it."""
        python, script = shlex.quote(sys.executable), shlex.quote(str(REPOSITORY / "scripts" / "sdk_worker.py"))
        path = f"PYTHONPATH={shlex.quote(str(REPOSITORY))}${{PYTHONPATH:+:$PYTHONPATH}}"
        worker = self.run / "sdk-worker"
        worker.write_text(f'#!/bin/sh\nexport {path}\nexec {python} {script} "$@"\n')
        worker.chmod(0o755)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _kill_group(process: Process) -> None:
    if _born(process.pid) not in (None, process.born):
        return  # the number is another's now
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # nothing is left of it
        return


def _status(cluster: Cluster) -> int:
    processes = cluster.processes()
    for process in processes:
        print(f"{process.name:<14} {'runs' if process.alive else 'DEAD'}  pid {process.pid}")
    seen = cluster.ask("overview")
    if not processes or not seen:
        print("no cluster runs")
        return 1
    names = ("taskmanagers", "slots-total", "slots-available", "jobs-running", "jobs-finished", "jobs-failed")
    print(f"Flink {seen['flink-version']}: " + ", ".join(f"{seen[name]} {name}" for name in names))
    return 0 if all(process.alive for process in processes) else 1


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["start", "options", "status", "stop"])
    parser.add_argument("--folder", type=Path, default=CACHE / "flink", help="default: %(default)s")
    parser.add_argument("--task-managers", type=int, default=2, help="default: %(default)s, of two slots each")
    parser.add_argument("--rest-port", type=int, default=8081, help="of the job manager; default: %(default)s")
    parser.add_argument("--job-port", type=int, default=8099, help="of the job server; default: %(default)s")
    args = parser.parse_args(argv)
    cluster = Cluster(args.folder.expanduser().resolve(), args.task_managers, args.rest_port, args.job_port)
    if args.action == "status":
        return _status(cluster)
    if args.action == "stop":
        cluster.stop()
        return 0
    if args.action == "start":
        try:
            about = cluster.start()
        except SetupError as error:
            cluster.stop()
            print(f"flink: {error}", file=sys.stderr)
            return 1
        print(
            f"Flink {about.engine} with Beam {about.beam}'s job server ({about.made}); http://localhost:{args.rest_port}",
            file=sys.stderr,
        )
    elif find_job_server(cluster.folder) is None:
        print("flink: nothing is made here yet, run `start` first", file=sys.stderr)
        return 1
    print(" ".join(cluster.options()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
