"""Jobs that wait to finished answers: equal ones are searched as one block, and one that is wrong fails alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from simpipe.errors import IncompatibleError, QueryError, SimpipeError
from simpipe.index.searcher import Searcher
from simpipe.serve.blocks import Block, search_block
from simpipe.serve.items import item_records, sample_ids
from simpipe.serve.jobs import Job

_HOW = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_NON_STR_KEYS


@dataclass(frozen=True)
class Answer:
    """What became of a job.

    Attributes:
      body: JSON; None where `error` says why there is none.
      batch: queries that were searched together with it. probes: partitions asked a query, mean.
    """

    body: bytes | None
    error: Exception | None = None
    batch: int = 1
    probes: float | None = None


def answer(searcher: Searcher, jobs: Sequence[Job]) -> list[Answer]:
    """The answers to jobs, in their order.

    Jobs of equal verb, k and options are searched together. Where that fails, those that are right are searched without the
    others.
    """
    out: list[Answer | None] = [None] * len(jobs)
    groups: dict[bytes, list[int]] = {}
    for at, job in enumerate(jobs):
        groups.setdefault(_key(job, at), []).append(at)
    for members in groups.values():
        for at, found in zip(members, _together(searcher, [jobs[at] for at in members]), strict=True):
            out[at] = found
    return [found for found in out if found is not None]


def _key(job: Job, at: int) -> bytes:
    """Equal for jobs that are searched together."""
    if job.verb in ("items", "sample"):
        return b"%d" % at
    kind = (job.verb, job.vectors is None, job.k, job.options)
    return orjson.dumps(kind, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)


def _together(searcher: Searcher, jobs: list[Job]) -> list[Answer]:
    """Answers to jobs that are searched together."""
    try:
        return _found(searcher, jobs)
    except Exception as error:  # of any kind: one job's fault must not be another's
        if len(jobs) == 1:
            return [Answer(None, error)]
        wrong = [_wrong(searcher, job, error) for job in jobs]
        right = [at for at, each in enumerate(wrong) if each is None]
        if len(right) == len(jobs):  # it is none of the queries
            if isinstance(error, SimpipeError):
                return [Answer(None, error)] * len(jobs)
            return [found for job in jobs for found in _together(searcher, [job])]
        out = [Answer(None, each) for each in wrong]
        for at, found in zip(right, _together(searcher, [jobs[at] for at in right]) if right else [], strict=True):
            out[at] = found
        return out


def _wrong(searcher: Searcher, job: Job, error: Exception) -> Exception | None:
    """Why the queries of a job are refused; None where they are right."""
    if not isinstance(error, SimpipeError):
        return None
    try:
        if job.vectors is not None:
            searcher.check_queries(job.vectors)
        else:
            searcher.items_of(list(job.ids or ()), ["label"])
    except SimpipeError as own:
        return own
    return None


def _found(searcher: Searcher, jobs: list[Job]) -> list[Answer]:
    job = jobs[0]
    release = searcher.manifest.release
    if job.verb in ("items", "sample"):
        ids = list(job.ids or ()) if job.verb == "items" else sample_ids(searcher, job.k, job.options.get("label"))
        return [Answer(_json({"release": release, "items": item_records(searcher, ids)}))]
    about: dict[str, Any] = {"release": release, "distance": searcher.manifest.distance}
    block = search_block(searcher, _block(searcher, jobs), job)
    if block.filter is not None:
        about["filter"] = block.filter
    answers, first, batch = [], 0, len(block.results)
    for each in jobs:
        stop = first + each.queries
        answers.append(Answer(_json({**about, "results": block.results[first:stop]}), None, batch, block.probes))
        first = stop
    return answers


def _block(searcher: Searcher, jobs: list[Job]) -> Block:
    """The queries of all jobs, one after the other."""
    if jobs[0].vectors is None:
        ids = [name for job in jobs for name in job.ids or ()]
        if not ids:
            raise QueryError("no ids are given", "give some")
        return Block(ids, None)
    vectors: list[np.ndarray] = []
    names: list[str] = []
    for job in jobs:
        assert job.vectors is not None
        if job.vectors.shape[1:] != (searcher.dim,):
            raise IncompatibleError(
                f"queries have dim {job.vectors.shape[-1]}, {searcher.title} has dim {searcher.dim}",
                "embed the queries with the release's encoder",
            )
        vectors.append(job.vectors)
        names += job.names if job.names is not None else [f"row {row}" for row in range(len(job.vectors))]
    return Block(names, vectors[0] if len(vectors) == 1 else np.concatenate(vectors))


def _json(about: dict[str, Any]) -> bytes:
    return orjson.dumps(about, option=_HOW, default=_plain)


def _plain(value: Any) -> Any:
    """What JSON has no word for, as `simpipe lookup --json` prints it."""
    return value.item() if isinstance(value, np.generic) else str(value)
