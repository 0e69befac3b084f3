"""`simpipe plan`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from simpipe.config import Config
from simpipe.errors import ConfigError


def execute(config: Config, options: argparse.Namespace, beam_args: Sequence[str]) -> int:
    """Runs the verb; returns the exit code."""
    if beam_args:
        raise ConfigError("`plan` runs no Beam job: it takes nothing after `--`", "leave out what stands after --")
    for name in ("items", "dim", "example_bytes", "workers"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {value}: less than 1", "give a number from 1 on")
    from simpipe.plan.calibration import Calibration
    from simpipe.plan.estimate import make_estimate
    from simpipe.plan.workload import workload_of

    workload = workload_of(config, items=options.items, dim=options.dim, example_bytes=options.example_bytes)
    calibration = Calibration.load(options.calibration or config.plan.calibration)
    estimate = make_estimate(config, workload, calibration=calibration, workers=options.workers)
    if options.json:
        print(json.dumps(estimate.to_json(), indent=2))
    else:
        from simpipe.plan.tables import print_estimate

        print_estimate(estimate, config.name)
    return 0
