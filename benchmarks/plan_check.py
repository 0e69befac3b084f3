"""`simpipe plan` against what was measured: CPU seconds and bytes of the whole line.

    python -m benchmarks.plan_check [--sizes 100000,1000000] [--scratch FOLDER]
    python -m benchmarks.plan_check --measured scale.jsonl        # of an earlier `python -m benchmarks.scale`

The line is that of `benchmarks.scale`; the calibration (simpipe's own, or `--calibration FILE`) is of lines of other sizes. The
clock of a shared machine drifts: calibrate and check within the same hour. JSON lines, one a step and one a size, with the
ratio of estimate to measurement; exit status 1 where the total of a size from a million on is beyond a bar.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.releases import workplace
from benchmarks.scale import line_config, run_of
from simpipe.config import parse_config
from simpipe.plan.calibration import Calibration
from simpipe.plan.estimate import Estimate, make_estimate
from simpipe.plan.workload import Workload

BAR_CPU, BAR_BYTES, JUDGED_FROM = 0.3, 0.15, 1_000_000


def measure(sizes: list[int], scratch: str | None, *, held_out: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Runs the lines: records of sizes, and of steps."""
    runs, steps = [], []
    with workplace(scratch) as place:
        for n in sizes:
            run, took = run_of(place / f"scale-medium-{n}", "medium", n, held_out=held_out, overrides=[])
            runs.append(run)
            steps += took
    return runs, steps


def compare(run: dict[str, Any], steps: list[dict[str, Any]], estimate: Estimate) -> bool:
    """Prints the lines of one size; returns whether it is within the bars."""
    found = {verb.verb: verb for verb in estimate.verbs}
    for step in steps:
        verb = found[step["step"]]
        about = {"what": "step", "n": run["n"], "step": step["step"], "measured_cpu_s": step["cpu_s"], "plan_cpu_s": verb.cpu_s}
        about |= {
            "ratio": verb.cpu_s / max(step["cpu_s"], 0.01),
            "measured_mib": step["private_mib"],
            "plan_mib": verb.memory_mib,
        }
        print(
            json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in about.items()}), flush=True
        )
    planned = {kind: estimate.bytes[kind] for kind in ("embeddings", "partitions", "store")}
    planned["release"] = sum(value for kind, value in estimate.bytes.items() if kind not in planned)
    measured = run["bytes"]
    cpu, size = estimate.cpu_s / run["cpu_s"], estimate.total_bytes / measured["total"]
    within = abs(cpu - 1) <= BAR_CPU and abs(size - 1) <= BAR_BYTES
    total = {
        "what": "total",
        "n": run["n"],
        "measured_cpu_s": run["cpu_s"],
        "plan_cpu_s": round(estimate.cpu_s, 1),
        "cpu_ratio": round(cpu, 3),
        "measured_bytes": measured["total"],
        "plan_bytes": round(estimate.total_bytes),
        "bytes_ratio": round(size, 3),
        "bytes_ratios": {kind: round(value / measured[kind], 3) for kind, value in planned.items()},
        "partitions": [run["partitions"], estimate.shape.partitions],
        "bars": [BAR_CPU, BAR_BYTES],
        "within": within,
    }
    print(json.dumps(total), flush=True)
    return within or run["n"] < JUDGED_FROM


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--sizes", default="100000,1000000")
    options.add_argument(
        "--held-out", type=int, default=10_000, metavar="N", help="as of benchmarks.scale (default: %(default)s)"
    )
    options.add_argument("--measured", metavar="FILE.jsonl", help="what benchmarks.scale printed, instead of running it")
    options.add_argument("--calibration", metavar="FILE")
    options.add_argument("--scratch")
    chosen = options.parse_args()
    if chosen.measured:
        lines = [json.loads(line) for line in Path(chosen.measured).read_text().splitlines()]
        runs, steps = ([line for line in lines if line["what"] == what] for what in ("run", "step"))
    else:
        runs, steps = measure(sorted(map(int, chosen.sizes.split(","))), chosen.scratch, held_out=chosen.held_out)
    calibration = Calibration.load(chosen.calibration)
    good = True
    for run in runs:
        about = line_config("root", "vectors.npy", "labels.npy", n=run["n"], held_out=chosen.held_out)
        workload = Workload(run["n"], run["dim"], id_bytes=len("vectors-000000000"))
        estimate = make_estimate(parse_config(about), workload, calibration=calibration)
        good &= compare(run, [step for step in steps if step["n"] == run["n"]], estimate)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
