"""Gates: a release's facts against the limits of the configuration, and against the live release. Nothing is read here.

All limits are inclusive: a value that equals its limit passes. A value that is NaN or missing never does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from simpipe.config.release import GatesConfig, Limit
from simpipe.drift import Drift, measure
from simpipe.verdict import Check, Verdict

NO_LIVE = "no live release"
ANN_RECALL = "ann_recall_at_"
_SLACK = 1e-9  # 0.8 - 0.7 is a little more than 0.1


@dataclass(frozen=True)
class CanaryAnswer:
    """What one canary query was answered; `said` names what was expected and what came."""

    name: str
    right: bool
    said: str = ""


@dataclass(frozen=True)
class Facts:
    """What is known of a release.

    Attributes:
      items: distinct ones. encoder: fingerprint. dim, distance: of the vectors.
      rejected: share of the records that embedding left out; None: not known.
      metrics: of `metrics.json`; None: measured, without a value.
      cutpoints: distance of each.
      damage: why a file is not as the manifest lists it; None: all are, or nobody looked.
      sample: float32[n, dim], see `drift.lowest`; None: not drawn.
      canaries: answers of canary queries; None: not asked.
    """

    release: str
    items: int
    encoder: str
    dim: int
    distance: str
    rejected: float | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    cutpoints: Mapping[str, float] = field(default_factory=dict)
    damage: str | None = None
    sample: np.ndarray | None = None
    canaries: tuple[CanaryAnswer, ...] | None = None

    @property
    def ann_recall(self) -> str:
        """The name of the metric that says how much of an exact search the indexes find."""
        return next((name for name in self.metrics if name.startswith(ANN_RECALL)), ANN_RECALL + "K")


def judge(
    config: GatesConfig, new: Facts, live: Facts | None, *, at: str, against: str | None = None, missing: str = NO_LIVE
) -> Verdict:
    """Holds a release against the limits.

    Args:
      config: the limits. new: of the release that is judged.
      live: of the release that answers now; None: there is none, and limits of change are not judged.
      at: UTC time. against: the live release, also where it cannot be compared with; None: that of `live`.
      missing: why there is nothing to compare with.
    """
    checks = (
        _files(config, new),
        _encoder(config, new, live, missing),
        *_limit("ann_recall", config.ann_recall, new.ann_recall, new, live, missing),
        *(
            check
            for name, limit in config.metrics.items()
            for check in _limit(f"metrics.{name}", limit, name, new, live, missing)
        ),
        *_cutpoints(config, new, live, missing),
        *_items(config, new, live, missing),
        _rejected(config, new),
        *_drift(config, new, live, missing),
        _canaries(config, new),
    )
    return Verdict(new.release, live.release if live else against, at, checks)


def _not_judged(name: str, reason: str, **about: float | str | None) -> Check:
    return Check(name, True, reason, judged=False, **about)  # type: ignore[arg-type]  # value, limit and live only


def _files(config: GatesConfig, new: Facts) -> Check:
    if not config.files:
        return _not_judged("files", "not limited: checksums were not looked at")
    return Check("files", new.damage is None, new.damage or "every file is as the manifest lists it", limit="verified")


def _encoder(config: GatesConfig, new: Facts, live: Facts | None, missing: str) -> Check:
    own = new.encoder[:12]
    if config.encoder == "any":
        return _not_judged("encoder", "not limited: any encoder may go live", value=own)
    if live is None:
        return _not_judged("encoder", missing, value=own, limit="same")
    same = new.encoder == live.encoder
    reason = "the live release has the same encoder" if same else f"encoder {own} is not {live.encoder[:12]} of the live release"
    return Check("encoder", same, reason, own, "same", live.encoder[:12])


def _differ(new: Facts, live: Facts) -> str | None:
    """Why distances and vectors of two releases cannot be compared."""
    for name in ("encoder", "dim", "distance"):
        mine, theirs = getattr(new, name), getattr(live, name)
        if mine != theirs:
            short = (str(mine)[:12], str(theirs)[:12])
            return f"not comparable with the live release: {name} {short[0]}, there {short[1]}"
    return None


def _limit(name: str, limit: Limit, metric: str, new: Facts, live: Facts | None, missing: str) -> Iterator[Check]:
    """One check a limit of a metric."""
    value = new.metrics.get(metric)
    if limit == Limit():
        yield _not_judged(name, "not limited", value=value)
    about = "has no value" if metric in new.metrics else "was not measured"
    for end, bound, holds in (("min", limit.min, _at_least), ("max", limit.max, _at_most)):
        if bound is None:
            continue
        if value is None:
            yield Check(f"{name}.{end}", False, f"{metric} {about}", None, bound)
            continue
        word = "at least" if end == "min" else "at most"
        yield Check(f"{name}.{end}", holds(value, bound), f"{metric} is {value:.4f}, {word} {bound:g} is asked", value, bound)
    for kind, bound, sign in (("max_drop", limit.max_drop, -1), ("max_rise", limit.max_rise, 1)):
        if bound is not None:
            yield _changed(f"{name}.{kind}", metric, bound, sign, new, live, missing)


def _changed(name: str, metric: str, bound: float, sign: int, new: Facts, live: Facts | None, missing: str) -> Check:
    """A metric against that of the live release; `sign` 1: it may not rise, -1: it may not drop."""
    value = new.metrics.get(metric)
    if live is None:
        return _not_judged(name, missing, value=value, limit=bound)
    before = live.metrics.get(metric)
    if before is None:
        return _not_judged(name, f"the live release has no {metric}", value=value, limit=bound)
    if value is None:
        about = "has no value" if metric in new.metrics else "was not measured"
        return Check(name, False, f"{metric} {about}", None, bound, before)
    word = "rises" if sign > 0 else "drops"
    reason = f"{metric} {word} by {sign * (value - before):.4f}, from {before:.4f} to {value:.4f}; at most {bound:g} is allowed"
    if sign * (value - before) <= 0:
        reason = f"{metric} goes from {before:.4f} to {value:.4f}"
    return Check(name, _at_most(sign * (value - before), bound), reason, value, bound, before)


def _cutpoints(config: GatesConfig, new: Facts, live: Facts | None, missing: str) -> Iterator[Check]:
    for gate in config.cutpoints:
        name, bound = f"cutpoints.{gate.name}.max_change", gate.max_change
        value = new.cutpoints.get(gate.name)
        before = live.cutpoints.get(gate.name) if live else None
        differ = _differ(new, live) if live else None
        if value is None:
            yield Check(name, False, f"the release has no cutpoint {gate.name}", None, bound, before)
        elif live is None or differ:
            yield _not_judged(name, differ or missing, value=value, limit=bound)
        elif before is None:
            yield _not_judged(name, f"the live release has no cutpoint {gate.name}", value=value, limit=bound)
        else:
            change = abs(value - before) / abs(before) if before else 0.0 if value == before else float("inf")
            reason = f"cutpoint {gate.name} moves by {change:.1%}, from {before:.4f} to {value:.4f}; {bound:.1%} is allowed"
            yield Check(name, _at_most(change, bound), reason, value, bound, before)


def _items(config: GatesConfig, new: Facts, live: Facts | None, missing: str) -> Iterator[Check]:
    gate = config.items
    reason = f"{new.items:,} items, at least {gate.min:,} are asked"
    yield Check("items.min", new.items >= gate.min, reason, new.items, gate.min)
    for kind, bound, sign in (("max_drop", gate.max_drop, -1), ("max_growth", gate.max_growth, 1)):
        name = f"items.{kind}"
        if bound is None:
            yield _not_judged(name, "not limited", value=new.items)
        elif live is None:
            yield _not_judged(name, missing, value=new.items, limit=bound)
        elif not live.items:
            yield _not_judged(name, "the live release has no items", value=new.items, limit=bound)
        else:
            share = (new.items - live.items) / live.items
            reason = f"{new.items:,} items, {share:+.1%} against {live.items:,}; {'-' if sign < 0 else '+'}{bound:.1%} is allowed"
            yield Check(name, _at_most(sign * share, bound), reason, new.items, bound, live.items)


def _rejected(config: GatesConfig, new: Facts) -> Check:
    if config.rejected is None:
        return _not_judged("rejected", "not limited", value=new.rejected)
    if new.rejected is None:
        return Check("rejected", False, "the embeddings data set is gone: nobody knows what was rejected", None, config.rejected)
    reason = f"{new.rejected:.2%} of the records were rejected, at most {config.rejected:.2%} are allowed"
    return Check("rejected", _at_most(new.rejected, config.rejected), reason, new.rejected, config.rejected)


_DRIFTS: tuple[tuple[str, Callable[[Drift], float], str], ...] = (
    (
        "centroid_cosine",
        lambda drift: drift.centroid_cosine,
        "the mean vectors have cosine {value:.4f}, at least {bound:g} is asked",
    ),
    ("norm", lambda drift: drift.norm, "the mean norm changes by {value:.1%}, at most {bound:.1%} is allowed"),
    ("psi", lambda drift: drift.psi, "the population stability index is {value:.4f}, at most {bound:g} is allowed"),
)


def _drift(config: GatesConfig, new: Facts, live: Facts | None, missing: str) -> Iterator[Check]:
    gate = config.drift
    drift: Drift | None = None
    differ = _differ(new, live) if live else missing
    if live is not None and not differ and new.sample is not None and live.sample is not None:
        if len(new.sample) and len(live.sample):
            drift = measure(live.sample, new.sample, new.distance)
        else:
            differ = "one of the releases has no vectors"
    for kind, of, text in _DRIFTS:
        name, bound = f"drift.{kind}", getattr(gate, kind)
        if bound is None:
            yield _not_judged(name, "not limited", value=of(drift) if drift else None)
        elif differ:
            yield _not_judged(name, differ, limit=bound)
        elif drift is None:
            yield Check(name, False, new.damage or "the vectors could not be sampled", None, bound)
        else:
            value = of(drift)
            holds = _at_least if kind == "centroid_cosine" else _at_most
            yield Check(name, holds(value, bound), text.format(value=value, bound=bound), value, bound)


def _canaries(config: GatesConfig, new: Facts) -> Check:
    name = "canaries.min_share"
    if config.canaries is None:
        return _not_judged("canaries", "not limited: there are no canary queries")
    asked, bound = new.canaries, config.canaries.min_share
    if not asked:
        return Check(name, False, new.damage or "canary queries could not be asked", None, bound)
    share = sum(answer.right for answer in asked) / len(asked)
    wrong = [f"{answer.name} ({answer.said})" if answer.said else answer.name for answer in asked if not answer.right]
    reason = f"{len(asked) - len(wrong)} of {len(asked)} canary queries are answered as expected"
    if wrong:
        reason += f"; not: {', '.join(wrong)}"
    return Check(name, _at_least(share, bound), reason, share, bound)


def _at_least(value: float, bound: float) -> bool:
    return bool(value >= bound - _SLACK)


def _at_most(value: float, bound: float) -> bool:
    return bool(value <= bound + _SLACK)
