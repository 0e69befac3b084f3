"""A whole line whose jobs all run on Dataflow (of our own, on loopback), with its root in storage; then a re-index."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import clustered
from test_dataflow import cloud as cloud
from test_runner_arguments import DATAFLOW

from simpipe.cli import main

_ROOT = "gs://a-bucket/catalogue"


def write(folder: Path, vectors: np.ndarray, labels: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    columns = {
        "id": [f"item-{number:04d}" for number in range(len(vectors))],
        "label": [f"c{label}" for label in labels],
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
    }
    pq.write_table(pa.table(columns), folder / "part.parquet", row_group_size=400)


@pytest.mark.usefixtures("undrawn")
def test_a_line_and_a_reindex_run_on_dataflow(cloud, tmp_path, capsys):
    bucket = tmp_path / "storage" / "a-bucket"
    vectors, labels = clustered(800, dim=8)
    write(bucket / "source", vectors, labels)
    raw = {
        "name": "catalogue",
        "root": _ROOT,
        "source": {"kind": "vectors", "path": "gs://a-bucket/source", "ids": "id", "labels": "label"},
        "build": {"router": {"kind": "kmeans", "partitions": 3}, "backend": {"kind": "exact"}, "store_files": 2},
        "search": {"target_recall": None},
        "report": {"projection_items": 60},
        "runner": {**DATAFLOW, "endpoint": cloud.url},
    }
    config = tmp_path / "catalogue.yaml"
    config.write_text(yaml.safe_dump(raw))
    asked = ["--config", str(config)]
    assert main(["run", *asked, "--run-id", "first"]) == 0
    verbs = {job["labels"]["simpipe-verb"] for job in cloud.jobs.values()}
    assert verbs == {"import", "build", "calibrate", "evaluate"}
    summary = json.loads((bucket / "catalogue" / "runs" / "first.json").read_text())
    assert summary["state"] == "done"
    assert {job["id"] for job in summary["jobs"]} == set(cloud.jobs)
    counted = {job["verb"]: job["counters"] for job in summary["jobs"]}
    assert counted["import"]["in-items"] == 800
    assert counted["build"]["index-items"] >= counted["build"]["out-items"] > 600
    vectors[:20] += 0.01
    write(bucket / "source", vectors, labels)
    assert main(["reindex", *asked, "--run-id", "second"]) == 0
    assert {job["labels"]["simpipe-verb"] for job in cloud.jobs.values()} == {*verbs, "reindex", "embed"}
    assert {job["currentState"] for job in cloud.jobs.values()} == {"JOB_STATE_DONE"}
    live = json.loads((bucket / "catalogue" / "live.json").read_text())
    assert live["release"] == json.loads((bucket / "catalogue" / "runs" / "second.json").read_text())["release"]
    assert live["previous"] == summary["release"]
    assert main(["fsck", *asked]) == 0
    capsys.readouterr()
    assert main(["lookup", *asked, "--id", "item-0003", "-k", "1", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["results"][0]["neighbors"]) == 1
