"""Near-duplicate groups from pairs: against a plain computation, in any order, with any block; hashes that meet; the contract."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpipe import dedupe, files
from simpipe.dedupe import PAIRS, group_items, near_pairs, write_pairs
from simpipe.errors import ContractError
from simpipe.groups import DEDUPE_JSON, GroupsInfo, Members
from simpipe.ids import hash_ids
from simpipe.index.answers import Answer, Found

IDS = [f"é{n}" if n % 7 == 0 else f"item-{n:03d}" for n in range(120)]


def pair_files(folder: Path, pairs, parts: int = 1) -> list[Path]:
    """Files of pairs (row, row, distance), in the directions given."""
    tie = hash_ids(IDS)
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(parts):
        chunk = pairs[number::parts]
        columns = [tie[[a for a, _, _ in chunk]], tie[[b for _, b, _ in chunk]], np.array([d for *_, d in chunk], np.float32)]
        found.append(folder / f"pairs-{number}.arrow")
        write_pairs(found[-1], [pa.table([np.asarray(c) for c in columns], schema=PAIRS)] if chunk else [PAIRS.empty_table()])
    return found


def store(folder: Path, parts: int = 1, ids=IDS) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"store-{number}.parquet" for number in range(parts)]
    for number, path in enumerate(paths):
        pq.write_table(pa.table({"id": sorted(ids)[number::parts], "label": [None] * len(sorted(ids)[number::parts])}), path)
    return paths


def grouped(folder: Path, pairs, *, parts: int = 1, stores: int = 1, **how):
    (folder / "work").mkdir(parents=True)
    found = group_items(pair_files(folder / "in", pairs, parts), store(folder / "in", stores), folder, folder / "work", **how)
    return found, [row for file in found.files for row in pq.read_table(folder / file.path).to_pylist()]


def plain(pairs) -> dict[str, tuple[str, float]]:
    """id -> representative and nearest distance."""
    group = {row: {row} for a, b, _ in pairs for row in (a, b)}
    for a, b, _ in pairs:
        union = group[a] | group[b]
        for row in union:
            group[row] = union
    nearest: dict[int, float] = {}
    for a, b, distance in pairs:
        for row in (a, b):
            nearest[row] = min(nearest.get(row, np.inf), float(np.float32(distance)))
    return {IDS[row]: (min((IDS[r] for r in rows), key=str.encode), nearest[row]) for row, rows in group.items()}


distinct = st.tuples(st.integers(0, 119), st.integers(0, 119), st.floats(0, 1, width=32)).filter(lambda pair: pair[0] != pair[1])


@settings(max_examples=25, deadline=None)
@given(st.lists(distinct, max_size=60), st.integers(1, 4), st.sampled_from([1 << 22, 40, 9]), st.sampled_from([1000, 20]))
def test_groups_are_those_of_a_plain_computation(tmp_path_factory, pairs, parts, block, file_rows):
    folder = tmp_path_factory.mktemp("groups")
    found, rows = grouped(folder, pairs, parts=parts, stores=parts, block=block, file_rows=file_rows)
    expected = plain(pairs)
    assert {row["id"]: (row["representative"], row["distance"]) for row in rows} == expected
    assert len(rows) == len(expected), "every member once"
    numbers = [row["group"] for row in rows]
    assert numbers == sorted(numbers)
    assert sorted(set(numbers)) == list(range(found.counts["groups"]))
    of_number = {row["group"]: row["representative"] for row in rows}
    assert len(set(of_number.values())) == len(of_number) == len({name for name, _ in expected.values()})
    assert [(row["group"], row["id"].encode()) for row in rows] == sorted((row["group"], row["id"].encode()) for row in rows)
    assert found.counts == {
        "pairs": len({frozenset(pair[:2]) for pair in pairs}),
        "members": len(expected),
        "groups": len(of_number),
        "largest": max(map(numbers.count, numbers), default=0),
    }
    assert len(found.files) == max(1, -(-len(expected) // file_rows))


@settings(max_examples=10, deadline=None)
@given(st.lists(distinct, min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_same_bytes_in_any_order_direction_block_and_store(tmp_path_factory, pairs, random):
    folder = tmp_path_factory.mktemp("bytes")
    whole, _ = grouped(folder / "a", pairs, file_rows=20)
    again = [(b, a, d) if random.random() < 0.5 else (a, b, d) for a, b, d in pairs] + random.sample(pairs, 1)
    random.shuffle(again)
    other, _ = grouped(folder / "b", again, parts=5, stores=3, block=11, file_rows=20)
    assert whole == other, "files with their SHA-256, and counts"


def test_representatives_order_groups_in_one_file(tmp_path):
    chain = [(row, row + 1, 0.1) for row in range(40)]
    _, rows = grouped(tmp_path, [*chain, (100, 90, 0.2), (101, 91, 0.3)], block=8)
    names = [row["representative"] for row in rows]
    assert names == sorted(names, key=str.encode)
    assert [names.count(name) for name in dict.fromkeys(names)] == [41, 2, 2]


def test_two_ids_with_one_hash_are_named(tmp_path, monkeypatch):
    real = hash_ids

    def colliding(ids, seed=0):
        names = ids.to_pylist() if isinstance(ids, pa.Array | pa.ChunkedArray) else list(ids)
        return real(["item-005" if name == "item-006" else name for name in names], seed)

    monkeypatch.setattr(dedupe, "hash_ids", colliding)
    with pytest.raises(ContractError, match="'item-005' and 'item-006' have one hash") as error:
        grouped(tmp_path / "a", [(5, 8, 0.1)])
    assert "another id" in error.value.cure
    _, rows = grouped(tmp_path / "b", [(8, 9, 0.1)])
    assert len(rows) == 2, "where none of the two has a near duplicate, nothing is mixed up"


def test_an_item_that_the_store_lacks(tmp_path):
    (tmp_path / "work").mkdir()
    pairs, names = pair_files(tmp_path, [(1, 2, 0.1)]), store(tmp_path, ids=IDS[2:])
    with pytest.raises(ContractError, match="1 items with near duplicates are not in the store"):
        group_items(pairs, names, tmp_path, tmp_path / "work")


def answer(distances, ties=None) -> Answer:
    values = np.asarray(distances, np.float32)
    own = hash_ids(IDS[: len(values)])
    other = hash_ids(IDS[50 : 50 + values.size]).reshape(values.shape) if ties is None else ties
    found = Found(values, np.where(np.isfinite(values), 0, -1), np.where(np.isfinite(values), other, np.uint64(0)))
    queries = pa.table({"id": IDS[: len(values)], "label": pa.nulls(len(values), pa.string())})
    return Answer(queries, own, found, np.empty(0, np.int64))


def test_pairs_are_cut_as_match_cuts():
    cut = float(np.float32(0.1))
    above = float(np.nextafter(np.float32(0.1), np.float32(1)))
    found = near_pairs(answer([[0.0, cut, above], [cut, cut, cut], [above, np.inf, np.inf]]), 0.1)
    assert found.pairs.column("distance").to_pylist() == [0.0, cut, cut, cut, cut]
    assert found.pairs.column("node").to_numpy().tolist() == hash_ids(IDS[:2]).repeat([2, 3]).tolist()
    assert found.truncated == 1
    none = near_pairs(answer(np.empty((4, 0))), 0.1)
    assert (len(none.pairs), none.truncated) == (0, 0)


def described(folder: Path, pairs) -> GroupsInfo:
    found, _ = grouped(folder, pairs, file_rows=3)
    info = GroupsInfo(
        key="k",
        release="r",
        distance="cosine",
        cutoff=0.1,
        cutpoint=None,
        k=3,
        counts=found.counts,
        files=found.files,
        provenance={},
    )
    info.save(folder)
    return info


def test_members_are_found_by_id_not_by_hash(tmp_path, monkeypatch):
    folder = tmp_path / "d"
    info = described(folder, [(1, 2, 0.1), (2, 3, 0.1), (9, 8, 0.1)])
    assert GroupsInfo.load(folder) == info
    members = Members.load(folder, info)
    assert info.excluded == 3
    represented, represents = members.find(pa.array(IDS[:10]))
    assert np.flatnonzero(represented).tolist() == [2, 3, 9]
    assert np.flatnonzero(represents).tolist() == [1, 8]
    assert not any(part.any() for part in members.find(pa.array([], pa.string())))
    monkeypatch.setattr("simpipe.groups.hash_ids", lambda ids: np.full(len(ids), members.keys[0]))
    represented, represents = members.find(pa.chunked_array([IDS[:5], IDS[5:10]]))
    assert int(represented.sum() + represents.sum()) == 1, "the others have other ids"


@pytest.mark.parametrize("damage", ["flip", "gone", "counts", "field", "version", "json", "path"])
def test_an_altered_data_set_is_refused(tmp_path, damage):
    folder = tmp_path / "d"
    info = described(folder, [(1, 2, 0.1), (2, 3, 0.1), (9, 8, 0.1)])
    path = folder / info.files[0].path
    about = files.read_json(folder / DEDUPE_JSON)
    if damage == "flip":
        path.write_bytes(path.read_bytes()[:-9] + b"x" + path.read_bytes()[-8:])
    elif damage == "gone":
        path.unlink()
    elif damage == "json":
        (folder / DEDUPE_JSON).write_text("{")
    else:
        change = {
            "counts": {"counts": {**about["counts"], "groups": 1}},
            "field": {"cutoff": "near"},
            "version": {"format_version": 2},
            "path": {"files": [{**about["files"][0], "path": "../x.parquet"}]},
        }
        files.write_json(folder / DEDUPE_JSON, {**about, **change[damage]})
    with pytest.raises(ContractError) as error:
        Members.load(folder, GroupsInfo.load(folder))
    assert error.value.cure
