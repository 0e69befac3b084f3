"""What tests remember of Beam's answers is what Beam says."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import MethodType
from typing import Any

import apache_beam as beam
import beam_memory
import pytest
from apache_beam.options import pipeline_options
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import core

import pipelines.build
import pipelines.calibrate  # noqa: F401


def classes_of(base: type) -> Iterator[type]:
    for each in base.__subclasses__():
        yield each
        yield from classes_of(each)


def test_arguments_of_every_dofn() -> None:
    beam_memory.remember()
    asked = 0
    for each in {beam.DoFn, *classes_of(beam.DoFn)}:
        bare = object.__new__(each)
        for name, _ in inspect.getmembers(each, inspect.isfunction):
            method: Any = MethodType(inspect.getattr_static(each, name), bare) if callable(getattr(each, name)) else None
            if isinstance(inspect.getattr_static(each, name), staticmethod):
                continue
            expected = beam_memory.args_defaults(method)
            for _ in range(2):
                assert core.get_function_args_defaults(method) == expected
                core.get_function_args_defaults(method)[0].append("of the caller")
            asked += 1
    assert asked > 500
    plain = lambda x, y=3: x + y  # noqa: E731
    assert core.get_function_args_defaults(plain) == (["x", "y"], [3])


@pytest.mark.parametrize("flags", [[], ["--runner", "FlinkRunner", "--experiments", "a", "--experiments=b", "--streaming"]])
def test_options_read_as_beam_reads_them(flags: list[str]) -> None:
    beam_memory.remember()
    for each in (value for value in vars(pipeline_options).values() if inspect.isclass(value)):
        if not issubclass(each, PipelineOptions):
            continue
        ours, theirs = [each(list(flags)) for _ in range(2)][1], object.__new__(each)
        beam_memory.read_options(theirs, list(flags))
        assert str(ours) == str(theirs)
        assert ours._visible_option_list() == theirs._visible_option_list()
    options = PipelineOptions(flags, runner="DirectRunner")
    assert options.view_as(pipeline_options.StandardOptions).runner == "DirectRunner", "what is said goes before flags"
    assert options.get_all_options() == {**PipelineOptions(flags).get_all_options(), "runner": "DirectRunner"}
    with pytest.raises(ValueError, match="single string"):
        PipelineOptions("--streaming")


def test_what_one_changes_no_other_sees() -> None:
    beam_memory.remember()
    debug = pipeline_options.DebugOptions
    first, second = (PipelineOptions(["--experiments", "a"]) for _ in range(2))
    first.view_as(debug).experiments.append("b")
    first.view_as(pipeline_options.StandardOptions).streaming = True
    assert first.view_as(debug).experiments == ["a", "b"], "a view of the same options"
    assert second.view_as(debug).experiments == ["a"]
    assert not second.view_as(pipeline_options.StandardOptions).streaming
    assert PipelineOptions(["--experiments", "a"]).view_as(debug).experiments == ["a"]
