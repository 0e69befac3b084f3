"""From CPU seconds to wall time and money, as two bounds: perfect packing, and what clusters make of it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from simpipe.config.plan import PriceTable
from simpipe.errors import ConfigError

_GB_A_VCPU = {"standard": 4.0, "highmem": 8.0, "highcpu": 1.0, "megamem": 14.0}
_CUSTOM = re.compile(r"^[a-z0-9-]*custom-(\d+)-(\d+)(-ext)?$")
_NAMED = re.compile(r"^[a-z][a-z0-9]*-([a-z]+)-(\d+)$")
_GB = 1e9


@dataclass(frozen=True)
class Machine:
    """A worker machine: `memory_gb` by the usual ratio of its family."""

    name: str
    vcpus: int
    memory_gb: float
    disk_gb: int

    @classmethod
    def of(cls, name: str, disk_gb: int) -> Machine:
        """Raises ConfigError for names that tell no size."""
        custom, named = _CUSTOM.match(name), _NAMED.match(name)
        if custom:
            return cls(name, int(custom[1]), int(custom[2]) / 1024, disk_gb)
        if named and named[1] in _GB_A_VCPU:
            return cls(name, int(named[2]), int(named[2]) * _GB_A_VCPU[named[1]], disk_gb)
        known = ", ".join(f"-{kind}-" for kind in _GB_A_VCPU)
        raise ConfigError(f"machine_type {name}: its size is not known", f"name one with {known} or custom-VCPUS-MEMORY_MB")

    def per_hour(self, prices: PriceTable) -> float:
        return self.vcpus * prices.vcpu_hour + self.memory_gb * prices.gb_hour + self.disk_gb * prices.disk_gb_hour


@dataclass(frozen=True)
class Work:
    """What a verb has to do.

    Attributes:
      serial_s, parallel_s: CPU seconds that one process does, and that pieces share. pieces: of about equal size.
      cores: vCPUs of a machine that work. jobs: whether a cluster's machines must start for it.
      shuffled: bytes through the runner's shuffle.
    """

    serial_s: float
    parallel_s: float
    pieces: int
    cores: int
    jobs: bool
    shuffled: float


@dataclass(frozen=True)
class Cost:
    """Wall seconds and money of a verb, between two bounds; `workers`: machines that have something to do."""

    workers: int
    wall_s: tuple[float, float]
    price: tuple[float, float]


def cost_of(work: Work, machine: Machine, prices: PriceTable, *, workers: int, startup_minutes: float, straggler: float) -> Cost:
    """Bounds of a verb.

    Low: nothing is lost, and only CPU seconds with their share of memory are paid. High: all machines that the verb can use are
    paid from start to end, with start-up, whole pieces and a slowest one.

    Args:
      workers: machines at most. startup_minutes, straggler: see `PlanConfig`.
    """
    used = max(1, min(workers, math.ceil(work.pieces / work.cores)))
    slots = used * work.cores
    shuffle = work.shuffled / _GB * prices.shuffle_gb
    low = work.serial_s + work.parallel_s / min(slots, max(1, work.pieces))
    rounds = math.ceil(work.pieces / slots)
    slowest = work.parallel_s / max(1, work.pieces) * rounds
    high = work.serial_s + slowest * (straggler if slots > 1 else 1.0) + (60 * startup_minutes if work.jobs else 0.0)
    a_cpu_hour = prices.vcpu_hour + machine.memory_gb / machine.vcpus * prices.gb_hour
    cheap = (work.serial_s + work.parallel_s) / 3600 * a_cpu_hour + shuffle
    dear = high / 3600 * used * machine.per_hour(prices) + shuffle
    return Cost(used, (low, max(low, high)), (cheap, max(cheap, dear)))
