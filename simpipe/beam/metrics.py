"""Metrics of Beam jobs: their names, how workers report them, and how the driver reads them.

They are for people and alerts. What decides about a data set is summed in the graph (`simpipe.beam.io`): a runner may count
a bundle twice that it tried twice, or count nothing.

A name says what, then its unit: `-items` and names without a unit count records, `-bytes` bytes, `-msec` milliseconds of one
work item. `in-` is what a job read, `out-` what it wrote. A graph counts a record once under one name, so that
`in-items = out-items + rejected + excluded` in every job that ends well.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Literal

from apache_beam.metrics.metric import Metrics, MetricsFilter

from simpipe.job import Spread
from simpipe.types import Counts

NAMESPACE = "simpipe"

Counter = Literal[
    "in-items", "out-items", "rejected", "excluded", "duplicates", "in-bytes", "out-bytes", "work-bytes", "index-items",
    "copies", "sample-items", "added", "changed", "deleted", "unchanged", "dropped", "pairs", "labelled", "open-set",
    "exact-queries", "buckets",
]  # fmt: skip
Distribution = Literal[
    "scan-msec", "fill-msec", "import-msec", "embed-msec", "route-msec", "build-msec", "store-msec", "search-msec",
    "calibrate-msec", "evaluate-msec", "dedupe-msec", "compare-msec", "locate-msec", "unload-msec", "export-msec",
    "block-items",
]  # fmt: skip

COUNTERS: dict[Counter, str] = {
    "in-items": "records read",
    "out-items": "records written, or queries answered",
    "rejected": "bad records, listed in `rejects/`",
    "excluded": "records left out on purpose: of other classes, near duplicates, queries not drawn",
    "duplicates": "records with the id of another one; the step then fails",
    "in-bytes": "bytes of the files read; of queries and ready-made vectors: of the vectors, as float32",
    "out-bytes": "bytes of the files written that stay",
    "work-bytes": "bytes of files for later steps of the same job",
    "index-items": "rows in partitions, copies among them",
    "copies": "further partitions that items were put into",
    "sample-items": "items that the router was fitted on",
    "added": "items that the release did not hold",
    "changed": "items whose content differs from the release's",
    "deleted": "items that are gone, or to be dropped",
    "unchanged": "items that are as the release holds them",
    "dropped": "rows that go from partitions",
    "pairs": "pairs of near duplicates",
    "labelled": "queries with a label that is indexed",
    "open-set": "queries with a label that is not indexed",
    "exact-queries": "queries that were searched exactly as well",
    "buckets": "buckets of pairs that were grouped",
}
DISTRIBUTIONS: dict[Distribution, str] = {
    "scan-msec": "reading a block or shard of the source",
    "fill-msec": "writing a shard",
    "import-msec": "importing a block",
    "embed-msec": "embedding a shard",
    "route-msec": "routing a file of items or queries to partitions",
    "build-msec": "building and measuring a partition",
    "store-msec": "writing a store file",
    "search-msec": "searching a partition for the queries of a job",
    "calibrate-msec": "counting a block of answers",
    "evaluate-msec": "measuring a block of answers",
    "dedupe-msec": "the near pairs of a block, or a step on a bucket of them",
    "compare-msec": "comparing a bucket with the release",
    "locate-msec": "looking in a partition for rows that go",
    "unload-msec": "copying a store file's items into a data set",
    "export-msec": "exporting a store file",
    "block-items": "records of a work item",
}


def count(name: Counter, amount: int) -> None:
    """Adds to a counter; only in a worker. A counter that got 0 is reported as 0."""
    Metrics.counter(NAMESPACE, name).inc(int(amount))


def count_read(counts: Counts) -> None:
    """Counts what a work item read, rejected and left out. What it wrote may be counted elsewhere."""
    count("in-items", counts.read)
    count("rejected", counts.rejected)
    count("excluded", counts.excluded)
    Metrics.distribution(NAMESPACE, "block-items").update(counts.read)


@contextlib.contextmanager
def timed(name: Distribution) -> Iterator[None]:
    """Reports how long the block took; only in a worker."""
    started = time.monotonic()
    yield
    Metrics.distribution(NAMESPACE, name).update(int(1000 * (time.monotonic() - started)))


def read_metrics(result: Any) -> tuple[dict[str, int], dict[str, Spread]]:
    """All metrics of a job, over all its steps, by name.

    Args:
      result: what `pipeline.run()` returned; of a running job it is asked anew at each call.

    Returns:
      Counters and distributions; none where the runner reports none, or cannot be asked.
    """
    if getattr(result, "_metrics", None) is not None:
        result._metrics = None  # portable runners keep their first answer, which may be of the middle of the job
    try:
        found = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))
    except (
        Exception
    ):  # each runner fails in its own way where it has no metrics, or its server has stopped: nothing depends on it
        return {}, {}
    counters: dict[str, int] = defaultdict(int)
    spreads: dict[str, Spread] = {}
    for each in found["counters"]:
        counters[each.key.metric.name] += _value(each) or 0
    for each in found["distributions"]:
        value = _value(each)
        if value is not None and value.count:
            name = each.key.metric.name
            spread = Spread(int(value.sum), int(value.count), int(value.min), int(value.max))
            spreads[name] = spreads[name] + spread if name in spreads else spread
    return dict(sorted(counters.items())), dict(sorted(spreads.items()))


def _value(result: Any) -> Any:
    """Attempted where nothing is committed: Prism, Flink and Spark report attempts only."""
    return result.committed if result.committed is not None else result.attempted
