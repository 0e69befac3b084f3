"""Reads a Workflows file into subworkflows, steps that know their lines, and the jumps between them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

END = "end"
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_NAME = re.compile(r"(?<![\w.])([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\s*(\()?")
_WORDS = {"and", "or", "not", "in", "true", "false", "null"}


@dataclass(frozen=True)
class Step:
    """One step. `depth`: the lists of steps that it lies in, from the outside in, as names of the steps that hold them."""

    name: str
    line: int
    body: dict[str, Any]
    depth: tuple[str, ...]

    @property
    def action(self) -> dict[str, Any]:
        """What is done: the body, or what the body tries where that is one call."""
        inner = self.body.get("try", self.body)
        return self.body if "steps" in inner else inner


@dataclass(frozen=True)
class Jump:
    """From one step to another (or END). `sets`: variables that are set on the way."""

    source: str
    target: str
    sets: frozenset[str] = frozenset()


@dataclass
class Subworkflow:
    """`steps` in the order of the file, however deep; the first one begins."""

    name: str
    line: int
    params: list[str]
    steps: list[Step] = field(default_factory=list)
    jumps: list[Jump] = field(default_factory=list)


def read_workflow(path: Path) -> dict[str, Subworkflow]:
    """The subworkflows of a file by name.

    Raises:
      yaml.YAMLError: no YAML. ValueError: not of the form of a workflow; the message names file and line.
    """
    root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    found = {}
    for key, node in root.value:
        body = {inner.value: value for inner, value in node.value}
        if "steps" not in body or set(body) - {"params", "steps"}:
            raise ValueError(f"{path}:{key.start_mark.line + 1}: {key.value} needs steps, and has params at most beside them")
        params = plain(body["params"]) if "params" in body else []
        flow = Subworkflow(key.value, key.start_mark.line + 1, params)
        _lay(flow, body["steps"], (), END, path)
        found[key.value] = flow
    return found


def plain(node: yaml.Node) -> Any:
    """The value of a YAML node."""
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    finally:
        loader.dispose()


def _lay(flow: Subworkflow, steps: yaml.Node, depth: tuple[str, ...], after: str, path: Path) -> str:
    """Adds a list of steps with their jumps; `after` is where its end leads. Returns the name of the first."""
    named = []
    for node in steps.value:
        if len(node.value) != 1:
            raise ValueError(f"{path}:{node.start_mark.line + 1}: a step is one name with its body")
        named.append(node.value[0])
    for (key, node), following in zip(named, [*(key.value for key, _ in named[1:]), after], strict=True):
        step = Step(key.value, key.start_mark.line + 1, plain(node), depth)
        flow.steps.append(step)
        goes_on = step.body.get("next", following)
        inner = {child.value: value for child, value in node.value}
        if "switch" in step.body:
            for case in step.body["switch"]:
                if "return" not in case and "raise" not in case:
                    flow.jumps.append(Jump(step.name, case.get("next", goes_on)))
            flow.jumps.append(Jump(step.name, goes_on))
        elif "try" in step.body:
            tried = {child.value: value for child, value in inner["try"].value}
            if "steps" in tried:
                first = _lay(flow, tried["steps"], (*depth, step.name), goes_on, path)
                flow.jumps.append(Jump(step.name, first))
            else:
                flow.jumps.append(Jump(step.name, goes_on, frozenset(assigned(step.body["try"]))))
            if "except" in inner:
                caught = {child.value: value for child, value in inner["except"].value}
                first = _lay(flow, caught["steps"], (*depth, f"{step.name}: except"), goes_on, path)
                flow.jumps.append(Jump(step.name, first, frozenset({plain(caught["as"])})))
        elif "return" not in step.body and "raise" not in step.body:
            flow.jumps.append(Jump(step.name, goes_on, frozenset(assigned(step.body))))
    return named[0][0].value


def assigned(body: dict[str, Any]) -> list[str]:
    """Variables that a step sets."""
    names = [name for entry in body.get("assign", []) for name in entry]
    return [*names, *([body["result"]] if "result" in body else [])]


def expressions(value: Any) -> Iterator[str]:
    """Every `${...}` in a value, whole.

    Raises:
      ValueError: one does not end, or does not fill its string (it would be taken as text).
    """
    if isinstance(value, dict):
        for inner in value.values():
            yield from expressions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from expressions(inner)
    elif isinstance(value, str) and "${" in value:
        bare = _STRING.sub("", value)
        if not (value.startswith("${") and value.endswith("}")) or bare.count("{") != bare.count("}") or bare.count("{") != 1:
            raise ValueError(f"{value}: an expression fills its string, from ${{ to }}")
        if bare.count("(") != bare.count(")") or bare.count("[") != bare.count("]") or '"' in bare:
            raise ValueError(f"{value}: brackets or quotes do not balance")
        yield value


def names(expression: str) -> tuple[set[str], set[str]]:
    """Variables and functions that an expression uses; functions with their dots, such as `map.get`."""
    used, called = set(), set()
    for match in _NAME.finditer(_STRING.sub('""', expression)):
        name, bracket = match.groups()
        if name in _WORDS:
            continue
        (called if bracket else used).add(name if bracket or name.startswith("http.") else name.split(".")[0])
    return used, called
