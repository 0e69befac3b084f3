"""Configuration of `simpipe plan`: what machines cost, and what else an estimate assumes. It changes no result."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from simpipe.config.base import Above0, Model, Positive

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_EXAMPLES = "examples, from no price list: replace them by your own"


class PriceTable(Model):
    """Prices in `currency`, as of `date`; `note` says where they come from.

    `vcpu_hour`, `gb_hour` (memory), `disk_gb_hour`: of a worker machine. `shuffle_gb`: of what a runner's shuffle service moves.
    `storage_gb_month`: of what lies under the root. A GB is 10^9 bytes.
    """

    currency: Annotated[str, Field(min_length=1)] = "USD"
    date: str | None = None
    note: str = _EXAMPLES
    vcpu_hour: NotNegative = 0.06
    gb_hour: NotNegative = 0.004
    disk_gb_hour: NotNegative = 0.00006
    shuffle_gb: NotNegative = 0.01
    storage_gb_month: NotNegative = 0.02


class PlanConfig(Model):
    """What `simpipe plan` assumes.

    `calibration`: a file that `python -m benchmarks.plan_calibrate` wrote (null: simpipe's own). `cpu_factor`: CPU seconds of a
    worker for one of the machine that the calibration was measured on. `startup_minutes`: until a cluster's workers work; they
    are paid for. `straggler`: how much longer than the mean the slowest piece of a verb takes. `machine_type`, `disk_gb`,
    `workers`: where the runner is not Dataflow, whose configuration names its own.
    """

    prices: PriceTable = PriceTable()
    calibration: str | None = None
    cpu_factor: Above0 = 1.0
    startup_minutes: NotNegative = 4.0
    straggler: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.5
    machine_type: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*-[a-z0-9-]+$")] = "n2-standard-2"
    disk_gb: Positive = 50
    workers: Positive = 1
