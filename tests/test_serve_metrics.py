"""Metrics of several processes are one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_WORK = """
from simpipe.serve.jobs import EngineStatus
from simpipe.serve.metrics import Metrics, Seen
metrics = Metrics()
for release, swaps in (("a", 0), ("b", 1)):
    metrics.show(EngineStatus(ready=True, release=release, queued=5, swaps=swaps, cache_bytes=100, open=(release,)))
metrics.answered(Seen(verb="lookup", queries=3, batch=8, probes=2.0, release="b"), 200, 0.01)
metrics.answered(Seen(verb="lookup", error="bad_query"), 400, 0.01)
print(metrics.text().decode())
"""


def test_several_processes_count_together(tmp_path: Path) -> None:
    """Each looks at all of them, so the last one sees both."""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for number in (1, 2):
        done = subprocess.run([sys.executable, "-c", _WORK], env=environment, capture_output=True, text=True, check=True)
        lines = done.stdout.splitlines()
        for line in (
            f'simpipe_request_seconds_count{{status="200",verb="lookup"}} {number}.0',
            f'simpipe_request_seconds_count{{status="400",verb="lookup"}} {number}.0',
            f'simpipe_queries_total{{verb="lookup"}} {3 * number}.0',
            f"simpipe_batch_queries_sum {8 * number}.0",
            f'simpipe_refused_total{{code="bad_query"}} {number}.0',
            f"simpipe_swaps_total {number}.0",
            f"simpipe_queued_queries {5 * number}.0",
            f"simpipe_cache_bytes {100 * number}.0",
            'simpipe_release_info{release="a"} 0.0',
            f'simpipe_release_info{{release="b"}} {number}.0',
        ):
            assert line in lines, done.stdout
