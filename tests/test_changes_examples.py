"""What changed since a release of an encoder: only added and changed examples go through it."""

from __future__ import annotations

import shutil
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from changes_data import Found
from make_examples import make_examples

from pipelines import build, changes, embed, shard
from simpipe.config import parse_config
from simpipe.data.examples import DatasetInfo
from simpipe.embed import EmbedSpec, embed_shard, encode_function
from simpipe.embeddings import vectors_of
from simpipe.errors import ContractError, IncompatibleError, RejectedError
from simpipe.ids import holdout
from simpipe.reindex.changes import ADDED, CHANGED, DELETED
from simpipe.reindex.deltas import read_deltas
from simpipe.training.encoder import save_encoder

WEIGHTS = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
# id -> (label, input, note)
Rows = dict[str, tuple[str | None, tuple[float, ...], str | None]]


def make_rows(n: int, *, seed: int = 0, prefix: str = "x") -> Rows:
    x = np.random.default_rng(seed).integers(1, 9, (n, 3)).astype(float)
    return {f"{prefix}{row}": (str(row % 6), tuple(x[row].tolist()), None if row % 3 else f"note {row}") for row in range(n)}


def write_rows(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {f"f{place}": [row[1][place] for row in rows.values()] for place in range(3)}
    text = {"label": [row[0] for row in rows.values()], "note": [row[2] for row in rows.values()]}
    texts = {name: pa.array(values, pa.string()) for name, values in text.items()}
    pq.write_table(pa.table({"id": pa.array(list(rows), pa.string()), **texts, **columns}), path, row_group_size=50)
    return path


def config_of(root: Path, path: Path, **changed):
    raw = {
        "name": "examples",
        "root": str(root),
        "source": {"kind": "parquet", "path": str(path), "columns": ["f0", "f1", "f2"], "metadata": ["note"]},
        "classes": {"train": ["0-3"], "index": ["2-4"]},
        "queries": {"fraction": 0.2},
        "shard": {"num_shards": 5},
        "build": {"router": {"kind": "hash", "partitions": 2}, "backend": {"kind": "exact"}, "store_files": 11},
    }
    return parse_config({**raw, **changed})


def present_in(rows: Rows, *, fraction: float = 0.2) -> tuple[Rows, Rows]:
    """Items and queries that a full run has: of the listed classes, with a direction."""
    kept = {name: row for name, row in rows.items() if row[0] in "01234" and any(row[1])}
    held = holdout(list(kept), fraction, 42).tolist()
    sides = [{name: kept[name] for name, query in zip(kept, held, strict=True) if query == side} for side in (False, True)]
    return sides[0], sides[1]


BEFORE = make_rows(200)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("base")
    config = config_of(root, write_rows(root / "before.parquet", BEFORE))
    info = shard.run(config, folder=root / "examples" / "base", key="base")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, use_bias=False)])
    model.set_weights([WEIGHTS])
    fields = {"dim": 2, "distance": "euclidean", "train_classes": ("0",), "training": {}, "history": {}, "metrics": {}}
    save_encoder(model, root / "encoders" / "tiny", key="tiny", input=info.input, **fields)
    where = {"examples": root / "examples" / "base", "encoder": root / "encoders" / "tiny"}
    embed.run(config, **where, folder=root / "embeddings" / ("b" * 12), key="b" * 64)
    release = build.run(config, root=root, embeddings=root / "embeddings" / ("b" * 12), encoder=where["encoder"], key="build")
    return root, release


def compared(base, config, *, key="k" * 64, deltas=None) -> Found:
    """A comparison: of the whole source, or with `deltas`."""
    root, (folder, manifest) = base
    out = root / "embeddings" / key[:12]
    source = deltas.config if deltas else config
    examples = None
    if deltas is None or deltas.upserts:
        examples = root / "examples" / key[:12]
        shard.run(source, folder=examples, key=key)
    given = changes.Present(
        examples=examples, encoder=root / "encoders" / "tiny", deltas=bool(deltas), deleted=deltas.deletes if deltas else None
    )
    info, found = changes.run(config, given, base=folder, manifest=manifest, folder=out, key=key)
    return Found(info, found, out)


