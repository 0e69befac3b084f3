"""Canary queries: queries whose answers are known, asked of a release before it goes live.

A file of JSON lines, one query each:

    {"name": "a seven", "id": "digits-00007", "expect_label": "7"}
    {"name": "the same shoe", "image": "shoe.png", "k": 3, "expect_id": "shoe-12"}
    {"name": "noise", "vector": [0.1, 0.7], "expect_none": true}

`id`, `vector` or `image` (its path counts from the folder of the file) is asked. `expect_id`: the item must be among the first
`k` of a lookup. `expect_label` and `expect_none`: the label of a match at the cutpoint `cutpoint` (default: optimal), or that
there is no match.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, ValidationError, model_validator

from simpipe.config.base import Model, Positive
from simpipe.errors import ConfigError, SimpipeError
from simpipe.gates import CanaryAnswer
from simpipe.index.searcher import Searcher
from simpipe.queries import Queries, answer, load_queries

_CURE = 'for example {"name": "a seven", "id": "digits-00007", "expect_label": "7"}'
_QUERIES, _EXPECTED = ("id", "vector", "image"), ("expect_id", "expect_label", "expect_none")


class Canary(Model):
    """One query with its expected answer, see the module."""

    name: str
    id: str | None = None
    vector: tuple[float, ...] | None = Field(default=None, min_length=1)
    image: str | None = None
    k: Positive = 1
    cutpoint: str = "optimal"
    expect_id: str | None = None
    expect_label: str | None = None
    expect_none: bool = False

    @model_validator(mode="after")
    def _one_of_each(self) -> Canary:
        asked = [name for name in _QUERIES if getattr(self, name) is not None]
        expected = [name for name in _EXPECTED if getattr(self, name) not in (None, False)]
        for found, names in ((asked, _QUERIES), (expected, _EXPECTED)):
            if len(found) != 1:
                raise ValueError(f"has {' and '.join(found) or 'none'} of {', '.join(names)}; it needs one")
        return self

    def judge(self, record: dict[str, Any]) -> CanaryAnswer:
        """Compares the answer, as `queries.answer` gives it, with what is expected."""
        if self.expect_id is not None:
            ids = [neighbor["id"] for neighbor in record["neighbors"]]
            return self._said(self.expect_id in ids, f"id {self.expect_id}", ", ".join(ids) or "nothing")
        match = record["match"]
        within = match["distance"] is not None and match["distance"] <= match["cutpoint_distance"]
        came = f"label {match['label']}" if within else "no match"
        if self.expect_none:
            return self._said(not within, "no match", came)
        return self._said(within and match["label"] == self.expect_label, f"label {self.expect_label}", came)

    def _said(self, right: bool, expected: str, came: str) -> CanaryAnswer:
        return CanaryAnswer(self.name, right, f"expected {expected}, got {came}")


def load_canaries(path: Path) -> list[Canary]:
    """Canary queries of a file; empty lines are skipped.

    Raises:
      ConfigError: the file is missing or empty, or a line is no canary query; names the line.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"gates.canaries.path: {path}: cannot be read ({error})", _CURE) from None
    found: dict[str, Canary] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            canary = Canary.model_validate(json.loads(line))
        except json.JSONDecodeError as error:
            raise ConfigError(f"{where}: not valid JSON ({error.msg} at column {error.colno})", _CURE) from None
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise ConfigError(f"{where}: {field + ': ' if field else ''}{first['msg']}", _CURE) from None
        if canary.name in found:
            raise ConfigError(f"{where}: a second canary query {canary.name!r}", "give each a name of its own")
        found[canary.name] = canary
    if not found:
        raise ConfigError(f"{path}: holds no canary query", _CURE)
    return list(found.values())


def ask(canaries: Sequence[Canary], searcher: Searcher, *, root: Path, folder: Path) -> tuple[CanaryAnswer, ...]:
    """Asks each query as `lookup` or `match` does. One that cannot be asked counts as answered wrongly.

    Args:
      searcher: of the release. root: of the data sets: held-out queries and the encoder. folder: where images lie.
    """
    pictures = _pictures([canary for canary in canaries if canary.image is not None], searcher, root, folder)
    answers = []
    for canary in canaries:
        try:
            if canary.image is not None:
                queries = pictures[canary.image]
                if isinstance(queries, SimpipeError):
                    raise queries
            elif canary.id is not None:
                queries = load_queries(root, searcher, ids=[canary.id], images=None, vectors=None, encoder=None)
            else:
                vectors = searcher.check_queries(np.array([canary.vector], np.float32))
                queries = Queries([canary.name], vectors, [None])
            cutpoint = None if canary.expect_id is not None else canary.cutpoint
            answers.append(canary.judge(answer(searcher, queries, k=canary.k, cutpoint=cutpoint)[0]))
        except SimpipeError as error:
            answers.append(CanaryAnswer(canary.name, False, error.message))
    return tuple(answers)


def _pictures(
    canaries: Sequence[Canary], searcher: Searcher, root: Path, folder: Path
) -> dict[str | None, Queries | SimpipeError]:
    """Pictures through the encoder, which is loaded once: queries by path, or why there is none."""
    if not canaries:
        return {}
    names = sorted({str(canary.image) for canary in canaries})
    paths = [str(folder / name) for name in names]
    try:
        queries = load_queries(root, searcher, ids=None, images=paths, vectors=None, encoder=None)
    except SimpipeError as error:
        return dict.fromkeys(names, error)
    return {name: Queries([name], queries.vectors[row : row + 1], [None]) for row, name in enumerate(names)}
