"""Learning rate schedules: golden values, limits, serialization, in an optimizer."""

from __future__ import annotations

import json
import math

import keras
import numpy as np
import pytest
from conftest import SHARED

from simpipe.errors import ConfigError
from simpipe.schedules import WarmupCosineDecay

GOLDEN = SHARED / "golden" / "metric_learning.json"
# max 1, total 100, warm-up 20, alpha .1: the golden values, so that a stranger tests them too.
PUBLISHED = {0: 0.0, 5: 0.25, 19: 0.95, 20: 1.0, 40: 0.8681981, 60: 0.55, 80: 0.231802, 100: 0.1, 150: 0.1}


def test_published_values() -> None:
    schedule = WarmupCosineDecay(1.0, 100, 20, 0.1)
    for step, rate in PUBLISHED.items():
        assert float(schedule(step)) == pytest.approx(rate, rel=1e-5), step
    np.testing.assert_allclose(schedule(np.array(list(PUBLISHED))), list(PUBLISHED.values()), rtol=1e-5)


def test_golden_values() -> None:
    if not GOLDEN.exists():
        pytest.skip("../shared/golden/metric_learning.json is no part of the project and not here; oracles of our own run anyway")
    golden = json.loads(GOLDEN.read_text())["schedule"]
    value = golden.pop("value")
    schedule = WarmupCosineDecay(**golden)
    for step, rate in value.items():
        assert float(schedule(int(step))) == pytest.approx(rate, rel=1e-5, abs=1e-7), step


@pytest.mark.parametrize("warmup", [0, 1, 500])
def test_formula(warmup: int) -> None:
    schedule = WarmupCosineDecay(0.3, 1000, warmup, alpha=0.05)
    for step in range(0, 1250, 125):
        share = min(max(step - warmup, 0) / (1000 - warmup), 1)
        rate = 0.95 * 0.5 * (1 + math.cos(math.pi * share)) + 0.05
        assert float(schedule(step)) == pytest.approx(0.3 * (step / warmup if step < warmup else rate), rel=1e-5)


def test_wrong_arguments_are_named() -> None:
    for total, warmup in ((100, 100), (100, 101), (100, -1), (0, 0)):
        with pytest.raises(ConfigError, match=f"warmup_steps is {warmup} and total_steps {total}"):
            WarmupCosineDecay(1.0, total, warmup)
    with pytest.raises(ConfigError, match="alpha is 2"):
        WarmupCosineDecay(1.0, 10, 1, alpha=2)


def test_config_round_trip_and_use_in_an_optimizer() -> None:
    schedule = WarmupCosineDecay(0.5, 4, 2, alpha=0.1)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert isinstance(again, WarmupCosineDecay)
    assert again.get_config() == schedule.get_config()
    optimizer = keras.optimizers.deserialize(keras.optimizers.serialize(keras.optimizers.SGD(schedule)))
    variable = keras.Variable(0.0)
    seen = []
    for _ in range(6):
        before = float(variable)
        optimizer.apply([keras.ops.ones(())], [variable])
        seen.append(before - float(variable))
    np.testing.assert_allclose(seen, [float(schedule(step)) for step in range(6)], rtol=1e-5, atol=1e-7)
    assert seen[-1] == pytest.approx(0.05)
