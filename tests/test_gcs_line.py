"""The line with its root on `gs://`: the same release as on a disk, although requests fail and bodies are cut; kills resume."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import reindex_model as model
from gcs_bucket import bucket_at
from line_runs import items_of, run

import simpipe
from pipelines import reindex
from pipelines.line import Line
from simpipe import files, releases
from simpipe.cli import main
from simpipe.config import parse_config
from simpipe.embeddings import EmbeddingsInfo
from simpipe.fsck.check import check_root
from simpipe.prune import prune
from tests.fake_gcs import FakeGcs

ROOT = "gs://bucket/root"
pytestmark = pytest.mark.usefixtures("undrawn")


def digits(root: Path | str) -> dict[str, Any]:
    return {
        "name": "digits",
        "root": str(root),
        "source": "digits",
        "classes": {"train": ["0-7"]},
        "queries": {"fraction": 0.2},
        "shard": {"num_shards": 3},
        "train": {"epochs": 1, "steps_per_epoch": 10, "sampler": {"classes_per_batch": 8, "examples_per_class": 4}},
        "build": {"router": {"kind": "kmeans", "partitions": 3}, "backend": {"kind": "scann", "exact_below": 16}},
        "search": {"target_recall": None},
        "report": {"projection_items": 100},
    }


def faulty(fake: FakeGcs) -> None:
    fake.fail_share, fake.cut_share = 0.02, 0.05  # of some hundred requests and bodies


def faults_were_met(fake: FakeGcs) -> None:
    assert fake.failed > 0.01 * fake.requests, "429, 500 and 503"
    assert fake.cut > 0


def clean(root: Path) -> None:
    report = check_root(root)
    assert report.ok
    assert report.findings == ()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory):
    """One configuration's line on a disk and on a service that fails."""
    folder = tmp_path_factory.mktemp("digits")
    here, said = run(parse_config(digits(folder / "local")))
    with bucket_at(folder, seed=8) as (fake, _):
        faulty(fake)
        there, told = run(parse_config(digits(ROOT)))
        faults_were_met(fake)
        assert [text.split()[0] for text in told] == [text.split()[0] for text in said]
        yield folder, fake, here, there


def test_the_release_is_the_one_of_a_local_run(both) -> None:
    _, _, here, there = both
    clean(there.root)
    (_, one), (_, other) = releases.open_live(here.root), releases.open_live(there.root)
    assert items_of(there.root) == items_of(here.root), "ids, labels and vectors"
    counts = ("items", "dim", "distance", "encoder", "partitions", "store_files", "steps")
    assert [getattr(one, name) for name in counts if name not in ("encoder", "steps", "partitions")] == [
        getattr(other, name) for name in counts if name not in ("encoder", "steps", "partitions")
    ]
    assert one.encoder.fingerprint == other.encoder.fingerprint
    assert [(part.rows, part.live, part.backend) for part in one.partitions] == [
        (part.rows, part.live, part.backend) for part in other.partitions
    ]
    assert there.metrics()["label_precision_at_1"] == here.metrics()["label_precision_at_1"]


def test_every_step_is_done_the_second_time(both) -> None:
    _, fake, _, there = both
    before = list(fake.written)
    _, told = run(there.config)
    assert all("skipped, unchanged" in text for text in told)
    kept = [name for name in fake.written[len(before) :] if "/.locks/" not in name and "/.leases/" not in name]
    assert kept == []


