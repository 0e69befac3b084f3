"""What a Workflows file of this project must hold, checked from its text alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from workflow_files import END, Step, Subworkflow, assigned, expressions, names, read_workflow

_ACTIONS = {"assign", "call", "raise", "return", "switch", "try"}
_BESIDE = {"call": {"args", "result", "next"}, "assign": {"next"}, "switch": {"next"}, "try": {"retry", "except", "next"}}
_CASES = {"next", "raise", "return"}
_CALLS = {
    "http.get": {"url"},
    "http.post": {"url", "body"},
    "http.put": {"url", "body"},
    "sys.log": {"severity", "json"},
    "sys.sleep": {"seconds"},
}
_HTTP_ARGS = {"url", "body", "auth", "query", "headers", "timeout"}
_FUNCTIONS = {
    "default", "double", "get_type", "json.decode", "map.get", "map.merge", "math.max", "math.min", "sys.get_env", "sys.now",
    "text.replace_all_regex", "text.substring", "text.to_lower", "text.url_encode", "time.format", "time.parse", "uuid.generate",
}  # fmt: skip
_VALUES = {"http.default_retry", "http.default_retry_predicate", "http.default_retry_predicate_non_idempotent"}
_LONGEST = 400  # characters of an expression that Workflows takes


def check_workflow(path: Path) -> list[str]:
    """All that is wrong with a file, each as `file:line: text`."""
    try:
        flows = read_workflow(path)
    except (yaml.YAMLError, ValueError) as error:
        return [str(error)]
    found = [] if "main" in flows else [f"{path}:1: no main"]
    called = {step.action["call"] for flow in flows.values() for step in flow.steps if "call" in step.action}
    for flow in flows.values():
        if flow.name != "main" and flow.name not in called:
            found.append(f"{path}:{flow.line}: {flow.name} is never called")
        shape = [f"{path}:{line}: {flow.name}: {text}" for line, text in _shape(flow, flows)]
        found += shape
        if not shape:  # jumps of a broken shape say nothing
            found += [f"{path}:{line}: {flow.name}: {text}" for line, text in (*_reach(flow), *_loops(flow), *_variables(flow))]
    return found


def _shape(flow: Subworkflow, flows: dict[str, Subworkflow]) -> Iterator[tuple[int, str]]:
    """Each step by itself."""
    by_name = {step.name: step for step in flow.steps}
    for name, count in Counter(step.name for step in flow.steps).items():
        if count > 1:
            yield by_name[name].line, f"{count} steps are called {name}"
    for step in flow.steps:
        kinds = _ACTIONS & step.body.keys()
        if len(kinds) != 1:
            yield step.line, f"{step.name} does {' and '.join(sorted(kinds)) or 'nothing'}: a step does one thing"
            continue
        if unknown := step.body.keys() - kinds - _BESIDE.get(next(iter(kinds)), set()):
            yield step.line, f"{step.name}: unknown key {', '.join(sorted(unknown))}"
        for case in step.body.get("switch", []):
            if len(case) != 2 or "condition" not in case or not case.keys() & _CASES:
                yield step.line, f"{step.name}: a case has a condition and one of {', '.join(sorted(_CASES))}"
        for target in _targets(step):
            if target != END and target not in by_name:
                yield step.line, f"{step.name}: next: {target} is no step"
            elif target != END and by_name[target].depth != step.depth[: len(by_name[target].depth)]:
                yield step.line, f"{step.name}: next: {target} lies inside another block"
        if "call" in step.action:
            yield from ((step.line, f"{step.name}: {text}") for text in _call(step, flows))
        try:
            for expression in expressions({key: value for key, value in step.body.items() if key not in ("try", "except")}):
                yield from ((step.line, f"{step.name}: {text}") for text in _expression(expression))
            for expression in expressions(step.action):
                yield from ((step.line, f"{step.name}: {text}") for text in _expression(expression))
        except ValueError as error:
            yield step.line, f"{step.name}: {error}"


def _targets(step: Step) -> list[str]:
    cases = [case for case in step.body.get("switch", []) if "next" in case]
    return [holder["next"] for holder in (step.body, *cases) if "next" in holder]


def _call(step: Step, flows: dict[str, Subworkflow]) -> Iterator[str]:
    call, args = step.action["call"], step.action.get("args", {})
    if call in flows:
        if set(args) != set(flows[call].params):
            yield f"{call} takes {', '.join(flows[call].params)}, not {', '.join(args)}"
    elif call not in _CALLS:
        yield f"call: {call} is no subworkflow of this file, and not among the calls that these workflows use"
    else:
        if missing := _CALLS[call] - args.keys():
            yield f"{call} without {', '.join(sorted(missing))}"
        if call.startswith("http."):
            if unknown := args.keys() - _HTTP_ARGS:
                yield f"{call}: unknown argument {', '.join(sorted(unknown))}"
            if args.get("auth") != {"type": "OAuth2"}:
                yield f"{call} without auth: {{type: OAuth2}}"
            if "retry" not in step.body:
                yield f"{call} is not tried again: wrap it in try with retry"


def _expression(expression: str) -> Iterator[str]:
    if len(expression) > _LONGEST:
        yield f"an expression of {len(expression)} characters; {_LONGEST} at most"
    used, called = names(expression[2:-1])
    for name in sorted(called - _FUNCTIONS):
        yield f"{name}() is not among the functions that these workflows use"
    for name in sorted(name for name in used if name.startswith("http.") and name not in _VALUES):
        yield f"{name} is not among the values that these workflows use"


def _reach(flow: Subworkflow) -> Iterator[tuple[int, str]]:
    """Steps that no path leads to."""
    seen, waiting = set(), [flow.steps[0].name]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += [jump.target for jump in flow.jumps if jump.source == name]
    for step in flow.steps:
        if step.name not in seen:
            yield step.line, f"{step.name} is never reached"


def _loops(flow: Subworkflow) -> Iterator[tuple[int, str]]:
    """Every loop waits, and leaves by a limit of time."""
    after = {step.name: _from(flow, step.name) for step in flow.steps}
    by_name = {step.name: step for step in flow.steps}
    for step in flow.steps:
        loop = {name for name in after[step.name] if step.name in after.get(name, set())}
        if step.name != next((other.name for other in flow.steps if other.name in loop), None):
            continue  # said once, at the loop's first step
        if not any(by_name[name].action.get("call") == "sys.sleep" for name in loop):
            yield step.line, f"the loop at {step.name} does not wait"
        limits = [
            case
            for name in loop
            for case in by_name[name].body.get("switch", [])
            if "sys.now()" in case["condition"] and case.get("next") not in loop
        ]
        if not limits:
            yield step.line, f"the loop at {step.name} has no limit: a case that compares sys.now() and leaves"


def _from(flow: Subworkflow, start: str) -> set[str]:
    """Steps that can follow a step, itself among them only where it is in a loop."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        for jump in flow.jumps:
            if jump.source == name and jump.target != END and jump.target not in seen:
                seen.add(jump.target)
                waiting.append(jump.target)
    return seen


