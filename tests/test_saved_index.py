"""Saved indexes: releases that load again, replace in one move, survive a kill, and name what was altered."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from test_indexer import QX, QY, X, Y, filled

from simpipe import releases
from simpipe.cli import main
from simpipe.errors import ConfigError, EmptyIndexError, ReleaseError
from simpipe.indexer import Indexer


@pytest.mark.parametrize("search", ["linear", "nmslib", "scann"])
def test_save_and_load(tmp_path, search):
    indexer = filled(search=search, labels=Y + 2**33, data=X)
    result = indexer.calibrate(QX, QY + 2**33, {"high": 0.9}, verbose=0)
    indexer.save(tmp_path / "index")
    loaded = Indexer.load(tmp_path / "index")
    assert loaded.backend == indexer.backend
    assert loaded.match(QX) == indexer.match(QX)
    assert loaded.calibration.cutpoints == result.cutpoints
    for name, values in result.thresholds.items():
        assert (loaded.calibration.thresholds[name] == values).all()
    ours, theirs = indexer.batch_lookup(QX, k=3), loaded.batch_lookup(QX, k=3)
    assert [[(n.id, n.label, n.distance) for n in row] for row in ours] == [
        [(n.id, n.label, n.distance) for n in row] for row in theirs
    ]
    assert (theirs[0][0].data == X[int(theirs[0][0].id)]).all()
    loaded.batch_add(QX, QY + 2**33)  # grows on, in memory
    assert loaded.size() == 1200
    assert loaded.batch_lookup(QX[:1], k=1)[0][0].id == "900"
    assert (loaded.to_data_frame()["labels"][:900] == Y + 2**33).all()
    assert loaded.match(QX[:5]) == {name: labels[:5] for name, labels in loaded.match(QX).items()}
    pickled = [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes()[:2] in (b"\x80\x04", b"\x80\x05")]
    assert pickled == []


def test_the_command_line_opens_a_saved_index(tmp_path, capsys):
    indexer = filled(data=X)
    indexer.calibrate(QX, QY, verbose=0)
    indexer.save(tmp_path / "index")
    assert main(["lookup", "--root", str(tmp_path / "index"), "--id", "17", "-k", "3", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)["results"][0]
    expected = indexer.single_lookup(X[17], k=3)
    assert [(n["id"], n["label"]) for n in answer["neighbors"]] == [(n.id, str(n.label)) for n in expected]
    np.save(tmp_path / "q.npy", QX[:2])
    release = next((tmp_path / "index" / "releases").iterdir())
    assert main(["match", "--root", str(release), "--vectors", str(tmp_path / "q.npy"), "--json"]) == 0
    matched = json.loads(capsys.readouterr().out)["results"]
    labels = [None if label == -1 else str(label) for label in indexer.match(QX[:2])["optimal"]]
    assert [row["match"]["label"] for row in matched] == labels


def test_saving_again_replaces_in_one_move(tmp_path):
    indexer = filled()
    root = tmp_path / "index"
    indexer.save(root)
    with pytest.raises(ConfigError, match="holds an index already"):
        indexer.save(root, overwrite=False)
    reader = Indexer.load(root)
    for size in (910, 920, 930):
        indexer.batch_add(QX[size - 910 : size - 900], QY[size - 910 : size - 900])
        indexer.save(root)
        assert Indexer.load(root).size() == size
        gc.collect()
    assert len(releases.finished(root)) == 3  # the live one, the one before, and the one that `reader` has open
    assert reader.batch_lookup(QX[:1], k=1)[0][0].id
    assert reader.size() == 900
    del reader
    gc.collect()
    indexer.save(root)
    assert len(releases.finished(root)) == 2
    with pytest.raises(EmptyIndexError, match="nothing to save"):
        Indexer(16).save(root)


def test_a_killed_save_leaves_the_old_index(tmp_path, monkeypatch):
    from simpipe import memory_release
    from simpipe.manifest import Manifest

    indexer = filled()
    root = tmp_path / "index"
    indexer.save(root)
    indexer.batch_add(QX, QY)
    for owner, name in ((memory_release, "write_store_file"), (Manifest, "save"), (releases, "publish")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, lambda *_, **__: sys.exit("killed"))
            with pytest.raises(SystemExit):
                indexer.save(root)
        assert Indexer.load(root).size() == 900
    indexer.save(root)
    assert Indexer.load(root).size() == 1200


def test_altered_and_missing_files_are_named(tmp_path):
    root = tmp_path / "index"
    with pytest.raises(ReleaseError, match="nothing is published"):
        Indexer.load(root)
    filled().save(root)
    (vectors,) = Path(root).rglob("vectors.npy")
    data = bytearray(vectors.read_bytes())
    data[-3] ^= 1
    vectors.write_bytes(data)
    with pytest.raises(ReleaseError, match=r"vectors\.npy"):
        Indexer.load(root).batch_lookup(QX)
