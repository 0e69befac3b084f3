"""A calibrated and evaluated release made by hand, as its files hold it and as the report takes it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from simpipe.report.cards import mistakes_of, with_pictures
from simpipe.report.from_files import calibration_part, evaluation_part
from simpipe.report.model import THRESHOLD_KEYS, ReportData
from simpipe.types import Neighbors

METRICS = ("precision", "recall", "recall_all", "f1", "binary_accuracy", "open_set_fpr", "fpr")
DISTANCES = np.linspace(0.01, 0.6, 60)


def metrics_at(distance: float) -> dict[str, float]:
    precision, recall = 1 - 0.3 * distance, min(1.0, distance / 0.4)
    return {
        "precision": precision,
        "recall": recall,
        "recall_all": 0.9 * recall,
        "f1": 2 * precision * recall / (precision + recall),
        "binary_accuracy": 0.8 * recall,
        "open_set_fpr": distance,
        "fpr": distance / 2,
    }


def cutpoint(name: str, metric: str, distance: float) -> dict[str, Any]:
    values = metrics_at(distance)
    spans = {key: [value - 0.0123, value + 0.0087] for key, value in values.items()}
    interval = {"distance": [distance - 0.0211, distance + 0.0312], **spans}
    return {"name": name, "metric": metric, "value": values[metric], "distance": distance, **values, "interval": interval}


def record_of(matcher: str = "match_nearest", k: int = 1) -> dict[str, Any]:
    points = [
        cutpoint("optimal", "f1", 0.4031),
        cutpoint("precision>=0.95", "precision", 0.1507),
        cutpoint("fpr<=0.1", "fpr", 0.2),
    ]
    bins = [
        {"mean": m, "share": s, "queries": n, "low": low, "high": high}
        for m, s, n, low, high in [
            (0.05, 0.04, 120, 0.017, 0.095),
            (0.51, 0.45, 40, 0.307, 0.602),
            (0.7, 0.0, 0, 0.0, 1.0),
            (0.97, 0.98, 340, 0.959, 0.99),
        ]
    ]
    return {
        "matcher": matcher,
        "k": k,
        "depth": 5,
        "metric": "f1",
        "queries": 520,
        "labelled": 500,
        "open_set": 48,
        "distinct": 499,
        "dropped_bits": 2,
        "unreached": ["recall_all>=0.999"],
        "threshold_error": 3.1e-7,
        "cutpoints": {point["name"]: point for point in points},
        "bootstrap": {"replicates": 200, "confidence": 0.95},
        "probability": {"method": "isotonic", "distance": [0.1], "probability": [0.9], "ece": 0.0234, "bins": bins},
    }


def release_files() -> dict[str, Any]:
    record = record_of()
    record["matchers"] = {"match_majority_vote@5": record_of("match_majority_vote", 5)}
    record["by"] = {"column": "label", "groups": 40, "file": "cutpoints_by.parquet", "min_queries": 50}
    values = [metrics_at(float(distance)) for distance in DISTANCES]
    columns: dict[str, Any] = {"matcher": ["match_nearest@1"] * len(DISTANCES), "distance": DISTANCES}
    for name in METRICS:
        column = np.array([row[name] for row in values])
        columns |= {name: column, f"{name}_low": column - 0.02, f"{name}_high": column + 0.02}
    other = {name: [0.5] if name != "matcher" else ["match_majority_vote@5"] for name in columns}
    edges = np.linspace(0, 0.8, 41)
    middle = (edges[1:] + edges[:-1]) / 2
    wave = [np.exp(-(((middle - at) / 0.1) ** 2)) for at in (0.2, 0.45, 0.55)]
    hits, wrong, open_set = (np.round(height * each).astype(np.int64) for height, each in zip((80, 9, 8), wave, strict=True))
    groups = [
        {
            "value": f"class-{i:02d}",
            "cutpoint": name,
            "distance": np.float32(0.1 + 0.01 * ((i * 7) % 40)),
            "queries": 50 + i,
            "hits": 40 + i,
            "precision": 0.9,
            "recall": 0.8,
        }
        for i in range(40)
        for name in ("optimal", "precision>=0.95")
    ]
    return {
        "record": record,
        "curves": pa.concat_tables([pa.table(columns), pa.table(other)]),
        "distributions": pa.table(
            {
                "matcher": ["match_nearest@1"] * 40,
                "low": edges[:-1],
                "high": edges[1:],
                "hits": hits,
                "wrong": wrong,
                "open": open_set,
            }
        ),
        "groups": pa.Table.from_pylist(groups),
    }


def metrics_record() -> dict[str, Any]:
    return {
        "metrics": {"label_precision_at_1": 0.9143, "map_at_r": 0.7312, "ndcg_at_10": 0.8801, "ann_recall_at_10": 0.9812},
        "macro": {"label_precision_at_1": 0.8977, "map_at_r": 0.7105, "ndcg_at_10": 0.8644},
        "k": 10,
        "queries": 520,
        "labelled": 500,
        "open_set": 48,
        "exact_queries": 300,
        "ann_recall_error": 0.0017,
        "confusion": [],
        "worst_classes": [
            {
                "label": f"class-{i:02d}",
                "queries": 30 + i,
                "items": 100 + i,
                "label_precision_at_1": 0.3 + i / 50,
                "map_at_r": 0.21 + i / 50,
                "most_confused_with": [["class-09", 11 - i], [None, 3]],
            }
            for i in range(5)
        ],
        "partitions": [
            {
                "partition": i,
                "rows": 1000 + i,
                "neighbors": 300,
                "found": 300 - (31 if i == 5 else i % 4),
                "recall": 1 - i % 4 / 300,
            }
            for i in range(12)
        ],
        "slices": {
            "split": [
                {"value": "a", "queries": 20, "label_precision_at_1": 0.75},
                {"value": None, "queries": 5, "label_precision_at_1": 0.6},
            ]
        },
        "latency": {"queries": 200, "single_ms": {"p50": 0.41, "p90": 0.72, "p99": 1.93}, "block": 1000, "block_us": 38.2},
    }


def confusion_data(n: int) -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(3)
    counts = rng.poisson(0.05, (n, n + 1)) + np.eye(n, n + 1, dtype=np.int64) * 20
    return [f"class-{i:02d}" for i in range(n)], counts.astype(np.int64)


def neighbors_of() -> Neighbors:
    ids = np.array([["i1", "i2", None], ["i3", "i4", "i5"]], object)
    labels = np.array([["a", "class-09", None], ["class-09", None, "class-01"]], object)
    return Neighbors(ids, labels, np.array([[0.1, 0.2, np.inf], [0.3, 0.4, 0.5]], np.float32))


def report_data() -> ReportData:
    """A report of all of it."""
    files = release_files()
    evaluated = metrics_record()
    evaluated["partitions"][5]["recall"] = 0.8967
    labels, confusion = confusion_data(40)
    points = list(files["record"]["cutpoints"].values())
    thresholds = {"distance": DISTANCES.tolist()}
    thresholds |= {key: [metrics_at(d)[key] for d in DISTANCES.tolist()] for key in THRESHOLD_KEYS if key != "distance"}
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 1)).astype(np.uint8)
    mistakes = mistakes_of(
        ["class-00"], ["q1", "q2"], ["class-00", "class-00"], neighbors_of(), [0, 1], each=2, limit=np.float32(0.15)
    )
    pictures = dict.fromkeys(["q1", "q2", "i1", "i3"], pixels)
    mistakes = [replace(each, cards=with_pictures(each.cards, pictures)) for each in mistakes]
    return ReportData(
        title="hand-made",
        release="r1",
        created="2026",
        facts=[("items", "12066")],
        thresholds=thresholds,
        cutpoints=points,
        metrics=evaluated["metrics"],
        calibration=calibration_part(
            files["record"], curves=files["curves"], distributions=files["distributions"], groups=files["groups"]
        ),
        evaluation=replace(evaluation_part(evaluated), mistakes=mistakes),
        confusion_labels=labels,
        confusion=confusion,
        confusion_cutpoint="optimal",
    )


def section(page: str, name: str) -> str:
    return page.split(f'<section id="{name}">')[1].split("</section>")[0]


def words_of(html: str) -> str:
    """The text without drawings and tags."""
    plain = re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>", "", html, flags=re.S))
    return re.sub(r"\s+", " ", plain)
