"""Changes as a folder: what is upserted and deleted, against plain dictionaries; absence deletes nothing."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from changes_data import check, compare, config_of, make_catalogue, release_of, write_catalogue
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simpipe.config import parse_config
from simpipe.errors import ConfigError, SourceError
from simpipe.reindex.deltas import delta_source, read_deltas

BEFORE = make_catalogue(120)
NAMES = [*list(BEFORE)[:30], *(f"new-{row}" for row in range(30))]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("base")
    config = config_of(root, write_catalogue(root / "before.parquet", BEFORE))
    return root, release_of(config), config


def compared(base, folder, config=None):
    root, release, whole = base
    shutil.rmtree(root / "embeddings" / ("k" * 12), ignore_errors=True)
    config = config or whole
    deltas = read_deltas(config, folder)
    source = None if deltas.upserts is None else deltas.config.source
    return compare(config, release, source=source, deltas=True, deleted=deltas.deletes)


UPSERTS = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 2), max_size=30)


@given(upserts=UPSERTS, deleted=st.sets(st.sampled_from([*NAMES, "nobody"])), text=st.booleans())
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_upserts_and_deletes_give_what_dictionaries_give(base, tmp_path_factory, upserts, deleted, text):
    folder = tmp_path_factory.mktemp("deltas")
    news = {name: ("fresh", (1.0, float(value), 0.0, 1.0), value) for name, value in upserts.items()}
    news = {name: BEFORE[name] if row[2] == 0 and name in BEFORE else row for name, row in news.items()}  # some are not new
    deleted = deleted - set(news)
    write_catalogue(folder / "upsert" / "a.parquet", news, group=7)
    (folder / "delete").mkdir()
    if text:
        (folder / "delete" / "ids.txt").write_text("\n".join([*sorted(deleted), ""]))
    else:
        ids = [*sorted(deleted), *sorted(deleted)[:2], None]
        pq.write_table(pa.table({"id": pa.array(ids, pa.string())}), folder / "delete" / "ids.parquet")
    found = compared(base, folder)
    now = {name: row for name, row in (BEFORE | news).items() if name not in deleted}
    check(found, BEFORE, now)
    assert found.changes.ignored == len(deleted - set(BEFORE))


def test_an_id_that_is_upserted_and_deleted(base, tmp_path):
    write_catalogue(tmp_path / "upsert" / "a.parquet", {name: BEFORE[name] for name in ("item-3", "item-4")})
    (tmp_path / "delete").mkdir()
    (tmp_path / "delete" / "gone.txt").write_text("item-4\n")
    with pytest.raises(SourceError, match=r"'item-4' is to be dropped, and stands at a.parquet row 1"):
        compared(base, tmp_path)


def test_an_upsert_that_is_rejected_or_of_another_class_drops_its_item_as_a_full_build_would(base, tmp_path):
    root, _, _ = base
    news = {
        "item-1": ("c1", (float("nan"), 0.0, 0.0, 0.0), 1),
        "item-2": ("elsewhere", (1.0, 2.0, 3.0, 4.0), 1),
        "item-3": ("c1", (1.0, 2.0, 3.0, 4.0), 1),
    }
    write_catalogue(tmp_path / "upsert" / "a.parquet", news)
    classes = ["c0", "c1", "c2", "c3", "c4"]
    config = config_of(root, root / "before.parquet", rejects={"max_share": 0.5}, classes={"index": classes})
    found = compared(base, tmp_path, config)
    check(found, BEFORE, {name: row for name, row in (BEFORE | news).items() if name not in ("item-1", "item-2")})


def test_a_held_out_share_that_changed_moves_what_is_upserted(base, tmp_path):
    root, _, _ = base
    news = {f"item-{row}": BEFORE[f"item-{row}"] for row in range(60)}
    write_catalogue(tmp_path / "upsert" / "a.parquet", news)
    found = compared(base, tmp_path, config_of(root, root / "before.parquet", queries={"fraction": 0.6}))
    assert found.changes.items.deleted == found.changes.queries.added > 10
    assert found.changes.items.added == found.changes.items.changed == 0
    assert found.changes.queries.deleted == 0


def test_an_empty_folder_of_changes_changes_nothing(base, tmp_path):
    write_catalogue(tmp_path / "upsert" / "none.parquet", {})
    (tmp_path / "upsert" / ".hidden").write_bytes(b"")
    found = compared(base, tmp_path)
    assert not found.changes.any
    assert read_deltas(base[2], tmp_path).upserts is None
    assert read_deltas(base[2], tmp_path).deletes is None


def test_what_folders_of_changes_may_hold(base, tmp_path):
    config = base[2]
    with pytest.raises(SourceError, match="no such folder"):
        read_deltas(config, tmp_path / "nowhere")
    write_catalogue(tmp_path / "upsert" / "a.parquet", {"item-1": BEFORE["item-1"]})
    first = read_deltas(config, tmp_path)
    (tmp_path / "delete").mkdir()
    (tmp_path / "delete" / "ids.txt").write_text("a\n")
    second = read_deltas(config, tmp_path)
    assert first.fingerprint != second.fingerprint
    assert second.deletes == tmp_path / "delete"
    pq.write_table(pa.table({"name": ["a"]}), tmp_path / "delete" / "ids.parquet")
    with pytest.raises(SourceError, match="no column `id`; there are name"):
        compared(base, tmp_path)
    (tmp_path / "delete" / "ids.csv").write_text("a\n")
    with pytest.raises(SourceError, match=r"ids\.csv"):
        read_deltas(config, tmp_path)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            {"kind": "vectors", "path": "x.npy", "ids": "i.txt", "labels": "l.txt"},
            {"vectors": "embedding", "ids": "id", "labels": "label"},
        ),
        ({"kind": "vectors", "path": "x.npz", "vectors": "x", "ids": "i"}, {"vectors": "embedding", "ids": "id", "labels": None}),
        ({"kind": "vectors", "path": "x.parquet", "vectors": "v", "ids": "i"}, {"vectors": "v", "ids": "i"}),
        ({"kind": "parquet", "path": "x", "image": "png", "resize": [8, 8]}, {"image": "png"}),
        ({"kind": "folder", "path": "x", "resize": [8, 8]}, {}),
        ({"kind": "tfrecord", "path": "x", "id": "key", "shape": [8, 8, 1]}, {"id": "key"}),
        ({"kind": "npz", "path": "x.npz", "ids": "ids"}, {"ids": "ids"}),
        ({"kind": "vectors", "path": "x.npy"}, "source.ids"),
        ({"kind": "npz", "path": "x.npz"}, "source.ids"),
        ({"kind": "tfrecord", "path": "x", "shape": [8, 8, 1]}, "source.id"),
        ({"kind": "digits"}, "digits cannot come as changes"),
        ({"kind": "tfds", "name": "mnist"}, "tfds cannot come as changes"),
    ],
)
def test_each_kind_of_source(tmp_path, source, expected):
    raw = {"name": "deltas", "root": str(tmp_path), "source": source, "classes": {"train": ["0-3"]}}
    config = parse_config(raw)
    (tmp_path / "upsert").mkdir()
    np.savez(tmp_path / "upsert" / "any.npz", x=np.zeros(1))
    if isinstance(expected, str):
        with pytest.raises(ConfigError, match=expected):
            delta_source(config, tmp_path)
        return
    changed = delta_source(config, tmp_path)
    path = tmp_path / "upsert" / "any.npz" if source["kind"] == "npz" else tmp_path / "upsert"
    assert changed.source == config.source.model_copy(update={"path": str(path), **expected})
    assert changed.classes.train == (("0-3",) if source["kind"] == "vectors" else ())
