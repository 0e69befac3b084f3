"""Numbers and names as a person reads them."""

from __future__ import annotations

import math
import re
from typing import Any

from markupsafe import Markup, escape

MISSING = "\u2013"
MINUS = "\u2212"


def number(value: Any) -> str:
    """Four digits and thousands separators: 12,345 · 0.9876 · 12.35 · 3.2e-06; "–" for None and NaN."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", MINUS)
    size = abs(float(value))
    if math.isnan(size):
        return MISSING
    if math.isinf(size):
        return "∞" if value > 0 else f"{MINUS}∞"
    if 0 < size < 5e-4:
        text = f"{float(value):.2e}"
    else:
        decimals = 4 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0
        text = f"{float(value):,.{decimals}f}"
    return text.replace("-", MINUS, 1) if text.startswith("-") else text


def interval(low: float, high: float) -> str:
    """(0.981 to 0.992): three decimals, more where the ends would look the same or small."""
    size = max(abs(low), abs(high))
    if size >= 10 or size < 5e-4:
        return f"({number(low)} to {number(high)})"
    decimals = 3 if size >= 0.1 else 4
    if low != high and f"{low:.{decimals}f}" == f"{high:.{decimals}f}":
        decimals += 1
    return f"({low:.{decimals}f} to {high:.{decimals}f})".replace("-", MINUS)


def labelled(queries: int, with_label: int) -> str:
    """`354 queries, all with a label`, or how many of them have one."""
    some = "all" if with_label == queries else "none" if not with_label else f"{with_label:,}"
    return f"{queries:,} queries, {some} with a label"


def percent(value: float) -> str:
    return MISSING if math.isnan(value) else f"{value:.1%}"


def plain_number(text: str) -> str:
    """Thousands separators for text that is a whole number; other text as it is."""
    return f"{int(text):,}" if re.fullmatch(r"\d{1,15}", text) else text


def words(name: str) -> str:
    """`ann_recall_at_10` as "ANN recall@10", `map_at_r` as "MAP@R"."""
    text = re.sub(r"[_ ]at[_ ]r\b", "@R", re.sub(r"[_ ]at[_ ](?=\d)", "@", name)).replace("_", " ")
    return re.sub(r"\b(ann|map|ndcg)\b", lambda found: found[0].upper(), text)


def distance_name(distance: str) -> str:
    """The axis name of a distance: "cosine distance"."""
    return f"{distance.replace('_', ' ')} distance" if distance else "distance"


def soft(name: str) -> Markup:
    """A name that may break after "/", "_" and "-", escaped."""
    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[/_-])", name))
