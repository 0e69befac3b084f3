"""`verdict.json` of a release: what its gates said, and by whom it was published although one failed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from simpipe import files
from simpipe.errors import GateFailedError, ReleaseError

VERDICT_JSON = "verdict.json"


@dataclass(frozen=True)
class Check:
    """One gate's result.

    Attributes:
      name: the limit as the configuration names it, such as `metrics.map_at_r.max_drop`.
      passed: whether the release may go live as far as this gate is concerned; also where nothing could be judged.
      reason: one sentence.
      value: of the release; None where there is none, or it is not finite.
      limit: what it is held against; None where there is no limit.
      live: the value of the live release.
      judged: False where there is no limit, or nothing to compare with.
    """

    name: str
    passed: bool
    reason: str
    value: float | str | None = None
    limit: float | str | None = None
    live: float | str | None = None
    judged: bool = True

    @property
    def state(self) -> str:
        """`passed`, `FAILED` or `not judged`."""
        return "FAILED" if not self.passed else "passed" if self.judged else "not judged"


@dataclass(frozen=True)
class Forced:
    """Who published a release although gates had failed: `user@host`, UTC time, names of the gates."""

    by: str
    at: str
    gates: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """All checks of a release.

    Attributes:
      release: that was judged. against: the release that was live then; None: none was.
      at: UTC time.
    """

    release: str
    against: str | None
    at: str
    checks: tuple[Check, ...]
    forced: Forced | None = None

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the gates that failed."""
        return tuple(check.name for check in self.checks if not check.passed)

    @property
    def passed(self) -> bool:
        return not self.failed

    def force(self, by: str, at: str) -> Verdict:
        """The verdict with a note that it was overruled."""
        return replace(self, forced=Forced(by, at, self.failed))

    def require(self) -> None:
        """Raises GateFailedError, which names every gate that failed."""
        if self.passed:
            return
        lines = [f"\n  {check.name}: {check.reason}" for check in self.checks if not check.passed]
        judged = sum(check.judged for check in self.checks)
        raise GateFailedError(
            f"release {self.release} may not go live, {len(lines)} of {judged} gates failed:{''.join(lines)}",
            "mend the data or the model, change `gates`, or publish it nevertheless: simpipe publish --force",
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "release": self.release,
            "against": self.against,
            "at": self.at,
            "checks": [_plain(check.__dict__) for check in self.checks],
            "forced": None if self.forced is None else {**self.forced.__dict__, "gates": list(self.forced.gates)},
        }

    def save(self, folder: Path) -> None:
        files.write_json(folder / VERDICT_JSON, self.to_json())

    @classmethod
    def load(cls, path: Path) -> Verdict:
        """Reads what `save` wrote.

        Raises:
          ReleaseError: it is no verdict.
        """
        data = files.read_json(path)
        try:
            checks = tuple(Check(**check) for check in data["checks"])
            forced = data["forced"] and Forced(**{**data["forced"], "gates": tuple(data["forced"]["gates"])})
            verdict = cls(data["release"], data["against"], data["at"], checks, forced)
        except (KeyError, TypeError):
            raise ReleaseError(f"{path}: no verdict", "run `simpipe gate`") from None
        return verdict


def _plain(check: dict[str, Any]) -> dict[str, Any]:
    """JSON knows neither NaN nor infinity: the reason tells."""
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in check.items()}