def check(found: Found, before: Rows, now: Rows) -> None:
    for place, (counts, split) in enumerate(((found.changes.items, "index"), (found.changes.queries, "query"))):
        old, new = present_in(before)[place], present_in(now)[place]
        kinds = {name: ADDED for name in new if name not in old} | {name: DELETED for name in old if name not in new}
        kinds |= {name: CHANGED for name in new if name in old and new[name] != old[name]}
        assert found.kinds(query=split == "query") == kinds
        assert counts.added + counts.changed + counts.unchanged == len(new)
        assert counts.changed + counts.deleted + counts.unchanged == len(old)
        wanted = set(new) if split == "query" and found.changes.any else {name for name in new if kinds.get(name)}
        assert held(found, split) == {name: new[name] for name in wanted}


def held(found: Found, split: str) -> Rows:
    """What the data set holds, its inputs found back from the embeddings by the notes of what they were made from."""
    rows: Rows = {}
    for file in found.info.of_splits(split):
        table = pq.read_table(found.folder / file.path)
        for row, vector in zip(table.to_pylist(), vectors_of(table), strict=True):
            assert row["id"] not in rows
            rows[row["id"]] = (row["label"], INPUTS[tuple(vector.tolist()), row["id"]], row["note"])
    return rows


INPUTS: dict[tuple[tuple[float, ...], str], tuple[float, ...]] = {}


def remember(rows: Rows) -> Rows:
    for name, (_, x, _) in rows.items():
        INPUTS[tuple((np.array(x, np.float32) @ WEIGHTS).tolist()), name] = x
    return rows


remember(BEFORE)


def edited() -> Rows:
    now = {name: row for place, (name, row) in enumerate(BEFORE.items()) if place % 8}
    for place in (1, 2, 3, 4, 9, 10, 11, 50, 51, 52):
        label, x, note = now[f"x{place}"]
        now[f"x{place}"] = [(str((int(label) + 1) % 6), x, note), (label, (x[0] + 10, *x[1:]), note), (label, x, "new")][
            place % 3
        ]
    return remember(now | make_rows(40, seed=5, prefix="new"))


def test_only_added_and_changed_examples_are_embedded(base, tmp_path, monkeypatch):
    root, _ = base
    now = edited()
    # Other shards, another order, and a class before the others, so that every class has another index.
    now["first"] = ("-1", (1.0, 1.0, 1.0), None)
    order = np.random.default_rng(1).permutation(len(now))
    shuffled = {name: now[name] for name in np.array(list(now), object)[order]}
    config = config_of(
        root,
        write_rows(tmp_path / "now.parquet", shuffled),
        shard={"num_shards": 3, "compression": ""},
        classes={"train": ["1-3"], "index": ["0-4"]},
    )
    asked = []
    real = embed_shard

    def counted(*args, rows, **kwargs):
        asked.append(len(rows))
        return real(*args, rows=rows, **kwargs)

    monkeypatch.setattr("simpipe.embed.embed_shard", counted)
    found = compared(base, config, key="a" * 64)
    del now["first"]
    check(found, BEFORE, now)
    items, queries = found.changes.items, found.changes.queries
    assert sum(asked) == items.added + items.changed + queries.added + queries.changed
    asked.clear()
    notes = found.folder / ".work"
    (found.folder / "embeddings.json").unlink()
    again = compared(base, config, key="a" * 64)
    assert (again.info, again.changes) == (found.info, found.changes)
    assert asked, "a new run, the notes of the finished one are gone"
    assert not notes.exists()


def test_a_killed_run_keeps_finished_shards(base, tmp_path, monkeypatch):
    root, _ = base
    config = config_of(root, write_rows(tmp_path / "now.parquet", edited()))
    real, calls = embed_shard, []

    def fails(*args, out, **kwargs):
        calls.append(out.name)
        if len(calls) == 3:
            raise ContractError("killed")
        return real(*args, out=out, **kwargs)

    monkeypatch.setattr("simpipe.embed.embed_shard", fails)
    with pytest.raises(ContractError, match="killed"):
        compared(base, config, key="c" * 64)
    found = compared(base, config, key="c" * 64)
    check(found, BEFORE, edited())
    assert sorted(calls) == sorted([*set(calls), calls[2]]), "each once, but for the one that failed"


def test_nothing_changed(base):
    config = config_of(base[0], base[0] / "before.parquet")
    found = compared(base, config, key="n" * 64)
    assert not found.changes.any
    assert found.info.files == ()


