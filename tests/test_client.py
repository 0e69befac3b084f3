"""The client against the real application: the searcher's numbers, whatever the number of requests that a call takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from client_server import DIM, ITEMS, OTHER, InProcess, SearcherEngine, open_both
from release_maker import RELEASE

import simpipe
from simpipe import client as client_module
from simpipe.client_answers import ServedNeighbors
from simpipe.errors import IncompatibleError, QueryError
from simpipe.index.searcher import Searcher
from simpipe.serve.errors import NotFoundError, NotReadyError
from simpipe.types import Matches, Neighbors

URL = "http://simpipe.test"
Connect = Callable[..., simpipe.Client]
QUERIES = np.random.default_rng(3).normal(size=(50, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("client")


@pytest.fixture(scope="module")
def opened(root: Path) -> dict[str, Searcher]:
    return open_both(root)


@pytest.fixture
def connect(root: Path, opened: dict[str, Searcher]) -> Iterator[Connect]:
    clients: list[tuple[simpipe.Client, InProcess]] = []

    def make(live: tuple[str, ...] = (OTHER,), **limits) -> simpipe.Client:
        transport = InProcess(SearcherEngine(root, opened, live), **limits)
        clients.append((simpipe.Client(URL, patience=0.2, transport=transport), transport))
        return clients[-1][0]

    yield make
    for client, transport in clients:
        client.close()
        transport.close()


def requests_of(client: simpipe.Client) -> int:
    return client._http._client._transport.requests  # type: ignore[attr-defined]  # ours


def same(one: Neighbors, other: Neighbors) -> None:
    for name in ("ids", "labels", "distances"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.distances.dtype == other.distances.dtype == np.float32


def same_matches(one: Matches, other: Matches) -> None:
    for name in ("labels", "distances", "probabilities", "limits"):
        mine, theirs = getattr(one, name), getattr(other, name)
        np.testing.assert_array_equal(mine, theirs)
        assert mine.dtype == theirs.dtype


@pytest.mark.parametrize("k", [1, 7, ITEMS + 5])
def test_neighbors_are_the_searchers_to_the_bit(connect: Connect, opened: dict[str, Searcher], k: int) -> None:
    client, searcher = connect(), opened[OTHER]
    found = client.lookup(QUERIES, k)
    same(found, searcher.lookup(QUERIES, k))
    assert (found.release, found.distance) == (OTHER, "euclidean")
    assert found.queries.tolist() == [f"row {row}" for row in range(50)]
    assert (found.metadata, found.probabilities, found.within, found.filter) == (None, None, None, ())
    same(client.lookup(QUERIES[0], k), searcher.lookup(QUERIES[0], k))
    same(client.lookup(QUERIES.astype(np.float64), k, exact=True), searcher.lookup(QUERIES, k, exact=True))
    same(client.lookup(QUERIES, k, release=RELEASE), opened[RELEASE].lookup(QUERIES, k))
    ids = [f"i{row}" for row in range(20)]
    by_id = client.lookup(ids=ids, k=k)
    same(by_id, searcher.lookup_items(ids, k).first(ITEMS))
    assert by_id.queries.tolist() == ids
    assert by_id.query_labels.tolist() == searcher.items_of(ids).column("label").to_pylist()


def test_matches_are_the_searchers_to_the_bit(connect: Connect, opened: dict[str, Searcher]) -> None:
    client, searcher = connect(), opened[OTHER]
    near = searcher.vectors_of([f"i{row}" for row in range(50)]) + 0.03 * QUERIES
    for cutpoint in ("optimal", "tight"):
        found, wanted = client.match(near, cutpoint), searcher.match(near, cutpoint)
        same_matches(found, wanted)
        assert 0 < sum(label is not None for label in found.labels) < 50
        assert (found.cutpoint, found.matcher, found.release) == (cutpoint, "match_nearest@1", OTHER)
    ids = [f"i{row}" for row in range(20)]
    same_matches(client.match(ids=ids), searcher.match(searcher.vectors_of(ids), query_ids=ids))


def test_what_a_server_says_beside_neighbors(connect: Connect, opened: dict[str, Searcher]) -> None:
    client, searcher = connect(), opened[OTHER]
    plain = searcher.lookup(QUERIES, 4)
    for asked in (True, ["number"]):
        found = client.lookup(QUERIES, 4, metadata=asked, cutpoint="optimal", names=[f"q{row}" for row in range(50)])
        assert found.metadata is not None
        assert found.metadata.to_pydict() == searcher.metadata(plain).to_pydict()
        assert found.within is not None
        np.testing.assert_array_equal(found.within, plain.distances <= np.float32(0.4))
        assert found.probabilities is not None
        assert ((found.probabilities >= 0) & (found.probabilities <= 1)).all()
        assert found.queries[:2].tolist() == ["q0", "q1"]
    table = client.items(["i3", "i5"])
    assert table.to_pydict() == searcher.items_of(["i3", "i5"]).select(table.column_names).to_pydict()
    assert {"id", "label", "partition", "number"} <= set(table.column_names)
    assert client.sample(3, label="l2").column("label").to_pylist() == ["l2"] * 3
    about = client.release()
    assert (about["items"], about["dim"], [point["name"] for point in about["cutpoints"]]) == (ITEMS, DIM, ["optimal", "tight"])
    assert [row["release"] for row in client.releases()] == [RELEASE, OTHER]


def test_filters(connect: Connect, opened: dict[str, Searcher], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_QUERIES", 25)
    client, searcher = connect(), opened[OTHER]
    for wanted, k in (({"number": {"lt": 40}}, 5), ({"label": "l3"}, 8), ({"number": {"gte": 398}}, 5), ({"number": -1}, 5)):
        found, here = client.lookup(QUERIES, k, filter=wanted, metadata=True), searcher.lookup_filtered(QUERIES, k, wanted)
        valid = here.neighbors.valid.all(axis=0)
        same(found, here.neighbors.first(int(valid.sum())))
        assert [about["matching"] for about in found.filter] == [here.about.matching] * 2, "one record a request"
    ids = [f"i{row}" for row in range(20)]
    same_matches(
        client.match(ids=ids, filter={"label": "l3"}),
        searcher.match(searcher.vectors_of(ids), query_ids=ids, filter={"label": "l3"}),
    )
    with pytest.raises(QueryError, match="colour"):
        client.lookup(QUERIES, filter={"colour": "red"})


def test_many_queries_are_several_requests_and_one_answer(
    connect: Connect, opened: dict[str, Searcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_QUERIES", 16)
    client, searcher = connect(max_queries=5), opened[OTHER]  # the server takes less than the client sends at once
    near = searcher.vectors_of([f"i{row}" for row in range(50)]) + 0.03 * QUERIES
    found = client.lookup(near, 6, metadata=True, cutpoint="tight")
    same(found, searcher.lookup(near, 6))
    assert found.queries.tolist() == [f"row {row}" for row in range(50)]
    assert found.metadata is not None
    assert found.metadata.to_pydict() == searcher.metadata(searcher.lookup(near, 6)).to_pydict()
    assert found.within is not None
    np.testing.assert_array_equal(found.within, found.distances <= np.float32(0.05))
    same_matches(client.match(near), searcher.match(near))
    assert requests_of(client) > 2 * 10
    monkeypatch.setattr(client_module, "_BYTES", 8 * client_module._DIGITS * DIM)
    before = requests_of(client := connect())
    same(client.lookup(near, 6), searcher.lookup(near, 6))
    assert requests_of(client) - before == 7, "of 8 vectors each"


def test_a_call_is_answered_by_one_release(
    connect: Connect, opened: dict[str, Searcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_QUERIES", 10)
    client = connect(live=(RELEASE, RELEASE, OTHER))  # published between the second request and the third
    found = client.lookup(QUERIES, 5)
    same(found, opened[OTHER].lookup(QUERIES, 5))
    assert found.release == OTHER
    assert requests_of(client) == 5 + 2
    client = connect(live=(RELEASE, OTHER, RELEASE, OTHER, OTHER, OTHER, RELEASE))  # and rolled back while it asks again
    found = client.lookup(QUERIES, 5)
    same(found, opened[RELEASE].lookup(QUERIES, 5))
    client = connect(live=(RELEASE, OTHER) * 40)
    with pytest.raises(NotReadyError, match="changes again and again"):
        client.lookup(QUERIES, 5)


@pytest.mark.parametrize(
    ("ask", "kind", "says"),
    [
        (lambda client: client.lookup(QUERIES[:, :4]), IncompatibleError, "queries have dim 4"),
        (lambda client: client.lookup(ids=["i1", "nobody"]), QueryError, "id 'nobody' is not in release"),
        (lambda client: client.lookup(QUERIES, 0), QueryError, "k: "),
        (lambda client: client.lookup(QUERIES, 10**6), QueryError, "k: 1000000 is above 1000"),
        (lambda client: client.lookup(QUERIES, target_recall=0.9), QueryError, "no search profile"),
        (lambda client: client.lookup(QUERIES, release="nope"), NotFoundError, "'nope'"),
        (lambda client: client.match(QUERIES, "loose"), QueryError, "no cutpoint 'loose'"),
        (lambda client: client.items(["nobody"]), NotFoundError, "id 'nobody' is not in release"),
        (lambda client: client.picture("i1"), IncompatibleError, "no pictures"),
        (lambda client: client.lookup(images=[b"x"]), IncompatibleError, "no pictures"),
        (lambda client: client.lookup(QUERIES, ids=["i1"]), QueryError, "vectors and ids asks"),
        (lambda client: client.lookup(), QueryError, "nothing asks"),
        (lambda client: client.lookup(ids=[]), QueryError, "no query is given"),
        (lambda client: client.lookup(ids="i1"), QueryError, "a single one"),
        (lambda client: client.lookup(QUERIES, names=["x"]), QueryError, "1 names for 50 vectors"),
        (lambda client: client.lookup(np.array([[np.nan] * DIM])), QueryError, "row 0 holds NaN"),
        (lambda client: client.lookup(np.array([["a"]])), QueryError, "dtype"),
        (lambda client: client.lookup(images=["no/such.png"]), QueryError, r"no/such.png: cannot be read"),
    ],
)
def test_errors_are_the_librarys(connect: Connect, ask, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says) as caught:
        ask(connect())
    assert isinstance(caught.value, simpipe.SimpipeError)
    assert caught.value.cure


def test_a_context_manager(connect: Connect) -> None:
    with connect() as client:
        assert isinstance(client.lookup(QUERIES[:1]), ServedNeighbors)
    with pytest.raises(RuntimeError):
        client.release()
