"""Runs a Workflows file against services that a test makes up.

It knows as much of the language as this project's files use, and its clock sleeps fast.
"""

from __future__ import annotations

import datetime
import json
import re
import urllib.parse
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

_STRING = re.compile(r'("(?:[^"\\]|\\.)*")')
_CONSTANTS = {"null": "None", "true": "True", "false": "False"}
_ATTEMPTS = 5
Answer = Callable[[str, str, dict[str, Any]], Any]  # method, URL, arguments -> body, or raises WorkflowError


class WorkflowError(Exception):
    """What a workflow raises: a map."""

    def __init__(self, value: dict[str, Any]):
        super().__init__(str(value))
        self.value = value


class Map(dict):
    """A map whose keys are read with dots as well."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise WorkflowError(Map(code=0, tags=["KeyError"], message=f"key not found: {name}")) from None


@dataclass
class Run:
    """One execution.

    Attributes:
      environment: of the workflow. answer: of requests. now: the time in seconds.
      logs: what was logged. slept: seconds, one a sleep. requests: method, URL and body of each.
    """

    path: Path
    environment: dict[str, str]
    answer: Answer
    now: float = 1_800_000_000.0
    logs: list[dict[str, Any]] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)
    requests: list[tuple[str, str, Any]] = field(default_factory=list)

    def main(self) -> Any:
        """What the workflow returns.

        Raises:
          WorkflowError: it failed.
        """
        self.flows = yaml.safe_load(self.path.read_text())
        return self._flow("main", {})

    def _flow(self, name: str, variables: dict[str, Any]) -> Any:
        kind, value = self._steps(self.flows[name]["steps"], variables)
        assert kind in ("return", "on"), f"{name}: no step {value}"
        return value if kind == "return" else None

    def _steps(self, steps: list[dict[str, Any]], variables: dict[str, Any]) -> tuple[str, Any]:
        """Runs a list: ("on", None) at its end, ("return", value), or ("next", step) for one that is not in it."""
        places = {next(iter(step)): place for place, step in enumerate(steps)}
        place = 0
        while place < len(steps):
            kind, value = self._step(next(iter(steps[place].values())), variables)
            if kind == "next" and value in places:
                place = places[value]
            elif kind == "on":
                place += 1
            else:
                return kind, value
        return "on", None

    def _step(self, body: dict[str, Any], variables: dict[str, Any]) -> tuple[str, Any]:
        done = ("on", None)
        if "try" in body:
            done = self._try(body, variables)
        elif "switch" in body:
            for case in body["switch"]:
                if self._value(case["condition"], variables) is True:
                    done = self._step({key: value for key, value in case.items() if key != "condition"}, variables)
                    break
        elif "call" in body:
            result = self._call(body["call"], self._value(body.get("args", {}), variables))
            if "result" in body:
                variables[body["result"]] = result
        for entry in body.get("assign", []):
            variables.update({name: self._value(value, variables) for name, value in entry.items()})
        if "raise" in body:
            raise WorkflowError(self._value(body["raise"], variables))
        if "return" in body:
            return "return", self._value(body["return"], variables)
        return ("next", body["next"]) if done[0] == "on" and "next" in body else done

    def _try(self, body: dict[str, Any], variables: dict[str, Any]) -> tuple[str, Any]:
        codes = self._retried(body.get("retry"))
        for attempt in range(_ATTEMPTS):
            try:
                inner = body["try"]
                return self._steps(inner["steps"], variables) if "steps" in inner else self._step(inner, variables)
            except WorkflowError as error:
                if error.value.get("code") in codes and attempt < _ATTEMPTS - 1:
                    continue
                if "except" not in body:
                    raise
                inside = {**variables, body["except"]["as"]: error.value}  # what is set inside stays inside
                return self._steps(body["except"]["steps"], inside)
        raise AssertionError("never")

    def _retried(self, retry: Any) -> tuple[int, ...]:
        rule = retry["predicate"] if isinstance(retry, dict) else retry
        safe = {"${http.default_retry}": (429, 502, 503, 504), "${http.default_retry_predicate_non_idempotent}": (429, 503)}
        return safe[rule] if rule else ()

    def _call(self, name: str, args: dict[str, Any]) -> Any:
        if name in self.flows:
            return self._flow(name, dict(args))
        if name == "sys.sleep":
            self.slept.append(args["seconds"])
            self.now += args["seconds"]
        elif name == "sys.log":
            self.logs.append({"severity": args["severity"], **args["json"]})
        else:
            method = name.removeprefix("http.").upper()
            self.requests.append((method, args["url"], args.get("body")))
            return Map(body=_mapped(self.answer(method, args["url"], args)))
        return None

    def _value(self, value: Any, variables: dict[str, Any]) -> Any:
        if isinstance(value, dict):
            return Map({key: self._value(inner, variables) for key, inner in value.items()})
        if isinstance(value, list):
            return [self._value(inner, variables) for inner in value]
        if isinstance(value, str) and value.startswith("${"):
            parts = _STRING.split(value[2:-1])
            parts[::2] = [re.sub(r"\b(null|true|false)\b", lambda word: _CONSTANTS[word.group()], part) for part in parts[::2]]
            return eval("".join(parts), {"__builtins__": {}, **self._functions()}, variables)
        return value

    def _functions(self) -> dict[str, Any]:
        def get(value: Any, keys: Any) -> Any:
            for key in keys if isinstance(keys, list) else [keys]:
                value = value.get(key) if isinstance(value, dict) else None
            return value

        def stamp(seconds: float) -> str:
            return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

        return {
            "default": lambda value, other: other if value is None else value,
            "double": float,
            "get_type": lambda value: {dict: "map", Map: "map", str: "string", bytes: "bytes"}[type(value)],
            "json": SimpleNamespace(decode=lambda text: _mapped(json.loads(text))),
            "map": SimpleNamespace(get=get, merge=lambda first, second: Map({**first, **second})),
            "math": SimpleNamespace(min=min, max=max),
            "sys": SimpleNamespace(get_env=lambda name: self.environment[name], now=lambda: self.now),
            "text": SimpleNamespace(
                replace_all_regex=lambda text, pattern, new: re.sub(pattern, new, text),
                substring=lambda text, start, end: text[start:end],
                to_lower=str.lower,
                url_encode=lambda text: urllib.parse.quote(text, safe=""),
            ),
            "time": SimpleNamespace(format=stamp, parse=lambda text: datetime.datetime.fromisoformat(text).timestamp()),
            "uuid": SimpleNamespace(generate=lambda: str(uuid.uuid4())),
        }


def _mapped(value: Any) -> Any:
    return json.loads(json.dumps(value), object_hook=Map) if isinstance(value, dict | list) else value
