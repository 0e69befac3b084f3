"""The dry run: every job of every verb is translated without a network, opened elsewhere, and what is wrong is found."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from conftest import REPOSITORY
from test_runner_arguments import DATAFLOW

from pipelines import dry_run
from simpipe.beam import translate as translating
from simpipe.beam.translate import translate
from simpipe.cli import main
from simpipe.config import Config, load_config
from simpipe.config.runner import DataflowRunner
from simpipe.errors import ConfigError
from simpipe.job import job_of

ITEMS = 10_000_000
BOTH = ("build", "calibrate", "dedupe", "evaluate", "lookup", "match", "reindex")


@pytest.fixture(scope="module", autouse=True)
def offline():
    """Nothing may be connected to, and no name looked up."""

    def refused(*_: Any) -> None:
        raise AssertionError("the dry run wants the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refused)
        patch.setattr(socket, "getaddrinfo", refused)
        yield


def config_of(name: str, *changes: str) -> Config:
    given = [f"runner.{key}={json.dumps(value)}" for key, value in DATAFLOW.items()] if name != "dataflow" else []
    return load_config(REPOSITORY / "configs" / f"{name}.yaml", [*given, *changes])


@pytest.fixture(scope="module")
def translated(tmp_path_factory: pytest.TempPathFactory):
    """The jobs of three configurations, also saved to folders; the examples are in hundreds of shards."""
    found = {}
    for name, changes in (("digits", ["shard.num_shards=300", "build.router.partitions=500"]), ("dataflow", []), ("reindex", [])):
        jobs = dry_run.run(config_of(name, *changes), items=ITEMS)
        folder = tmp_path_factory.mktemp(name)
        dry_run.save(jobs, folder)
        found[name] = (jobs, folder)
    return found


@pytest.mark.parametrize(("name", "first"), [("digits", ("shard", "embed")), ("dataflow", ("import",)), ("reindex", ("import",))])
def test_every_verb_translates_at_ten_million_items(translated, name, first):
    jobs, _ = translated[name]
    assert {each.title.partition(":")[0] for each in jobs} == {*first, *BOTH, "template"}
    assert [problem for each in jobs for problem in each.problems] == []
    for each in jobs:
        assert 0 < each.size < translating.MOST_GRAPH
        assert each.element < translating.MOST_ELEMENT
        assert 0 < each.stages < each.transforms


def test_the_request_has_what_the_configuration_says(translated):
    jobs, folder = translated["dataflow"]
    runner: Any = config_of("dataflow").runner
    requests = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    assert len(requests) == len(jobs) - 1  # the template's own job is the launcher's
    build = requests["build"]
    assert build["name"] == "simpipe-build-catalogue"
    assert build["labels"] == {
        "team": "search", "simpipe-verb": "build", "simpipe-config": "catalogue", "simpipe-version": "0-1-0",
    }  # fmt: skip
    (pool,) = build["environment"]["workerPools"]
    assert pool["machineType"] == "n2-highmem-8"
    assert pool["subnetwork"] == runner.subnetwork
    assert pool["ipConfiguration"] == "WORKER_IP_PRIVATE"
    images = pool["sdkHarnessContainerImages"]
    assert len(images) == 2  # the step that builds partitions has hints, so an environment of its own
    assert {each["containerImage"] for each in images} == {runner.image}


def test_hints_stand_at_the_step_that_builds_and_nowhere_else(translated):
    for title in ("build", "reindex: rebuild"):
        (job,) = [each for each in translated["dataflow"][0] if each.title == title]
        components = job.graph.components
        hinted = {
            transform.unique_name: dict(components.environments[transform.environment_id].resource_hints)
            for transform in components.transforms.values()
            if transform.environment_id and components.environments[transform.environment_id].resource_hints
        }
        assert hinted
        assert all("BuildPartitions" in name for name in hinted)
        for hints in hinted.values():
            assert hints["beam:resources:max_active_bundles_per_worker:v1"] == b"1"
            assert 4096 << 20 < int(hints["beam:resources:min_ram_bytes:v1"]) <= (4096 + 1536) << 20


def wheel_of(folder: Path) -> Path:
    """Builds the wheel from a copy of the sources, and unpacks it."""
    source, out = folder / "source", folder / "wheel"
    for name in ("simpipe", "pipelines"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, source)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, check=True)
    (wheel,) = folder.glob("*.whl")
    shutil.unpack_archive(wheel, out, "zip")
    return out


def test_all_that_workers_open_opens_with_the_wheel_alone(translated, tmp_path):
    """As on a worker: only installed packages and the wheel's files can be imported, not this checkout."""
    wheel, places = wheel_of(tmp_path), sysconfig.get_paths()
    script = (
        f"import sys, json, pathlib; sys.path += [{str(wheel)!r}, {places['purelib']!r}, {places['platlib']!r}]\n"
        "from simpipe.beam import unpickle\n"
        f"print(json.dumps([unpickle.report(pathlib.Path(each)) for each in sys.argv[1:]]))"
    )
    folders = [str(folder) for _, folder in translated.values()]
    # -S: `.pth` files are not read, by which an editable installation would find the checkout.
    command = [sys.executable, "-I", "-S", "-c", script, *folders]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 0, done.stderr
    for told, (jobs, _) in zip(json.loads(done.stdout), translated.values(), strict=True):
        assert told["problems"] == []
        assert Path(told["simpipe"]).is_relative_to(wheel)
        assert len(told["opened"]) == len(jobs)
        assert all(told["opened"].values())