def test_lookup_and_match_answer(both, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _, here, _ = both
    embeddings = here.embeddings[0]
    table = pq.read_table(embeddings / EmbeddingsInfo.load(embeddings).of_splits("query")[0].path).slice(0, 40)
    pq.write_table(table, folder / "q.parquet")
    found = {}
    for root in (str(here.root), ROOT):
        for verb in ("lookup", "match"):
            out = folder / f"{verb}-{'gs' if root == ROOT else 'local'}.parquet"
            assert main([verb, "--root", root, "--queries", str(folder / "q.parquet"), "--out", str(out)]) == 0
            found[root, verb] = pq.read_table(out)
    for verb in ("lookup", "match"):
        assert found[ROOT, verb].equals(found[str(here.root), verb])
    name = next(iter(items_of(here.root)))
    capsys.readouterr()
    assert main(["lookup", "--root", ROOT, "--id", name, "-k", "3", "--json"]) == 0
    assert name in capsys.readouterr().out
    # Queries and answers may lie in the bucket as well.
    with files.replacing(files.located("gs://bucket/queries/q.parquet")) as temporary:
        pq.write_table(table, temporary)
    assert main(["lookup", "--root", ROOT, "--queries", "gs://bucket/queries", "--out", "gs://bucket/answers"]) == 0
    (answers,) = files.located("gs://bucket/answers").glob("*.parquet")
    assert pq.read_table(answers).equals(found[ROOT, "lookup"])


def test_the_other_verbs_work_there(both, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _, _, there = both
    (folder / "c.yaml").write_text(json.dumps(digits(ROOT)))
    config = ["--config", str(folder / "c.yaml")]
    live = releases.open_live(there.root)[1].release
    for command in (
        ["tag", "good", "--release", live],
        ["releases"],
        ["gate"],
        ["diff", "live", "good"],
        ["fsck"],
        ["prune"],
        ["dedupe", "--distance", "0.01"],
    ):
        assert main([*command, *config]) == 0, command
    said = capsys.readouterr().out
    assert live in said
    assert simpipe.open_release(ROOT, "good").manifest.release == live
    clean(there.root)


def catalogue(root: Path) -> Any:
    """Source and root of 40 items in a bucket."""
    config = model.config_of(root).model_dump(mode="json")
    config["root"], config["source"]["path"] = ROOT, "gs://bucket/source"
    return parse_config(config)


def test_reindex_rollback_prune(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = model.names()[0]
    truth = {name: model.new_item(rng, 0) for name in names[:40]}
    with bucket_at(tmp_path, seed=3) as (fake, _):
        bucket = tmp_path / "gcs" / "bucket"
        model.write_source(bucket / "source", truth)
        config = catalogue(tmp_path)
        line, _ = run(config)
        first = releases.open_live(line.root)[1].release
        faulty(fake)
        for number in (1, 2):
            truth |= {name: model.new_item(rng, number) for name in [*names[:5], *names[40:42]]}
            truth.pop(names[20 + number])
            model.write_source(bucket / "source", truth)
            assert reindex.run(config, say=lambda text: None).outcome == "published"
            clean(line.root)
            queries = set(truth) - set(items_of(line.root))
            assert set(items_of(line.root)) <= set(truth)
            assert len(queries) < len(truth) / 2
        assert reindex.run(config, say=lambda text: None).outcome == "unchanged"
        second, third = (each.release for each in (releases.rollback(line.root), releases.rollback(line.root)))
        assert len({first, second, third}) == 3
        gc.collect()  # searchers that nobody closed give their leases back, soon after
        while any(name.startswith(f"{first}/r-") for name in files.tree(line.root / ".leases")):
            time.sleep(0.05)
        report = prune(line.root, keep=0)
        assert [each.release for each in report.removed] == [first]
        assert report.files > 0
        clean(line.root)
        assert set(items_of(line.root)) <= set(truth)
        faults_were_met(fake)


KILLED = """
import sys, json
from pipelines.line import Line
from simpipe.config import parse_config
Line(parse_config(json.loads(sys.argv[1])), say=lambda text: None).run()
"""


def test_killed_runs_go_on(vectors_config, tmp_path: Path) -> None:
    """Three runs are killed, each where the one before it had not come; the fourth one ends."""
    config = vectors_config(ROOT)
    with bucket_at(tmp_path) as (fake, _):
        command = [sys.executable, "-c", KILLED, config.model_dump_json()]
        kept: list[tuple[int, set[str]]] = []
        for at in ("partitions/00003/", "/.work", "evaluate"):
            begun = len(fake.written)
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while process.poll() is None and not any(at in name for name in fake.written[begun:]):
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL, f"it was killed at {at}, not done"
            kept.append((len(fake.written), {partition_of(name) for name in fake.written if name.endswith("/backend.json")}))
        done = {name for name in fake.written if "/partitions/" in name and not name.rpartition("/")[2].startswith(".tmp-")}
        assert 1 <= len(kept[0][1]) <= len(kept[1][1]) <= len(kept[2][1]) == 11, "all were built when it was measured"
        line, _ = run(config)
        clean(line.root)
        for position, whole in kept:
            again = {partition_of(name) for name in fake.written[position:] if name in done}
            assert not again & whole, "partitions that were complete are kept"
        assert (
            len(items_of(line.root)) + sum(file.rows for file in EmbeddingsInfo.load(line.embeddings[0]).of_splits("query"))
            == 3000
        )
        assert {name.split("/")[3] for name in done} <= {releases.open_live(line.root)[1].release}, "the same release goes on"
        assert Line(config, say=lambda text: None).release()[1].release == releases.open_live(line.root)[1].release


def partition_of(name: str) -> str:
    return name.rpartition("/")[0]