def test_an_embedding_without_direction_is_not_present(base, tmp_path):
    root, _ = base
    now = edited()
    for name in ("x5", "x6", "x7", "new2", "new3"):  # old and new ones; of classes that are indexed
        now[name] = ("2", (0.0, 0.0, 0.0), None)
    path = write_rows(tmp_path / "now.parquet", now)
    with pytest.raises(RejectedError, match=r"5 of \d+ records rejected"):
        compared(base, config_of(root, path), key="r" * 64)
    found = compared(base, config_of(root, path, embed={"rejects": {"max_share": 0.1}}), key="r" * 64)
    check(found, BEFORE, now)
    assert found.info.counts["rejected"] == 5
    assert all(kind == DELETED for name, kind in (found.kinds(query=False) | found.kinds(query=True)).items() if name == "x5")


def test_changes_without_classes_that_train(base, tmp_path):
    root, _ = base
    news = remember(
        {
            "x2": ("4", (3.0, 2.0, 1.0), None),
            "x3": ("5", (3.0, 2.0, 1.0), None),  # a class that is neither trained on nor indexed: dropped
            "n1": ("4", (5.0, 5.0, 5.0), "new"),
            "n2": ("5", (1.0, 1.0, 1.0), None),
        }
    )
    write_rows(tmp_path / "upsert" / "a.parquet", news)
    (tmp_path / "delete").mkdir()
    (tmp_path / "delete" / "ids.txt").write_text("x10\nx4\nnobody\n")
    config = config_of(root, root / "before.parquet")
    found = compared(base, config, key="d" * 64, deltas=read_deltas(config, tmp_path))
    check(found, BEFORE, {name: row for name, row in (BEFORE | news).items() if name not in ("x10", "x4")})
    assert (
        found.changes.ignored == sum(name not in {**present_in(BEFORE)[0], **present_in(BEFORE)[1]} for name in ("x10", "x4")) + 1
    )
    shutil.rmtree(tmp_path / "upsert")
    found = compared(base, config, key="e" * 64, deltas=read_deltas(config, tmp_path))
    check(found, BEFORE, {name: row for name, row in BEFORE.items() if name not in ("x10", "x4")})


def test_another_encoder_is_refused(base):
    root, (folder, manifest) = base
    other = manifest.model_copy(update={"encoder": manifest.encoder.model_copy(update={"fingerprint": "f" * 64})})
    with pytest.raises(IncompatibleError, match="encoder ffff"):
        compared((root, (folder, other)), config_of(root, root / "before.parquet"), key="f" * 64)


@pytest.mark.parametrize("kind", ["raw", "float"])
def test_digests_do_not_depend_on_shard_class_index_or_other_records(tmp_path, kind):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (90, 6, 6, 1)).astype(np.uint8) if kind == "raw" else rng.normal(size=(90, 7)).astype(np.float32)
    y, ids = np.arange(90) % 3 + 5, [f"id-{row}" for row in range(90)]
    found = []
    for name, rows, shards, compression in (("a", np.arange(90), 2, "gzip"), ("b", np.arange(89, 20, -1), 4, "")):
        classes = y[rows].copy()
        if name == "b":
            classes[-1] = 1  # a class before the others
        info = make_examples(
            tmp_path / name, x[rows], classes, ids=[ids[row] for row in rows], num_shards=shards, compression=compression
        )
        model = keras.Sequential([keras.Input(x.shape[1:]), keras.layers.Flatten(), keras.layers.Dense(2)])
        spec = EmbedSpec(info, 2, "cosine", "none", 16)
        encode = encode_function(model, spec)
        digests = {}
        for number, (path, shard_info) in enumerate(info.shards(tmp_path / name, "train")):
            out = tmp_path / f"{name}-{number}.parquet"
            embed_shard(encode, path, shard_info, spec, out=out)
            table = pq.read_table(out)
            assert table.column_names[:4] == ["id", "label", "embedding", "digest"]
            digests |= dict(zip(table["id"].to_pylist(), table["digest"].to_pylist(), strict=True))
        found.append(digests)
    whole, part = found
    assert len(set(whole.values())) == 90
    changed = {name for name in part if part[name] != whole[name]}
    assert changed == {ids[21]}, "the one whose label changed"
    assert DatasetInfo.load(tmp_path / "b").class_names[0] == "1"