class _OfThisModule(beam.DoFn):
    def process(self, element: int) -> Any:
        yield element


def _heavy(element: int) -> int:
    return element


def build_of(elements: list[Any], transform: beam.PTransform):
    return lambda pipeline: pipeline | "Numbers" >> beam.Create(elements) | "Work" >> transform


def test_code_that_no_worker_has_is_found(tmp_path):
    job = job_of(config_of("reindex"), "build")
    problems = dry_run.check([translate("trial", build_of([1], beam.ParDo(_OfThisModule())), job)])
    assert any("test_dry_run" in problem and "trial" in problem for problem in problems)


def test_functions_of_main_are_found():
    """They are pickled whole, and open everywhere: until they name something else of their module."""
    function = type(_heavy)(_heavy.__code__, {"__name__": "__main__"}, "work")
    function.__module__ = "__main__"
    problems = dry_run.check([translate("trial", build_of([1], beam.Map(function)), job_of(config_of("reindex"), "build"))])
    assert any("takes code of __main__" in problem for problem in problems)


def test_large_elements_and_graphs_are_found():
    job = job_of(config_of("reindex"), "build")
    found = translate("trial", build_of([os.urandom(2 << 20)], beam.Map(_heavy)), job)
    assert [re.sub(r"\d[\d,]*\d", "N", problem) for problem in found.problems] == ["trial: an element has N bytes, more than N"]
    found = translate("trial", build_of([os.urandom(1 << 19) for _ in range(12)], beam.Map(_heavy)), job)
    assert [re.sub(r"\d[\d,]*\d", "N", problem) for problem in found.problems] == ["trial: the graph has N bytes, more than N"]


class _Key:
    pass


class _AnyOrder(beam.coders.Coder):
    """A coder that promises nothing, as `Coder.is_deterministic` says unless told otherwise."""


def _keyed(element: int) -> Any:
    return _Key(), element


def test_a_key_whose_bytes_depend_on_the_run_is_refused():
    def build(pipeline: Any) -> None:
        pairs = beam.Map(_keyed).with_output_types(tuple[_Key, int])
        _ = pipeline | "Numbers" >> beam.Create([1]) | "Pairs" >> pairs | "Group" >> beam.GroupByKey()

    beam.coders.registry.register_coder(_Key, _AnyOrder)
    with pytest.raises(ConfigError, match=r"trial: Beam refuses it: .*deterministic"):
        translate("trial", build, job_of(config_of("reindex"), "build"))


def test_options_that_undo_the_configuration_are_found():
    job = job_of(config_of("reindex"), "build", ["--use_public_ips", "--machine_type=n1-standard-1"])
    found = translate("trial", build_of([1], beam.Map(_heavy)), job)
    assert found.problems == (
        "trial: the machine type is 'n1-standard-1', not 'n2-highmem-8'",
        "trial: private addresses is 'WORKER_IP_PUBLIC', not 'WORKER_IP_PRIVATE'",
    )


def test_the_command_prints_a_table_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = REPOSITORY / "configs" / "reindex.yaml"  # of the local runner: the same graphs
    assert main(["run", "--config", str(config), "--dry-run", "--items", "1000"]) == 0
    said = capsys.readouterr()
    assert "reindex: rebuild" in said.out
    assert "nothing is wrong" in said.err
    assert list(tmp_path.iterdir()) == []


def test_the_example_of_dataflow_is_a_valid_configuration():
    assert isinstance(load_config(REPOSITORY / "configs" / "dataflow.yaml").runner, DataflowRunner)
