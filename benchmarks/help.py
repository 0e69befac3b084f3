"""Seconds until `simpipe --help` has answered, beside those of an empty Python program.

python benchmarks/help.py
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time


def seconds(*arguments: str) -> float:
    def once() -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        return time.perf_counter() - started

    once()
    return statistics.median(once() for _ in range(7))


if __name__ == "__main__":
    print(
        json.dumps(
            {
                "help_s": round(seconds("-m", "simpipe.cli", "--help"), 3),
                "empty_python_s": round(seconds("-c", ""), 3),
                "limit_s": 0.5,
            }
        )
    )
