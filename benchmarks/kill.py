"""Kills `simpipe run` with SIGKILL at random moments, one or more in every verb, and checks what is left.

    python benchmarks/kill.py --config configs/digits.yaml --kills 10

The root starts with a published release of another seed. After each kill the pointer must name a complete release; the
rerun must end well, and its release must hold the same ids, labels and vectors as an undisturbed run. Prints JSON lines.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import simpipe
from simpipe import releases


def command(config: str, root: Path, overrides: list[str]) -> list[str]:
    options = [f"root={root}", *overrides]
    return [
        sys.executable,
        "-m",
        "simpipe.cli",
        "run",
        "--config",
        config,
        *(part for each in options for part in ("--set", each)),
    ]


def run_to_end(line: list[str]) -> dict[str, float]:
    """Runs the line; returns the seconds that each step took, from its own lines on stderr."""
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    took: dict[str, float] = {}
    said, last = [], time.monotonic()
    for text in process.stderr:
        said.append(text)
        if " done in " in text or "skipped" in text:
            now = time.monotonic()
            took[text.split()[0]] = now - last
            last = now
    if process.wait() != 0:
        raise SystemExit("the undisturbed run or a rerun failed:\n" + "".join(said))
    return took


def kill_in(line: list[str], step: str, before: str | None, delay: float) -> str:
    """Starts the line and kills it `delay` seconds after step `before` ended; returns what it was doing then."""
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    if before is not None:
        for text in process.stderr:
            if text.startswith(before + " "):
                break
    time.sleep(delay)
    process.kill()
    process.wait()
    rest = process.stderr.read()
    return "ended before the kill" if "publish" in rest else step


def contents(root: Path) -> dict[str, tuple[str, bytes]]:
    """Everything that the live release holds, after verifying every file: id -> label and vector."""
    searcher = simpipe.open_release(root, verify=True)
    found: dict[str, tuple[str, bytes]] = {}
    for about in searcher.manifest.partitions:
        part = searcher.partition(about.partition)
        for row in part.live:
            name = part.ids[row]
            if name in found:
                raise SystemExit(f"id {name} stands twice")
            found[name] = (part.labels[row], part.vectors[row].tobytes())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/digits.yaml")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run_to_end(command(options.config, folder / "earlier", [*options.overrides, "seed=7"]))
        took = run_to_end(command(options.config, folder / "undisturbed", options.overrides))
        wanted, earlier = contents(folder / "undisturbed"), releases.read_pointer(folder / "earlier")
        assert earlier is not None
        steps = list(took)
        chosen = (steps * (options.kills // len(steps) + 1))[: max(options.kills, len(steps))]
        for number, step in enumerate(chosen):
            root = folder / f"kill-{number}"
            shutil.copytree(folder / "earlier", root)
            line = command(options.config, root, options.overrides)
            place = steps.index(step)
            delay = chance.uniform(0.0, max(took[step], 0.02))
            hit = kill_in(line, step, steps[place - 1] if place else None, delay)
            pointer = releases.read_pointer(root)
            assert pointer is not None
            contents(root)  # opens and verifies, whichever release is live
            started = time.monotonic()
            run_to_end(line)
            same = contents(root) == wanted
            result = {
                "kill": number + 1,
                "in": hit,
                "after_s": round(delay, 2),
                "live_after_kill": "earlier release" if pointer.release == earlier.release else "new release",
                "verified": True,
                "rerun_s": round(time.monotonic() - started, 1),
                "same_ids_labels_vectors": same,
            }
            print(json.dumps(result), flush=True)
            if not same:
                raise SystemExit(1)
            shutil.rmtree(root)
        print(json.dumps({"kills": len(chosen), "items": len(wanted), "all_same": True}))


if __name__ == "__main__":
    main()
