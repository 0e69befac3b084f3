"""Files of rebuilt releases: stored values that do not drift, work that is continued after a kill, ids that come twice."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import clustered
from hypothesis import given, settings
from hypothesis import strategies as st
from rebuild_data import Item, change, check, full_build, in_this_process, make_config, make_truth, reindex, write_delta

from pipelines import rebuild
from simpipe import files
from simpipe.embeddings import EmbeddingsInfo
from simpipe.errors import ContractError, DuplicateIdError, RejectedError, SimpipeError
from simpipe.index.profile import PROFILE_JSON
from simpipe.index.rows import Rows
from simpipe.index.searcher import Searcher, open_release
from simpipe.index.stored import decoded, encode, join_stored, raw
from simpipe.reindex.changes import ADDED, SCHEMA, ChangesFile, changes_file
from simpipe.reindex.rebuild import find_dropped

DIM = 8
BACKENDS = {
    "exact": {"kind": "exact"},
    "nmslib": {"kind": "nmslib", "exact_below": 1},
    "scann": {"kind": "scann", "exact_below": 16},
}


@pytest.fixture(autouse=True)
def serial(monkeypatch):
    monkeypatch.setattr("pipelines.rebuild._Rebuild._graph", in_this_process)


def stored_bytes(searcher: Searcher) -> dict[str, bytes]:
    """What is stored of each item: the bytes, not what they mean."""
    found = {}
    for number, rows in enumerate(searcher.partition_rows):
        if rows:
            part = searcher.partition(number)
            data, scale = raw(part.vectors)
            for row in part.live:
                found[part.ids[row]] = data[row].tobytes() + (b"" if scale is None else scale.tobytes())
    return found


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_stored_values_do_not_drift(tmp_path, storage, distance):
    config = make_config(tmp_path / "root", distance=distance, build={"storage": storage}, reindex={"max_hidden": 0.0})
    vectors = clustered(300, dim=DIM)[0] * 3
    truth = make_truth(vectors)
    built = full_build(config, tmp_path, truth, DIM)
    before = stored_bytes(open_release(tmp_path / "root", built[1].release))
    rng, kept = np.random.default_rng(1), set(truth)
    for number in range(20):
        # New items lie among those that are there: the scale of int8 need not grow for them.
        new = {name: item for name, item in truth.items() if rng.random() > 0.01}
        near = [name for name in new if rng.random() < 0.02]
        new |= {f"n{number}-{name}": Item(new[name].vector, "new", number) for name in near}
        made = reindex(config, tmp_path, built, truth, new, f"delta-{number}")
        assert not isinstance(made, rebuild.RetrainNeeded)
        kept &= set(new)
        built, truth = made, new
    assert built[1].provenance["reindex"]["partitions"]["rebuilt"] >= 3
    after = stored_bytes(open_release(tmp_path / "root", built[1].release))
    assert len(kept) > 200
    assert [name for name in kept if after[name] != before[name]] == []
    check(*built, truth, tolerance=0.2 if storage == "int8" else 0.02)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 20), st.integers(0, 3), st.sampled_from([0.0, 0.3, 1.0, 5.0]))
def test_scales_of_int8(seed, parts, size):
    """Each value is right within half a step of the common scale; where the scale stays, bytes stay."""
    rng = np.random.default_rng(seed)
    rows = [rng.normal(size=(int(rng.integers(0, 9)), 5)).astype(np.float32) * [0, 1, 1, 2, 100] for _ in range(parts)]
    kept = [encode(each.astype(np.float32), "int8") for each in rows]
    fresh = (rng.normal(size=(4, 5)) * size).astype(np.float32)
    data, scale = join_stored([(values, step) for values, step in kept], fresh, "int8")
    assert scale is not None
    assert (scale > 0).all()
    out = np.asarray(decoded(data, scale, "euclidean")[:])
    want = [np.asarray(decoded(values, step, "euclidean")[:]) for values, step in kept]
    np.testing.assert_array_less(np.abs(out - np.concatenate([*want, fresh])), scale * 0.51 + 1e-7 + np.zeros_like(out))
    first = 0
    for values, step in kept:
        same = step == scale
        np.testing.assert_array_equal(data[first : first + len(values)][:, same], values[:, same])
        first += len(values)


@settings(max_examples=100, deadline=None)
@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)))
def test_finding_dropped_rows(held, dropped, hidden):
    rows, _ = Rows.sort([f"i{number}" for number in held], [None] * len(held))
    gone, _ = Rows.sort([f"i{number}" for number in dropped], [None] * len(dropped))
    out = np.sort(rows.rows_of([f"i{number}" for number in hidden & held]))
    found = find_dropped(rows, gone, out)
    assert sorted(rows.take_ids(found).tolist()) == sorted(f"i{number}" for number in (held & dropped) - hidden)
    assert (np.diff(found) > 0).all()


@pytest.mark.parametrize("kind", BACKENDS)
def test_backends_answer_after_a_rebuild(tmp_path, kind):
    config = make_config(
        tmp_path / "root", build={"backend": BACKENDS[kind], "profile": {"queries": 50}, "store_files": 2}
    )  # fmt: skip
    truth = make_truth(clustered(400, dim=DIM)[0])
    built = full_build(config, tmp_path, truth, DIM)
    new = change(truth, np.random.default_rng(3), add=5, alter=3, drop=9, dim=DIM)
    folder, manifest = reindex(config, tmp_path, built, truth, new, "delta")
    check(folder, manifest, new)
    assert manifest.has(PROFILE_JSON)
    assert manifest.file(PROFILE_JSON).release is None
    measured = {entry.path for entry in manifest.under("measures")}
    assert len(measured) == len(manifest.partitions)
    searcher = open_release(tmp_path / "root", manifest.release)
    names = sorted(new)
    vectors = np.array([new[name].vector for name in names], np.float32)
    first = searcher.lookup(vectors, 1).ids[:, 0]
    assert np.mean(first == np.array(names, object)) > 0.95


class _Killed(Exception):
    pass


@pytest.mark.parametrize("after", [1, 3, 6, 9, 12, 15, 20, 25])
def test_a_killed_rebuild_is_continued(tmp_path, monkeypatch, after):
    config = make_config(tmp_path / "root", build={"router": {"kind": "kmeans", "partitions": 5, "spill": "nearest"}})
    truth = make_truth(clustered(150, dim=DIM)[0])
    built = full_build(config, tmp_path, truth, DIM)
    new = change(truth, np.random.default_rng(3), add=5, alter=3, drop=9, dim=DIM)
    write_delta(tmp_path / "delta", built[1], truth, new)
    told: dict[str, Any] = {
        "root": tmp_path / "root", "base": built[0], "manifest": built[1], "delta": tmp_path / "delta", "key": files.digest("x")
    }  # fmt: skip
    whole = rebuild.run(config, **told)
    shutil.rmtree(whole[0])
    left = after
    replacing, replacing_folder = files.os.replace, files.os.rename

    def counting(real):
        def move(*args):
            nonlocal left
            left -= 1
            if left < 0:
                raise _Killed
            real(*args)

        return move

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", counting(replacing))
        patch.setattr(files.os, "rename", counting(replacing_folder))
        with pytest.raises(_Killed):
            rebuild.run(config, **told)
    (unfinished,) = [path for path in built[0].parent.iterdir() if path != built[0]]
    (unfinished / "partitions" / ".tmp-12-00001").mkdir(parents=True)
    folder, manifest = rebuild.run(config, **told)
    assert folder == unfinished
    check(folder, manifest, new)
    same = {(entry.path, entry.sha256) for entry in manifest.files}
    assert same == {(entry.path, entry.sha256) for entry in whole[1].files}, "the same files as without a kill"
    assert not list(folder.rglob(".tmp-*"))


def test_what_does_not_go_together_is_refused(tmp_path):
    config = make_config(tmp_path / "root")
    truth = make_truth(clustered(100, dim=DIM)[0])
    built = full_build(config, tmp_path, truth, DIM)

    def run(folder, config=config, manifest=built[1]):
        return rebuild.run(config, root=tmp_path / "root", base=built[0], manifest=manifest, delta=folder, key=folder.name * 8)

    def releases_now():
        return [path for path in built[0].parent.iterdir() if (path / "manifest.json").exists()]

    # An id that the changes call new, though the release holds it.
    write_delta(tmp_path / "twice", built[1], {n: i for n, i in truth.items() if n != "i5"}, {**truth, "i6": truth["i5"]})
    with pytest.raises(DuplicateIdError, match="'i5'"):
        run(tmp_path / "twice")
    # An id that goes, though the release does not hold it.
    write_delta(tmp_path / "unknown", built[1], {**truth, "gone": truth["i0"]}, truth)
    with pytest.raises(ContractError, match="do not belong"):
        run(tmp_path / "unknown")
    write_delta(tmp_path / "other", built[1].model_copy(update={"release": "another"}), truth, {**truth, "n": truth["i0"]})
    with pytest.raises(ContractError, match="base"):
        run(tmp_path / "other")
    write_delta(tmp_path / "good", built[1], truth, {**truth, "n": truth["i0"]})
    with pytest.raises(ContractError, match="storage"):
        run(tmp_path / "good", make_config(tmp_path / "root", build={"storage": "float16"}))
    path = tmp_path / "good" / "index-1.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SimpipeError, match="bytes"):
        run(tmp_path / "good")
    assert releases_now() == [built[0]]


def test_changes_of_queries_touch_no_items(tmp_path):
    """An item that is held out from now on goes as an item and comes as a query, of the same id."""
    config = make_config(tmp_path / "root")
    truth = make_truth(clustered(100, dim=DIM)[0])
    built = full_build(config, tmp_path, truth, DIM)
    new = {name: item for name, item in truth.items() if name != "i7"}
    changes = write_delta(tmp_path / "delta", built[1], truth, new)
    of, listed = built[1].store_files, []
    for bucket in range(of):
        table = changes.read(tmp_path / "delta", bucket)
        gone = table.filter(pa.array(np.isin(table.column("id").to_numpy(zero_copy_only=False), ["i7"])))
        held = pa.table(
            [gone.column("id"), pa.array([ADDED] * len(gone), pa.int8()), pa.array([True] * len(gone))], schema=SCHEMA
        )
        path = tmp_path / "delta" / changes_file(bucket, of)
        pq.write_table(pa.concat_tables([table, held]).sort_by("id"), path)
        entry = files.entry_of(path, tmp_path / "delta")
        listed.append(ChangesFile(path=entry.path, size=entry.size, sha256=entry.sha256))
    changes.model_copy(update={"files": tuple(listed)}).save(tmp_path / "delta")
    told: dict[str, Any] = {"base": built[0], "manifest": built[1], "delta": tmp_path / "delta", "key": files.digest("x")}
    check(*rebuild.run(config, root=tmp_path / "root", **told), new)


def test_bad_vectors_are_rejected(tmp_path):
    config = make_config(tmp_path / "root")
    truth = make_truth(clustered(100, dim=DIM)[0])
    built = full_build(config, tmp_path, truth, DIM)
    new = {**truth, "bad": Item((float("nan"),) * DIM, None, 1), "n": truth["i0"]}
    with pytest.raises(RejectedError, match="bad"):
        reindex(config, tmp_path, built, truth, new, "strict")
    lenient = make_config(tmp_path / "root", build={"rejects": {"max_share": 0.6}})
    shutil.rmtree(tmp_path / "strict")
    folder, manifest = reindex(lenient, tmp_path, built, truth, new, "lenient")
    assert manifest.provenance["reindex"]["rejected"] == 1
    del new["bad"]
    check(folder, manifest, new)


def test_a_release_without_digests_cannot_be_rebuilt(tmp_path):
    config = make_config(tmp_path / "root")
    truth = make_truth(clustered(100, dim=DIM)[0])
    folder, manifest = full_build(config, tmp_path, truth, DIM)
    manifest = manifest.model_copy(
        update={"files": tuple(entry for entry in manifest.files if not entry.path.startswith("digests/"))}
    )
    manifest.save(folder)
    with pytest.raises(ContractError, match="digests"):
        reindex(config, tmp_path, (folder, manifest), truth, {**truth, "n": truth["i0"]}, "delta")


def test_metadata_of_another_type_is_refused(tmp_path):
    config = make_config(tmp_path / "root")
    truth = make_truth(clustered(100, dim=DIM)[0])
    built = full_build(config, tmp_path, truth, DIM)
    write_delta(tmp_path / "delta", built[1], truth, {**truth, "n": truth["i0"], "m": truth["i1"]})
    info = EmbeddingsInfo.load(tmp_path / "delta")
    listed = []
    for file in info.files:
        path = tmp_path / "delta" / file.path
        table = pq.read_table(path)
        column = table.column("number").cast("string")
        changed = [("n/a" if file.split == "index" else value) for value in column.to_pylist()]
        place = table.schema.get_field_index("number")
        pq.write_table(table.set_column(place, "number", [changed]) if len(table) else table, path)
        entry = files.entry_of(path, tmp_path / "delta")
        listed.append(file.model_copy(update={"size": entry.size, "sha256": entry.sha256}))
    info.model_copy(update={"files": tuple(listed)}).save(tmp_path / "delta")
    with pytest.raises(ContractError, match="another type"):
        rebuild.run(
            config, root=tmp_path / "root", base=built[0], manifest=built[1], delta=tmp_path / "delta", key=files.digest("x")
        )
