"""The image: what its Dockerfile may and may not do, without building it."""

from __future__ import annotations

import fnmatch
import importlib.util
import re
from pathlib import Path

import pytest
from conftest import REPOSITORY

DOCKERFILE = (REPOSITORY / "docker" / "Dockerfile").read_text()
LINES = [line for line in re.sub(r"\\\n\s*", " ", DOCKERFILE).splitlines() if line and not line.startswith("#")]


def of(instruction: str) -> list[str]:
    return [line.removeprefix(f"{instruction} ") for line in LINES if line.startswith(f"{instruction} ")]


def test_images_are_named_by_arguments_that_must_be_given():
    given = of("ARG")
    assert given
    assert all("=" not in argument for argument in given)  # no default: a tag would move
    for source in of("FROM"):
        assert source.split()[0] in {f"${{{argument}}}" for argument in given}


def test_what_is_installed_is_fixed_by_hashes_or_is_ours():
    for command in of("RUN"):
        assert "apt-get" not in command
        if "pip install" in command:
            assert "--no-deps" in command
            assert "--require-hashes -" in command or command.endswith("simpipe-*.whl")


def test_it_runs_as_a_user_and_installs_nothing_when_it_starts():
    assert of("USER") == ["simpipe"]
    assert LINES.index("USER simpipe") > max(place for place, line in enumerate(LINES) if line.startswith(("RUN", "COPY")))
    assert of("ENTRYPOINT") == ['["/opt/apache/beam/boot"]']
    (environment,) = of("ENV")
    assert "FLEX_TEMPLATE_PYTHON_PY_FILE=/template/main.py" in environment
    assert "REQUIREMENTS_FILE" not in environment
    assert "SETUP_FILE" not in environment
    assert not re.search(r"(?i)secret|password|token|credential", " ".join(LINES))


def allowed(path: str, rules: list[str]) -> bool:
    """As the builder reads `.dockerignore`: the last rule that matches decides."""
    found = True
    for rule in rules:
        pattern = rule.removeprefix("!")
        patterns = {pattern, pattern.replace("**/", ""), pattern.replace("/**/", "/*/")}
        if any(fnmatch.fnmatch(path, each) or fnmatch.fnmatch(path, f"{each}/*") for each in patterns):
            found = rule.startswith("!")
    return found


def test_the_builder_gets_what_it_copies_and_nothing_else():
    rules = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    for line in of("COPY"):
        if not line.startswith("--from"):
            for source in line.split()[:-1]:
                found = [each for each in (REPOSITORY / source).rglob("*") if each.is_file()] or [REPOSITORY / source]
                kept = [each for each in found if "__pycache__" not in each.parts]
                names = [each.relative_to(REPOSITORY).as_posix() for each in kept]
                assert names
                assert [name for name in names if not allowed(name, rules)] == []
    for name in (
        "runs/digits/live.json",
        ".venv/bin/python",
        "key.json",
        "tests/conftest.py",
        ".git/config",
        "terraform/main.tf",
    ):
        assert not allowed(name, rules), name


def test_the_lock_file_holds_what_the_image_needs():
    names = set(re.findall(r"(?m)^([a-z0-9._-]+)==", (REPOSITORY / "requirements.lock").read_text()))
    assert {"apache-beam", "google-cloud-dataflow-client", "google-cloud-storage", "tensorflow", "nmslib", "scann"} <= names
    assert {"setuptools", "wheel"} <= names  # they make the wheel, without a network


def test_the_check_without_a_container_runs_the_same_commands():
    path = REPOSITORY / "scripts" / "container_check.py"
    spec = importlib.util.spec_from_file_location("container_check", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    commands = [line for line in of("RUN") if line.startswith("pip")]
    assert module.install_commands(DOCKERFILE) == commands
    with pytest.raises(SystemExit, match="installs in another way"):
        module.install_commands(DOCKERFILE.replace("RUN pip wheel", "RUN pip download"))


def test_the_launcher_starts_the_installed_entry_point():
    text = Path(REPOSITORY / "docker" / "template.py").read_text()
    assert "from pipelines.template import main" in text
