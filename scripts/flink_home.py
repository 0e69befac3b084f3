"""A Flink distribution out of the two PyPI packages that hold it: the registry pip uses is all that is needed.

`apache-flink-libraries` (source archive, 230 to 310 MB) has the jars, `apache-flink` (wheel) the scripts and the configuration.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from scripts.job_server import SetupError

# The last versions of each line that were tried here, or are its newest.
RELEASES = {"1.19": "1.19.3", "1.20": "1.20.3"}


def make_flink(engine: str, folder: Path) -> Path:
    """The distribution of a Flink line such as `1.20` under `folder`, unless it is there; returns its home.

    Raises:
      SetupError: pip cannot get the packages.
    """
    release = RELEASES[engine]
    home = folder / f"flink-{release}"
    if home.exists():
        return home
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        work = Path(scratch)
        _download(work, f"apache-flink-libraries=={release}", "--no-binary")
        _download(work, f"apache-flink=={release}", "--only-binary")
        made = work / "home"
        with tarfile.open(next(work.glob("apache*libraries-*.tar.gz"))) as archive:
            for member in archive:
                _, _, inner = member.name.partition("/deps/")
                if inner:
                    member.name = inner
                    archive.extract(member, made, filter="data")
        with zipfile.ZipFile(next(work.glob("apache_flink-*.whl"))) as wheel:
            wheel.extractall(
                work / "wheel", [name for name in wheel.namelist() if name.startswith(("pyflink/bin/", "pyflink/conf/"))]
            )
        for part in ("bin", "conf"):
            shutil.copytree(work / "wheel" / "pyflink" / part, made / part, dirs_exist_ok=True)
        for script in (made / "bin").iterdir():
            script.chmod(0o755)
        os.replace(made, home)
    return home


def _download(work: Path, package: str, kind: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", kind, ":all:", package]
    done = subprocess.run(command, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SetupError(f"pip cannot get {package}:\n{done.stdout.strip()[-500:]}")
