"""`report.html` of a release: one file, nothing loaded from elsewhere, the same bytes for the same data."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from simpipe.report import calibration, evaluation, formats, tables
from simpipe.report.model import ReportData
from simpipe.visualization.class_counts import MAX_BARS, class_counts
from simpipe.visualization.confusion_svg import MAX_CLASSES, confusion_svg
from simpipe.visualization.data_uri import is_small, picture
from simpipe.visualization.projection import MAX_NAMED, projection_scatter
from simpipe.visualization.threshold_curves import interval_of, threshold_curves
from simpipe.visualization.training_curve import training_curve

MAX_QUERIES = 30
MAX_CLASSES_LISTED = 20
WIDE_CONFUSION = 14  # for more classes the matrix takes the whole width

# What a metric means, by the start of its name.
_MEANINGS = (
    ("ann recall", "share of the exact nearest items that the index finds too"),
    ("label precision@1", "share of queries whose nearest item has the query's label"),
    ("label precision", "share of the k nearest items that have the query's label"),
    ("recall", "share of queries with an item of their label among the k nearest"),
    ("map@r", "mean average precision of labels among as many items as the query's class has"),
    ("ndcg", "gain of right labels among the k nearest, discounted by rank; 1 if they come first"),
    ("map", "mean average precision of labels among the k nearest items"),
    ("match right", "share of queries that get their own label at cutpoint optimal"),
    ("match none", "share of queries without a match at cutpoint optimal"),
    (
        "no match right",
        "share of the queries of labels not in the index that get no match at cutpoint optimal, as is right",
    ),
    ("one shot", "share of right answers among that many unseen classes, one labelled example each"),
)
_AT_CUTPOINT = {
    "precision": "share of the matches that have the right label",
    "recall": "share of the right matches that the cutpoint keeps",
}


@dataclass(frozen=True)
class Headline:
    name: str
    value: str
    note: str
    interval: str = ""


def _template(name: str) -> str:
    return resources.files("simpipe.report").joinpath(name).read_text(encoding="utf-8")


@functools.cache  # compiling the templates takes longer than filling them
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_template), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=formats.number, percent=formats.percent, words=formats.words, soft=formats.soft)
    environment.filters["wilson"] = lambda each: formats.interval(each.low, each.high)
    look = resources.files("simpipe.visualization").joinpath("components.css").read_text(encoding="utf-8")
    environment.globals.update(picture=picture, is_small=is_small, components=Markup(look))
    return environment


def render(data: ReportData) -> str:
    """The report's HTML."""
    classes = tables.classes_of(data.class_counts)
    optimal = _optimal(data)
    distance = formats.distance_name(data.distance)
    results = tables.class_results(data.confusion_labels, data.confusion)
    bands = data.calibration.curves if data.calibration else None
    worst_labels = [row.label for row in data.evaluation.worst] if data.evaluation else []
    worst_labels = worst_labels or [result.label for result in results]
    worst = evaluation.worst_confusion(data, worst_labels)
    projection = data.projection
    projected = tables.classes_of({"": dict.fromkeys(projection.labels, 1)}) if projection else []
    context: dict[str, Any] = {
        "data": data,
        "distance": distance,
        "headlines": _headlines(data, optimal),
        "optimal_name": optimal.get("name"),
        "facts": [(name, formats.plain_number(value)) for name, value in data.facts],
        **calibration.sections(data, optimal),
        **evaluation.sections(data),
        "metrics": evaluation.metric_rows(data, meaning),
        "threshold_plot": _safe(threshold_curves(data.thresholds, data.cutpoints, distance, bands)),
        "threshold_rows": tables.threshold_rows(data),
        "queries": data.queries[:MAX_QUERIES],
        "confusion_plot": _safe(confusion_svg(data.confusion_labels, data.confusion)),
        "worst_plot": _safe(confusion_svg(*worst) if len(data.confusion_labels) > MAX_CLASSES else ""),
        "confusion_matrix": tables.confusion_table(data.confusion_labels, data.confusion),
        "worst_matrix": tables.confusion_table(*worst),
        "worst_rows": min(evaluation.WORST_ROWS, len(worst_labels)),
        "wide_worst": len(worst[0]) > WIDE_CONFUSION,
        "wide_confusion": len(data.confusion_labels) > WIDE_CONFUSION,
        "pairs": tables.confused_pairs(data.confusion_labels, data.confusion),
        "results": results[: MAX_CLASSES if len(results) <= MAX_CLASSES else tables.LONGEST],
        "num_results": len(results),
        "projection_plot": _safe(
            projection_scatter(projection.points, projection.labels, projection.held_out, projected) if projection else ""
        ),
        "projection_rows": tables.projection_rows(projection, projected) if projection else [],
        "projected_classes": projected,
        "named_limit": MAX_NAMED,
        "class_plot": _safe(class_counts(data.class_counts, classes)),
        "classes": classes,
        "bars_limit": MAX_BARS,
        "rank_rows": tables.rank_rows(data.class_counts, classes),
        "split_counts": tables.split_counts(data.class_counts, classes),
        "training_plot": _safe(training_curve(data.history)),
        "has_validation": any(name.startswith("val_") for name in data.history),
        "last_values": tables.last_values(data.history),
        "epoch_rows": tables.epoch_rows(data.history),
        "listed": MAX_CLASSES_LISTED,
    }
    return _environment().get_template("report.html").render(context).strip() + "\n"


def meaning(metric: str) -> str:
    """What a metric means, in words; "" where this module does not know it."""
    name = formats.words(metric).lower()
    return next((text for start, text in _MEANINGS if name == start or re.match(rf"{re.escape(start)}\b", name)), "")


def _safe(svg: str) -> Markup:
    """SVG from `simpipe.visualization`, which escapes every label in it."""
    return Markup(svg)


def _optimal(data: ReportData) -> dict[str, Any]:
    """The cutpoint named "optimal", else the first, else {}."""
    return next((point for point in data.cutpoints if point.get("name") == "optimal"), next(iter(data.cutpoints), {}))


def _headlines(data: ReportData, optimal: dict[str, Any]) -> list[Headline]:
    facts = {name.lower(): value for name, value in data.facts}
    metrics = {formats.words(name).lower(): value for name, value in data.metrics.items()}
    lines = [Headline("items in the index", formats.plain_number(facts.get("items", formats.MISSING)), "")]
    for name, shown in (("label precision@1", "label precision@1"), ("ann recall@10", "ANN recall@10")):
        value = metrics.get(name)
        lines.append(Headline(shown, formats.number(value), meaning(name) if value is not None else "not measured"))
    name = f"cutpoint “{optimal['name']}”" if optimal else "cutpoint"
    note = f"largest {formats.distance_name(data.distance)} that still matches" if optimal else "not calibrated"
    lines.append(Headline(name, formats.number(optimal.get("distance")), note, _interval(optimal, "distance")))
    if optimal:
        for key, text in _AT_CUTPOINT.items():
            lines.append(Headline(f"{key} at cutpoint", formats.number(optimal.get(key)), text, _interval(optimal, key)))
    return lines


def _interval(point: dict[str, Any], key: str) -> str:
    span = interval_of(point, key)
    return formats.interval(*span) if span else ""
