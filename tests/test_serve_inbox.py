"""Who takes what of the jobs that wait, and ids that become text with and without Arrow."""

from __future__ import annotations

import threading

import numpy as np
import pyarrow as pa
import pytest

from simpipe.index.rows import _FEW_IDS, Rows
from simpipe.serve.jobs import Job
from simpipe.serve.release_process import _MUCH, _Inbox, _Waiting


def waiting(number: int, queries: int, k: int = 5) -> _Waiting:
    return _Waiting(number, 0.0, Job("lookup", np.zeros((queries, 2), np.float32), k=k))


def numbers(taken: list[_Waiting] | None) -> list[int]:
    return [each.number for each in taken or ()]


def test_jobs_are_taken_in_order_up_to_a_batch_and_a_large_one_alone():
    inbox = _Inbox()
    inbox.put([waiting(number, queries) for number, queries in enumerate((3, 4, 2, 50, 1))])
    assert [numbers(inbox.take(8, 0.0)) for _ in range(4)] == [[0, 1], [2], [3], [4]]
    assert inbox.take(8, 0.0) == []


def test_a_helper_takes_only_where_much_waits():
    inbox = _Inbox()
    inbox.put([waiting(0, _MUCH - 1)])
    assert inbox.take(10, 0.0, _MUCH) == []
    inbox.put([waiting(1, 1)])
    assert numbers(inbox.take(10, 0.0, _MUCH)) == [0]
    assert inbox.take(10, 0.0, _MUCH) == [], "what was taken waits no more"
    assert numbers(inbox.take(10, 0.0)) == [1]


def test_jobs_of_many_neighbors_weigh_more():
    inbox = _Inbox()
    inbox.put([waiting(0, 1, k=160), waiting(1, 1, k=160)])
    assert numbers(inbox.take(19, 0.0)) == [0]


@pytest.mark.parametrize("least", [1, _MUCH])
def test_who_waits_hears_of_jobs_and_of_the_end(least: int):
    inbox, found = _Inbox(), []
    thread = threading.Thread(target=lambda: found.extend([inbox.take(8, None, least), inbox.take(8, None, least)]))
    thread.start()
    inbox.put([waiting(0, least)])
    inbox.end()
    thread.join(60)
    assert (numbers(found[0]), found[1]) == ([0], None)


def test_few_ids_are_those_that_arrow_takes():
    names = [f"é{row}" * (row % 4) + "🙂" for row in range(4 * _FEW_IDS)]
    for ids in (pa.array(names, pa.large_string()), pa.array(["", "x", *names], pa.large_string())[2:]):
        rows = Rows(ids, pa.nulls(len(ids), pa.large_string()), np.zeros(len(ids), np.uint64))
        picked = np.random.default_rng(0).integers(len(ids), size=_FEW_IDS)
        for some in (picked, picked[:1], picked[:0]):
            assert rows.take_ids(some).tolist() == [names[row] for row in some]
