"""Verdicts from facts: limits are inclusive, NaN never passes, and what cannot be judged says so."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simpipe import files
from simpipe.config.release import GatesConfig
from simpipe.errors import GateFailedError, ReleaseError
from simpipe.gates import CanaryAnswer, Facts, judge
from simpipe.verdict import VERDICT_JSON, Check, Verdict

AT = "2026-01-01T00:00:00Z"


def facts(**changes) -> Facts:
    about = {
        "release": "new",
        "items": 1000,
        "encoder": "a" * 64,
        "dim": 4,
        "distance": "cosine",
        "rejected": 0.01,
        "metrics": {"ann_recall_at_10": 0.99, "map_at_r": 0.8},
        "cutpoints": {"optimal": 0.5},
        "sample": np.eye(4, dtype=np.float32),
    }
    return Facts(**{**about, **changes})


def check_of(verdict: Verdict, name: str) -> Check:
    (found,) = [check for check in verdict.checks if check.name == name]
    return found


def judged(config: dict, new: Facts | None = None, live: Facts | None = None) -> Verdict:
    return judge(GatesConfig.model_validate(config), new or facts(), live, at=AT)


def test_defaults_judge_files_items_and_recall_only():
    verdict = judged({}, live=facts(release="live"))
    assert verdict.passed
    assert verdict.against == "live"
    assert {check.name for check in verdict.checks if check.judged} == {
        "files",
        "ann_recall.max_drop",
        "items.min",
        "items.max_drop",
    }
    assert all("not limited" in check.reason for check in verdict.checks if not check.judged)


def test_without_a_live_release_only_limits_of_values_apply():
    config = {
        "encoder": "same",
        "metrics": {"map_at_r": {"min": 0.9, "max_drop": 0.0}},
        "cutpoints": [{"name": "optimal"}],
        "drift": {"psi": 0.1},
    }
    verdict = judged(config)
    assert verdict.failed == ("metrics.map_at_r.min",)
    for name in ("encoder", "metrics.map_at_r.max_drop", "cutpoints.optimal.max_change", "items.max_drop", "drift.psi"):
        assert check_of(verdict, name).reason == "no live release"
        assert not check_of(verdict, name).judged


@pytest.mark.parametrize(
    ("config", "changes", "failed"),
    [
        ({}, {"items": 599}, "items.max_drop"),
        ({}, {"items": 0}, "items.min"),
        ({"items": {"max_growth": 0.1}}, {"items": 1101}, "items.max_growth"),
        ({}, {"damage": "partitions/00000/rows.arrow: SHA-256 differs"}, "files"),
        ({"encoder": "same"}, {"encoder": "b" * 64}, "encoder"),
        ({"ann_recall": {"min": 0.995}}, {}, "ann_recall.min"),
        ({}, {"metrics": {"ann_recall_at_10": 0.88}}, "ann_recall.max_drop"),
        ({"metrics": {"map_at_r": {"max": 0.7}}}, {}, "metrics.map_at_r.max"),
        ({"metrics": {"map_at_r": {"max_rise": 0.1}}}, {"metrics": {"map_at_r": 0.91}}, "metrics.map_at_r.max_rise"),
        ({"metrics": {"typo": {"min": 0.5}}}, {}, "metrics.typo.min"),
        (
            {"cutpoints": [{"name": "optimal", "max_change": 0.1}]},
            {"cutpoints": {"optimal": 0.56}},
            "cutpoints.optimal.max_change",
        ),
        ({"cutpoints": [{"name": "typo"}]}, {}, "cutpoints.typo.max_change"),
        ({"rejected": 0.005}, {}, "rejected"),
        ({"rejected": 0.5}, {"rejected": None}, "rejected"),
        ({"drift": {"centroid_cosine": 0.9}}, {"sample": -np.eye(4, dtype=np.float32)}, "drift.centroid_cosine"),
        ({"drift": {"psi": 0.2}}, {"sample": None}, "drift.psi"),
        ({"canaries": {"path": "x"}}, {"canaries": None}, "canaries.min_share"),
    ],
)
def test_each_gate_trips_alone(config, changes, failed):
    new = facts(**{**changes, "metrics": {**facts().metrics, **changes.get("metrics", {})}})
    verdict = judged(config, new, facts(release="live"))
    tripped = set(verdict.failed)
    assert failed in tripped
    assert tripped <= {failed, "items.max_drop"}, "an empty release drops items too"
    with pytest.raises(GateFailedError, match=failed):
        verdict.require()


def test_another_encoder_is_said_where_distances_cannot_be_compared():
    config = {"cutpoints": [{"name": "optimal", "max_change": 0.0}], "drift": {"psi": 0.1, "norm": 0.1}}
    for change in ({"encoder": "b" * 64}, {"dim": 8}, {"distance": "euclidean"}):
        verdict = judged(config, facts(**change), facts(release="live", cutpoints={"optimal": 9.0}))
        assert verdict.passed
        for name in ("cutpoints.optimal.max_change", "drift.psi", "drift.norm"):
            check = check_of(verdict, name)
            assert not check.judged
            assert f"not comparable with the live release: {next(iter(change))}" in check.reason


def test_a_metric_that_was_measured_without_a_value_fails():
    verdict = judged({"metrics": {"map_at_r": {"min": 0}}}, facts(metrics={"map_at_r": None}))
    assert check_of(verdict, "metrics.map_at_r.min").reason == "map_at_r has no value"
    assert not verdict.passed


def test_recall_at_another_k_is_not_compared():
    live = facts(release="live", metrics={"ann_recall_at_5": 1.0})
    check = check_of(judged({"ann_recall": {"max_drop": 0}}, live=live), "ann_recall.max_drop")
    assert not check.judged
    assert "no ann_recall_at_10" in check.reason


def test_wrong_canaries_are_named():
    answers = (CanaryAnswer("seven", True), CanaryAnswer("nine", False, "expected label 9, got label 4"))
    config = {"canaries": {"path": "x", "min_share": 0.5}}
    assert judged(config, facts(canaries=answers)).passed
    config["canaries"]["min_share"] = 0.6
    check = check_of(judged(config, facts(canaries=answers)), "canaries.min_share")
    assert not check.passed
    assert "1 of 2" in check.reason
    assert "nine (expected label 9, got label 4)" in check.reason


values = st.floats(0, 1, width=32)


@given(value=values, bound=values, live=values)
def test_limits_are_inclusive(value, bound, live):
    def holds(**limit) -> bool:
        config = {"metrics": {"m": limit}, "ann_recall": {}}
        return judged(config, facts(metrics={"m": value}), facts(release="live", metrics={"m": live})).passed

    assert holds(min=value)
    assert holds(max=value)
    assert holds(max_drop=max(live - value, 0))
    assert holds(max_rise=max(value - live, 0))
    gap = 1e-8
    if abs(value - bound) > gap:
        assert holds(min=bound) == (value > bound)
        assert holds(max=bound) == (value < bound)
    if abs(live - value - bound) > gap:
        assert holds(max_drop=bound) == (live - value < bound)
    if abs(value - live - bound) > gap:
        assert holds(max_rise=bound) == (value - live < bound)


def test_decimal_limits_are_inclusive_though_floats_are_not():
    config = {"metrics": {"m": {"max_drop": 0.1}}, "items": {"max_drop": 0.3}}
    new, live = facts(metrics={"m": 0.7}, items=700), facts(release="live", metrics={"m": 0.8})
    assert 0.8 - 0.7 > 0.1
    assert judged({**config, "ann_recall": {}}, new, live).passed


poison = st.sampled_from([math.nan, None])


@given(
    value=st.one_of(poison, st.just(math.inf), values),
    live=st.one_of(poison, st.just(math.inf), values),
    limit=st.sampled_from(["min", "max", "max_drop", "max_rise"]),
    bound=st.floats(0, 1),
)
def test_nan_never_passes(value, live, limit, bound):
    config = {"metrics": {"m": {limit: bound}}, "ann_recall": {}}
    verdict = judged(config, facts(metrics={"m": value}), facts(release="live", metrics={"m": live}))
    check = check_of(verdict, f"metrics.m.{limit}")
    nothing_to_compare = limit.startswith("max_") and live is None
    if value is None or math.isnan(value) or (limit.startswith("max_") and live is not None and math.isnan(live)):
        assert not check.passed or nothing_to_compare
    assert check.judged != nothing_to_compare
    files.json.dumps(verdict.to_json(), allow_nan=False)


@given(st.sampled_from(["rejected", "cutpoint", "sample", "live sample"]))
def test_nan_never_passes_elsewhere(where):
    config = {"rejected": 1.0, "cutpoints": [{"name": "optimal", "max_change": 1e9}], "drift": {"psi": 1e9, "norm": 1e9}}
    broken = np.full((3, 4), np.nan, np.float32)
    new = {"rejected": {"rejected": math.nan}, "cutpoint": {"cutpoints": {"optimal": math.nan}}, "sample": {"sample": broken}}
    live = {"live sample": {"sample": broken}}
    assert judged(config, facts(), facts(release="live")).passed
    verdict = judged(config, facts(**new.get(where, {})), facts(release="live", **live.get(where, {})))
    names = {"rejected": ("rejected",), "cutpoint": ("cutpoints.optimal.max_change",)}
    assert verdict.failed == names.get(where, ("drift.norm", "drift.psi"))


def test_a_verdict_comes_back_from_its_file(tmp_path):
    verdict = judged({"rejected": 0.001}, facts(), facts(release="live")).force("me@here", AT)
    assert verdict.forced is not None
    assert verdict.forced.gates == ("rejected",)
    verdict.save(tmp_path)
    assert Verdict.load(tmp_path / VERDICT_JSON) == verdict
    assert files.read_json(tmp_path / VERDICT_JSON)["passed"] is False
    files.write_json(tmp_path / VERDICT_JSON, {"passed": True})
    with pytest.raises(ReleaseError, match="no verdict"):
        Verdict.load(tmp_path / VERDICT_JSON)
