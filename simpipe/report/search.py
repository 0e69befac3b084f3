"""The search profile and the planner's measurements as rows of the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simpipe.index.profile import Profile
from simpipe.index.setting import SearchSetting
from simpipe.report.model import RouterRow, SearchRow

_SAME = (("router", "kind", None), ("partitions", "partitions", None), ("spill", "spill", "none"))


def search_rows(profile: Profile | None) -> list[SearchRow]:
    """One row a target recall that the release reaches."""
    if profile is None:
        return []
    return [
        SearchRow(target, point.recall, point.low, point.probes, point.microseconds, in_words(point.setting))
        for target, point in sorted(profile.targets.items())
    ]


def in_words(setting: SearchSetting) -> str:
    """Such as `margin 0.031, leaves to search 12, reorder 50`."""
    words = []
    if setting.margin is not None:
        words.append(f"margin {setting.margin:.3g}")
    if setting.probes is not None:
        words.append(f"{setting.probes} partitions" if setting.probes > 1 else "1 partition")
    words += [f"{name.replace('_', ' ')} {value}" for name, value in setting.backend.items()]
    return ", ".join(words) or "everything"


def about_profile(profile: Profile | None) -> str:
    """What was measured, and which targets are out of reach."""
    if profile is None:
        return ""
    asked = "held-out queries" if profile.source == "queries" else "items, each of which does not find itself"
    return (
        f"Recall@{profile.k} against exact search, measured when the release was built on {profile.queries:,} {asked}; "
        f"at best {profile.best.recall:.4f}."
    )


def router_rows(router: Mapping[str, Any]) -> list[RouterRow]:
    """The planner's candidates; none where the configuration names the router."""
    rows = []
    for each in router.get("planner", {}).get("candidates", []):
        same = all(each[name] == router.get(key, default) for name, key, default in _SAME)
        name = each["router"] + (f" with {each['spill']} spill" if each["spill"] != "none" else "")
        rows.append(RouterRow(name, each["partitions"], each["rows"], each["probes"], each["microseconds"], same))
    return rows
