"""What is installed: versions of what an index's speed and results depend on, and NMSLIB's build."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_LIBRARIES = {
    "numpy": ("numpy",),
    "tensorflow": ("tensorflow",),
    "scann": ("scann",),
    "nmslib": ("nmslib-metabrainz", "nmslib"),  # one may lie over the other
    "faiss": ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12"),
    "beam": ("apache-beam",),
}
_OPTIONAL = {"faiss": "pip install 'simpipe[faiss]'"}
# See docs/backends.md for what it brings, and why CFLAGS must not be set.
NMSLIB_CURE = "env -u CFLAGS pip install --force-reinstall --no-deps --no-cache-dir --no-binary nmslib nmslib==2.1.2"
_TIMEOUT = 60
_WARNING = re.compile(r"not compiled to use:\s*([A-Z0-9. ]+)")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
      name: the library. version: what is installed; empty: nothing. note: what is remarkable; cure: the command that mends it.
      ok: simpipe works with it as it is.
    """

    name: str
    version: str
    note: str = ""
    cure: str = ""
    ok: bool = True


def examine() -> list[Finding]:
    """Looks at the installed libraries by their metadata; only NMSLIB is imported, in a process of its own."""
    found = [Finding("python", platform.python_version())]
    for name, distributions in _LIBRARIES.items():
        distribution, installed = _installed(distributions)
        if not installed:
            cure = _OPTIONAL.get(name, "pip install --force-reinstall simpipe")
            note = "not installed" + (" (optional)" if name in _OPTIONAL else "")
            found.append(Finding(name, "", note, cure, name in _OPTIONAL))
        elif name == "nmslib":
            found.append(_nmslib(distribution, installed))
        else:
            found.append(Finding(name, installed))
    return found


def _installed(distributions: tuple[str, ...]) -> tuple[str, str]:
    for distribution in distributions:
        try:
            return distribution, version(distribution)
        except PackageNotFoundError:
            continue
    return "", ""


def _nmslib(distribution: str, installed: str) -> Finding:
    """NMSLIB says on import which of the CPU's instructions it was built without; nothing else tells its builds apart."""
    try:
        run = subprocess.run([sys.executable, "-c", "import nmslib"], capture_output=True, text=True, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        return Finding("nmslib", installed, f"import did not end within {_TIMEOUT} s", NMSLIB_CURE, ok=False)
    if run.returncode:
        said = (run.stderr.strip().splitlines() or [f"exit code {run.returncode}"])[-1]
        return Finding("nmslib", installed, f"cannot be imported: {said}", NMSLIB_CURE, ok=False)
    return nmslib_build(distribution, installed, run.stdout + run.stderr)


def nmslib_build(distribution: str, installed: str, said: str) -> Finding:
    """Which build it is, from what it says on import."""
    missing = _WARNING.search(said)
    if missing is None:
        return Finding("nmslib", installed, f"{distribution}, built for this CPU's instructions")
    without = " ".join(missing[1].split())
    return Finding("nmslib", installed, f"{distribution}, a wheel built without {without}", NMSLIB_CURE)


def to_json(findings: list[Finding]) -> dict[str, Any]:
    return {"ok": all(each.ok for each in findings), "libraries": [asdict(each) for each in findings]}


def print_findings(findings: list[Finding]) -> None:
    """One line a library, and below it the cure where there is one."""
    from simpipe.tables import console_of

    console = console_of()
    for each in findings:
        line = f"{each.name:<11} {each.version:<10} {each.note}".rstrip()
        console.print(line, markup=False, soft_wrap=True)
        if each.cure:
            console.print(f"{'':<11} cure: {each.cure}", markup=False, soft_wrap=True)