def _variables(flow: Subworkflow) -> Iterator[tuple[int, str]]:
    """Variables that some path uses before it sets them."""
    everything = {name for jump in flow.jumps for name in jump.sets} | set(flow.params)
    entry = {step.name: set(everything) for step in flow.steps}
    entry[flow.steps[0].name] = set(flow.params)
    changed = True
    while changed:
        changed = False
        for jump in flow.jumps:
            if jump.target == END:
                continue
            known = entry[jump.target] & (entry[jump.source] | jump.sets)
            if jump.target == flow.steps[0].name:
                known &= set(flow.params)
            changed |= known != entry[jump.target]
            entry[jump.target] = known
    for step in flow.steps:
        known = set(entry[step.name])
        for part in _in_order(step):
            for expression in expressions(part):
                for name in sorted(names(expression[2:-1])[0] - _VALUES - known):
                    yield step.line, f"{step.name}: {name} may not be set yet"
            known |= set(assigned(part)) if isinstance(part, dict) else set()


def _in_order(step: Step) -> Iterator[Any]:
    """What a step evaluates, one part after the other."""
    action = step.action
    yield from ({"assign": [entry]} for entry in action.get("assign", []))
    yield from action.get("switch", [])
    yield [action.get("args"), action.get("return"), action.get("raise"), step.body.get("retry")]
