"""The estimate of a whole line, verb by verb, and what it assumes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from simpipe.config import Config
from simpipe.config.runner import DataflowRunner, LocalRunner
from simpipe.plan.calibration import Calibration
from simpipe.plan.price import Cost, Machine, Work, cost_of
from simpipe.plan.shape import Shape, shape_of
from simpipe.plan.sizes import bytes_terms, memory, moved
from simpipe.plan.terms import Terms, cpu_terms
from simpipe.plan.workload import Workload

_ALONE = ("train", "report", "gate", "publish")  # in the driver, no Beam job
_LEAST_PIECES = 16  # searches of a job over all queries, see `index.query`
_SERIAL = ("one", "fits", "fit_packed", "fit_kmeans")  # terms of work that no second process shares


@dataclass(frozen=True)
class VerbPlan:
    """The estimate of one verb.

    Attributes:
      cpu_s: CPU seconds of all processes. pieces: work items that workers share, of the verb's largest stage.
      memory_mib: of a worker process. file_bytes, beam_bytes: that go from stage to stage, in files and in Beam's elements.
      machine: of the workers. cost: how many have something to do; bounds of wall seconds and money.
    """

    verb: str
    cpu_s: float
    pieces: int
    memory_mib: float
    file_bytes: float
    beam_bytes: float
    machine: str
    cost: Cost


@dataclass(frozen=True)
class Estimate:
    """A plan. `bytes`: under the root once the line has run, by kind."""

    shape: Shape
    runner: str
    verbs: tuple[VerbPlan, ...]
    bytes: dict[str, float]
    currency: str
    storage_month: float
    assumptions: tuple[str, ...]

    @property
    def cpu_s(self) -> float:
        return sum(verb.cpu_s for verb in self.verbs)

    @property
    def total_bytes(self) -> float:
        return sum(self.bytes.values())

    @property
    def wall_s(self) -> tuple[float, float]:
        return self._sum("wall_s")

    @property
    def price(self) -> tuple[float, float]:
        return self._sum("price")

    def _sum(self, name: str) -> tuple[float, float]:
        low, high = zip(*(getattr(verb.cost, name) for verb in self.verbs), strict=True)
        return sum(low), sum(high)

    def to_json(self) -> dict[str, Any]:
        shape = asdict(self.shape)
        shape["tried"] = [{"kind": router.kind, "partitions": router.partitions} for router in self.shape.tried]
        return {
            "shape": shape,
            "runner": self.runner,
            "verbs": [asdict(verb) for verb in self.verbs],
            "bytes": {kind: round(value) for kind, value in self.bytes.items()},
            "total": {
                "cpu_s": self.cpu_s,
                "wall_s": self.wall_s,
                "price": self.price,
                "bytes": round(self.total_bytes),
                "file_bytes": round(sum(verb.file_bytes for verb in self.verbs)),
                "beam_bytes": round(sum(verb.beam_bytes for verb in self.verbs)),
                "storage_month": self.storage_month,
            },
            "currency": self.currency,
            "assumptions": list(self.assumptions),
        }


def make_estimate(config: Config, workload: Workload, *, calibration: Calibration, workers: int | None = None) -> Estimate:
    """The estimate of a line.

    Args:
      workers: machines a verb at most, instead of the configuration's.

    Raises:
      ConfigError: the calibration was made without this backend, or a machine type tells no size.
    """
    shape = shape_of(config, workload)
    terms = cpu_terms(config, workload, shape)
    factor = config.plan.cpu_factor
    seconds = {verb: factor * value for verb, value in calibration.estimate("cpu", terms).items()}
    sizes = calibration.estimate("bytes", bytes_terms(config, workload, shape))
    held, gone = memory(config, workload, shape, calibration.memory), moved(config, workload, shape)
    verbs = []
    for verb, took in seconds.items():
        files, elements = gone.get(verb, (0.0, 0.0))
        alone = verb in _ALONE
        machine, bound = _machine(config, verb, workers)
        pieces = 1 if alone else _pieces(shape, verb)
        serial = took if alone else min(took, factor * _serial(calibration, verb, terms[verb]))
        cores = 1 if isinstance(config.runner, LocalRunner) or alone else _cores(config, verb, machine)
        if isinstance(config.runner, LocalRunner):
            bound = config.runner.processes  # processes of one machine
        work = Work(serial, took - serial, pieces, cores, not alone and not isinstance(config.runner, LocalRunner), elements)
        cost = cost_of(
            work,
            machine,
            config.plan.prices,
            workers=bound,
            startup_minutes=config.plan.startup_minutes,
            straggler=config.plan.straggler,
        )
        verbs.append(VerbPlan(verb, took, pieces, held[verb], files, elements, machine.name, cost))
    total = sum(sizes.values())
    return Estimate(
        shape,
        config.runner.kind,
        tuple(verbs),
        sizes,
        config.plan.prices.currency,
        total / 1e9 * config.plan.prices.storage_gb_month,
        tuple(_assumptions(config, workload, shape, calibration)),
    )


def _serial(calibration: Calibration, verb: str, terms: Terms) -> float:
    return calibration.estimate("cpu", {verb: {name: value for name, value in terms.items() if name in _SERIAL}})[verb]


def _machine(config: Config, verb: str, workers: int | None) -> tuple[Machine, int]:
    plan = config.plan
    if isinstance(config.runner, DataflowRunner) and verb not in _ALONE:
        chosen = config.runner.workers_of(verb)  # type: ignore[arg-type]  # those that are jobs
        return Machine.of(chosen.machine_type, chosen.disk_gb), workers or chosen.max_workers
    return Machine.of(plan.machine_type, plan.disk_gb), workers or plan.workers


def _cores(config: Config, verb: str, machine: Machine) -> int:
    """vCPUs of a machine that work: all where a process runs on each, or where a library takes all of them."""
    if isinstance(config.runner, DataflowRunner) and config.runner.workers_of(verb).one_process:  # type: ignore[arg-type]
        takes_all = verb == "embed" or (verb == "build" and config.build.backend.kind in ("nmslib", "faiss"))
        return machine.vcpus if takes_all else (config.runner.workers_of(verb).threads or machine.vcpus)  # type: ignore[arg-type]
    return machine.vcpus


def _pieces(shape: Shape, verb: str) -> int:
    if verb in ("shard", "embed", "import"):
        return shape.blocks
    if verb == "build":
        return shape.partitions
    return max(_LEAST_PIECES, shape.partitions)


def _assumptions(config: Config, workload: Workload, shape: Shape, calibration: Calibration) -> list[str]:
    plan, build = config.plan, config.build
    prices = plan.prices
    dated = f" of {prices.date}" if prices.date else ""
    said = [
        f"CPU seconds and bytes as measured on {calibration.machine}, {calibration.date}",
        *([f"a worker takes {plan.cpu_factor:g} times these CPU seconds"] if plan.cpu_factor != 1 else []),
        f"prices{dated} in {prices.currency}: {prices.note}",
        "low price: CPU seconds alone, perfectly packed; high: whole machines, start-up and a slowest piece of "
        f"{plan.straggler:g} times the mean",
        f"an id takes {shape.id_bytes} bytes; vectors do not compress",
    ]
    if build.router.kind == "auto":
        said.append(
            "the planner measures when it builds: vectors that do not fall into clusters get another number of partitions"
        )
    if build.router.kind == "column":
        said.append(
            "a routing column has as many partitions as it has values, which the data say: counted as few as memory allows"
        )
    if shape.centroids:
        said.append(f"a query asks {shape.probes:g} of {shape.partitions} partitions")
    if shape.has_encoder:
        size = "x".join(map(str, workload.shape or ()))
        said.append(f"an example of {size} takes {workload.example_bytes} bytes: files do not compress")
        said.append("training runs all its epochs")
    if isinstance(config.runner, LocalRunner):
        said.append("one process at a time works, on one core; libraries that take several are faster by the clock")
    return said
