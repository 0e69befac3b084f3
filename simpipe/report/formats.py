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


def percent(value: float) -> str:
    return MISSING if math.isnan(value) else f"{value:.1%}"


def plain_number(text: str) -> str:
    """Thousands separators for text that is a whole number; other text as it is."""
    return f"{int(text):,}" if re.fullmatch(r"\d{1,15}", text) else text


def words(name: str) -> str:
    """`ann_recall_at_10` as "ANN recall@10"."""
    text = re.sub(r"[_ ]at[_ ](?=\d)", "@", name).replace("_", " ")
    return re.sub(r"\b(ann|map|ndcg)\b", lambda found: found[0].upper(), text)


def distance_name(distance: str) -> str:
    """The axis name of a distance: "cosine distance"."""
    return f"{distance.replace('_', ' ')} distance" if distance else "distance"


def soft(name: str) -> Markup:
    """A name that may break after "/", "_" and "-", escaped."""
    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[/_-])", name))
