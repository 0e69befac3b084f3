"""Which of the Beam features that simpipe uses a runner gets right, from files that the features themselves leave.

    python -m benchmarks.runner_features [--only local,processes,prism,flink,spark] [--features counters,flatten] [--limit 180]

Each feature is one job in a process of its own, which is ended after `--limit` seconds: a job that hangs is a finding. Prints a
JSON line a feature and runner, then a table for docs/runners.md on stderr; exit status 1 where something is wrong.
Flink: `python -m scripts.flink start` first. Spark: `python -m scripts.job_server spark`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import engines
from benchmarks.child import say

_RESULT = "RESULT "


def run_feature(name: str, section: dict[str, Any]) -> dict[str, Any]:
    """Runs one feature in this process; `right` and what was seen."""
    import apache_beam as beam

    from benchmarks import feature_graphs
    from simpipe.beam.options import pipeline_options, run_graph
    from simpipe.beam.runners import arguments_of
    from simpipe.config import parse_config
    from simpipe.errors import ContractError, SimpipeError
    from simpipe.job import job_of

    config = parse_config({"name": name.replace("_", "-"), "root": "runs/features", "source": "digits", "runner": section})
    job = job_of(config, "build")
    graph, expected = feature_graphs.GRAPHS[name]
    with tempfile.TemporaryDirectory(prefix="feature-") as scratch:
        folder = Path(scratch)
        if name == "errors_reach_the_user":
            try:
                run_graph(lambda pipeline: graph(pipeline, folder), job)
            except SimpipeError as error:
                seen = [type(error).__name__, error.message, error.cure]
                return {"right": seen == [ContractError.__name__, feature_graphs.MESSAGE, feature_graphs.CURE], "seen": seen}
            return {"right": False, "seen": "no error"}
        from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

        local = FnApiRunner() if section == {"kind": "local"} else None
        pipeline = beam.Pipeline(runner=local, options=pipeline_options(arguments_of(job), job_name=job.name))
        graph(pipeline, folder)
        result = pipeline.run()
        state = result.wait_until_finish()
        found = feature_graphs.found(folder)
        right = state == "DONE" and found == expected
        told: dict[str, Any] = {"right": right} if right else {"right": False, "state": str(state), "seen": str(found)[:300]}
        if name == "counters":
            metrics = feature_graphs.counted(result)
            n = feature_graphs.N
            exact = n in (metrics.committed, metrics.attempted)
            told |= {"right": right and exact and metrics.distribution == [n, feature_graphs.TOTAL, 0, n - 1], **vars(metrics)}
        return told


def in_child(name: str, section: dict[str, Any], limit: float) -> dict[str, Any]:
    """Runs a feature in a process of its own, and ends that and its children."""
    command = [sys.executable, "-m", "benchmarks.runner_features", "--child", json.dumps([name, section])]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        said, _ = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return {"right": False, "seen": f"still runs after {limit:g} s"}
    finally:
        with contextlib.suppress(ProcessLookupError):  # nothing is left of it
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    lines = [line for line in said.splitlines() if line.startswith(_RESULT)]
    return json.loads(lines[-1][len(_RESULT) :]) if lines else {"right": False, "seen": said[-300:]}


def table(found: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Markdown: a row a feature, a column a runner."""
    runners = list(found)
    lines = ["| feature | " + " | ".join(runners) + " |", "|---" * (len(runners) + 1) + "|"]
    for name in next(iter(found.values())):
        cells = [f"{'yes' if found[runner][name]['right'] else 'NO'}, {found[runner][name]['s']} s" for runner in runners]
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    engines.add_arguments(parser, only="local,processes,prism,flink,spark")
    parser.add_argument("--features", help="some only, by name")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds a feature may take (default: %(default)s)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        try:
            told = run_feature(*json.loads(options.child))
        except Exception as error:  # whatever a runner raises is what this benchmark is about
            told = {"right": False, "seen": f"{type(error).__name__}: {' '.join(str(error).split())[-300:]}"}
        print(_RESULT + json.dumps(told), flush=True)
        os._exit(0)  # some runners leave threads that do not end
    from benchmarks.feature_graphs import GRAPHS

    names = options.features.split(",") if options.features else list(GRAPHS)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for runner, section in engines.chosen(options).items():
        found[runner] = {}
        for name in names:
            started = time.monotonic()
            told = in_child(name, section, options.limit)
            found[runner][name] = told | {"s": round(time.monotonic() - started, 1)}
            print(json.dumps({"runner": runner, "feature": name, **found[runner][name]}), flush=True)
    say(table(found))
    raise SystemExit(0 if all(told["right"] for of in found.values() for told in of.values()) else 1)


if __name__ == "__main__":
    main()
