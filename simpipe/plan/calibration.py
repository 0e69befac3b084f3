"""The calibration file: what a unit of each term costs, measured on one machine."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from simpipe import files
from simpipe.config.base import Model
from simpipe.config.plan import NotNegative
from simpipe.errors import ConfigError

_OWN = "calibration.json"
_CURE = "write it again with `python -m benchmarks.plan_calibrate --out FILE`"

Coefficients = dict[str, dict[str, NotNegative]]


class Calibration(Model):
    """A calibration.

    Attributes:
      machine, date, versions: where, when and with what it was measured. runs: what was run, and the error of the fit of each.
      cpu: CPU seconds of a unit of each term, by verb. bytes: bytes of a unit of each term, by kind.
      memory: MiB that a process takes before it works: `beam`, `tensorflow`, `report`.
    """

    format: Literal[1] = 1
    machine: str
    date: str
    versions: dict[str, str]
    runs: tuple[dict[str, Any], ...] = ()
    cpu: Coefficients
    bytes: Coefficients
    memory: dict[Literal["beam", "tensorflow", "report"], NotNegative] = Field(min_length=3)

    @classmethod
    def load(cls, path: str | Path | None) -> Calibration:
        """Reads a file; None: simpipe's own.

        Raises:
          ConfigError: it is missing, or is no calibration of this version.
        """
        if path is None:
            text = importlib.resources.files("simpipe.plan").joinpath(_OWN).read_text(encoding="utf-8")
        else:
            try:
                text = files.local(str(path)).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"plan.calibration: {path} cannot be read ({error})", _CURE) from None
        try:
            return cls.model_validate(json.loads(text))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ConfigError(f"plan.calibration: {path or _OWN}: {where}: {first['msg']}", _CURE) from None
        except ValueError as error:
            raise ConfigError(f"plan.calibration: {path or _OWN}: no JSON ({error})", _CURE) from None

    def estimate(self, of: Literal["cpu", "bytes"], terms: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """The sum of terms times coefficients, by verb or kind; terms `bytes` that have no coefficient count as they are.

        Raises:
          ConfigError: a term was not measured, such as a backend's.
        """
        table = self.cpu if of == "cpu" else self.bytes
        return {
            name: sum(self._unit(of, table, name, term) * value for term, value in parts.items()) for name, parts in terms.items()
        }

    def _unit(self, of: str, table: Coefficients, name: str, term: str) -> float:
        found = table.get(name, {}).get(term)
        if found is not None:
            return found
        if of == "bytes" and term == "bytes":
            return 1.0
        raise ConfigError(
            f"plan: the calibration of {self.date} has no `{term}` of {name}",
            "choose a backend or encoder that it was measured with, or write another one with "
            "`python -m benchmarks.plan_calibrate --out FILE` and name it in plan.calibration",
        )
