"""`simpipe plan` on the command line, and what the benchmark that calibrates it fits."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from benchmarks.plan_calibrate import fit
from simpipe.cli import main
from simpipe.config import parse_config
from simpipe.plan.shape import shape_of
from simpipe.plan.terms import cpu_terms
from simpipe.plan.workload import Workload


@pytest.fixture
def config(tmp_path):
    np.save(tmp_path / "v.npy", np.zeros((300, 8), np.float32))
    path = tmp_path / "a.yaml"
    about = {"name": "shoes", "root": str(tmp_path / "root"), "source": {"kind": "vectors", "path": str(tmp_path / "v.npy")}}
    path.write_text(yaml.safe_dump(about))
    return path


def test_the_plan_is_printed_and_nothing_is_written(config, capsys):
    assert main(["plan", "--config", str(config), "--items", "3000000", "--dim", "64"]) == 0
    said = capsys.readouterr().out
    for words in (
        "shoes",
        "3,000,000 items of dim 64",
        "partitions",
        "evaluate",
        "under the root",
        "assumed: prices",
        "examples",
    ):
        assert words in said
    assert not (config.parent / "root").exists()


def test_json_counts_the_source_and_prices_follow_the_table(config, capsys):
    def planned(*words):
        assert main(["plan", "--config", str(config), "--json", *words]) == 0
        return json.loads(capsys.readouterr().out)

    about = planned()
    assert (about["shape"]["items"], about["shape"]["dim"], about["runner"]) == (300, 8, "local")
    prices = ("vcpu_hour", "gb_hour", "disk_gb_hour", "shuffle_gb", "storage_gb_month")
    free = planned(*(word for name in prices for word in ("--set", f"plan.prices.{name}=0")), "--set", "plan.prices.currency=EUR")
    assert free["total"]["price"] == [0.0, 0.0]
    assert free["total"]["storage_month"] == 0.0
    assert free["currency"] == "EUR"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--items", "0"], "--items 0"),
        (["--set", "plan.machine_type=e2-micro"], "machine_type e2-micro"),
        (["--set", "plan.price.vcpu_hour=1"], "plan.price: unknown key"),
        (["--calibration", "none.json"], "none.json"),
        (["--", "--runner=DirectRunner"], "after `--`"),
    ],
)
def test_mistakes_are_named(config, capsys, words, said):
    assert main(["plan", "--config", str(config), *words]) == 2
    assert said in capsys.readouterr().err


def test_the_fit_finds_planted_costs():
    """Runs that cost exactly so much a unit: their estimates are exact, also of a size that was not among them."""
    rng = np.random.default_rng(0)

    def config_of(items, queries):
        about = {"kind": "vectors", "path": "x.npy"}
        return {"name": "x", "root": "r", "source": about, "queries": {"fraction": queries / items}}

    def planted(items, dim, queries, partitions):
        config = config_of(items, queries)
        parsed, workload = parse_config(config), Workload(items, dim)
        terms = cpu_terms(parsed, workload, shape_of(parsed, workload, partitions=partitions))
        cpu = {"import": 2.0 + 3e-6 * terms["import"]["items"] + 1e-8 * terms["import"]["values"]}
        cpu["report"] = 1.0 + 2e-6 * items
        return config, terms, cpu

    runs = []
    for _ in range(12):
        items, dim = int(rng.integers(20_000, 200_000)), int(rng.choice([16, 64, 128]))
        config, _, cpu = planted(items, dim, 2000, 4)
        about = {"items": items, "dim": dim, "shape": None}
        runs.append({"config": config, "workload": about, "cpu": cpu, "partitions": 4, "rows": items - 2000})
    coefficients, ratios = fit(runs, "cpu")
    assert all(abs(ratio - 1) < 0.01 for run in ratios for ratio in run.values())
    _, terms, cpu = planted(1_000_000, 64, 2000, 16)
    for verb in ("import", "report"):
        estimate = sum(coefficients[verb][name] * value for name, value in terms[verb].items())
        assert estimate == pytest.approx(cpu[verb], rel=0.05)
