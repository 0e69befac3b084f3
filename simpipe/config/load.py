"""YAML and `--set a.b=value` to a `Config`; all mistakes are reported at once, each with its path."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from simpipe import files
from simpipe.config.base import Model
from simpipe.config.models import Config
from simpipe.errors import ConfigError

_CURE = "fix each line above; docs/configuration.md lists every key"


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a configuration.

    Args:
      path: a YAML file.
      overrides: `a.b=value` strings, applied in order; values are read as YAML.

    Raises:
      ConfigError: the file is missing or no YAML, or keys or values are wrong (all of them are listed).
    """
    try:
        raw = yaml.safe_load(files.located(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file", "give --config FILE, for example configs/digits.yaml") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})", "give --config FILE") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: the top level must be keys and values", _CURE)
    if isinstance(raw.get("source"), str):
        raw["source"] = _short_source(raw["source"])
    for override in overrides:
        raw = overridden(raw, override)
    return parse_config(raw, str(path))


def parse_config(raw: dict[str, Any], where: str = "configuration") -> Config:
    """Validates a plain dictionary; see `load_config`."""
    if isinstance(raw.get("source"), str):
        raw = {**raw, "source": _short_source(raw["source"])}
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        lines = [f"  {_path(problem['loc'])}: {_say(problem)}" for problem in error.errors()]
        raise ConfigError(f"{where}: {len(lines)} mistake{'s' * (len(lines) > 1)}\n" + "\n".join(lines), _CURE) from None


def _short_source(text: str) -> dict[str, Any]:
    """`digits` and `tfds:NAME` may be written as plain words."""
    kind, _, name = text.partition(":")
    return {"kind": kind, "name": name} if name else {"kind": kind}


def overridden(raw: dict[str, Any], text: str) -> dict[str, Any]:
    """Plain keys and values with one of them changed by `a.b=value`.

    Raises:
      ConfigError: it is not of that form, or its value is no YAML.
    """
    dotted, equals, value = text.partition("=")
    keys = dotted.split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {text}: not of the form a.b=value", "for example --set build.backend.kind=nmslib")
    raw = copy.deepcopy(raw)
    node = raw
    for depth, key in enumerate(keys[:-1]):
        if not isinstance(node.get(key), dict):
            if node.get(key) is not None:
                raise ConfigError(f"--set {text}: {'.'.join(keys[: depth + 1])} holds a plain value, no keys", _CURE)
            node[key] = {}
        node = node[key]
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text}: the value is not valid YAML: {error}") from None
    if keys[-1] == "kind" and node.get("kind") != parsed:
        node.clear()  # another kind has other keys
    node[keys[-1]] = parsed
    return raw


def _path(location: tuple[int | str, ...]) -> str:
    # Pydantic adds the tag of a union member and validator names to the location: keep what the user wrote.
    tags = _kinds()
    parts = [
        str(part)
        for part in location
        if not (isinstance(part, str) and (part in tags or part.startswith(("literal[", "tuple[", "constrained-"))))
    ]
    return ".".join(parts) or "(top level)"


@functools.cache
def _kinds() -> frozenset[str]:
    """Every `kind` that the configuration knows."""
    found, waiting = set(), list(Model.__subclasses__())
    while waiting:
        part = waiting.pop()
        waiting += part.__subclasses__()
        if "kind" in part.model_fields:
            found |= set(get_args(part.model_fields["kind"].annotation))
    return frozenset(found)


def _say(problem: Any) -> str:
    kind = problem["type"]
    if kind == "extra_forbidden":
        return "unknown key"
    if kind == "missing":
        return "missing"
    text = problem["msg"].removeprefix("Value error, ")
    shown = repr(problem.get("input"))
    return f"{text} (got {shown})" if len(shown) < 80 else text
