"""The Terraform module: static checks that fail on what they must, and Terraform's own checks where the tools are there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hcl_files import read_module
from terraform_checks import check_module

from simpipe.config.load import load_config

TOP = Path(__file__).parents[1]
MODULE = TOP / "terraform"
EXAMPLE = MODULE / "examples" / "nightly"


@pytest.fixture
def module(tmp_path) -> Path:
    """A copy of the module to break."""
    return Path(shutil.copytree(MODULE, tmp_path / "terraform", ignore=shutil.ignore_patterns(".terraform*")))


# --- the module as it is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [MODULE, EXAMPLE], ids=["module", "example"])
def test_static_checks_find_nothing(folder):
    assert check_module(folder) == []


def test_the_checks_see_what_the_module_holds():
    types = [block.type for block in read_module(MODULE) if block.kind == "resource"]
    assert types.count("google_storage_bucket") == 3
    assert sum(kind.endswith("_iam_member") for kind in types) == len(
        re.findall(r"^resource .*_iam_member", _text("bindings.tf"), re.M)
    )
    assert len(types) == sum(
        path.read_text().count('\nresource "') + path.read_text().startswith("resource ") for path in MODULE.glob("*.tf")
    )


def test_everything_of_the_example_fits_the_module():
    (call,) = [block for block in read_module(EXAMPLE) if block.kind == "module"]
    variables = {block.labels[0]: block for block in read_module(MODULE) if block.kind == "variable"}
    given = {attribute.name for attribute in call.attributes} - {"source"}
    assert given <= set(variables)
    assert {name for name, block in variables.items() if block.get("default") is None} <= given


def test_the_readme_names_every_input_and_output():
    text = (MODULE / "README.md").read_text()
    names = [block.labels[0] for block in read_module(MODULE) if block.kind in ("variable", "output")]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_the_example_holds_a_valid_configuration():
    config = load_config(EXAMPLE / "catalogue.yaml")
    assert config.source.kind == "vectors"
    assert re.findall(r"\$\{(\w+)\}", (EXAMPLE / "catalogue.yaml").read_text()) == ["source_bucket", "source_bucket"]


def test_launches_use_parameters_that_the_template_has():
    metadata = json.loads((TOP / "templates" / "dataflow" / "metadata.json").read_text())
    known = {parameter["name"]: parameter for parameter in metadata["parameters"]}
    given = _launch_parameters()
    assert given <= set(known)
    assert {name for name, parameter in known.items() if not parameter["isOptional"]} <= given | {"verb"}
    for verb in ("run", "reindex", "publish"):
        assert all(re.fullmatch(pattern, verb) for pattern in known["verb"]["regexes"])
    for run_id in ("first", "nightly-20261201t031500z-1a2b3c4d", "nightly-20261201t031500z-1a2b3c4d-publish"):
        assert all(re.fullmatch(pattern, run_id) for pattern in known["run_id"]["regexes"])
    workflow = yaml.safe_load(_text("workflows/nightly.yaml"))
    written = set(re.findall(r"more: \{(\w+):", _text("workflows/nightly.yaml")))
    own = workflow["run_verb"]["steps"][0]["begin"]["assign"][0]["parameters"]
    assert written == {"no_publish", "release"}
    assert written | set(own) <= set(known)


def _launch_parameters() -> set[str]:
    (parameters,) = [
        a for block in read_module(MODULE) if block.kind == "locals" for a in block.attributes if a.name == "parameters"
    ]
    return set(re.findall(r"^\s*(\w+)\s*=", parameters.text, re.M)) | set(re.findall(r"\{ (\w+) =", parameters.text))


def _text(name: str) -> str:
    return (MODULE / name).read_text()


# --- what the checks must fail on ---------------------------------------------------------------------------------------


def _plants() -> dict[str, tuple[str, str]]:
    """What is said and what is planted, by name."""
    plants = {}
    for section in (Path(__file__).parent / "terraform_plants.txt").read_text().split("\n=== ")[1:]:
        head, text = section.split("\n", 1)
        name, said = head.split(" | ")
        plants[name] = (said, text)
    return plants


_PLANTS = _plants()


@pytest.mark.parametrize("plant", _PLANTS)
def test_checks_fail_on_what_is_planted(module, plant):
    said, text = _PLANTS[plant]
    (line,) = [number for number, written in enumerate(text.splitlines(), 1) if written.endswith("# here")]
    (module / "planted.tf").write_text(text)
    found = [finding for finding in check_module(module) if said in finding.text]
    assert [(finding.file.name, finding.line) for finding in found] == [("planted.tf", line)]
    assert str(found[0]).startswith(f"{module / 'planted.tf'}:{line}: ")


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("buckets.tf", '"enforced"', '"inherited"', "bucket root may be made public"),
        ("buckets.tf", "level_access = true", "level_access = false", "bucket root has access lists"),
        ("bindings.tf", "# Sources are read, never written.\n", "", "worker_sources has no reason"),
        ("bindings.tf", '"roles/dataflow.worker"', '"roles/owner"', "roles/owner is a basic role"),
        ("variables.tf", "@sha256:[0-9a-f]{64}$", ".*", "variable image: no validation asks for a digest"),
        ("template.tf", "WORKER_IP_PRIVATE", "WORKER_IP_PUBLIC", "workers have no public address"),
    ],
)  # fmt: skip
def test_checks_fail_on_what_is_changed(module, file, old, new, said):
    lines = (module / file).read_text().splitlines(keepends=True)
    path = module / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    (found,) = [finding for finding in check_module(module) if said in finding.text]
    first = next(number for number, line in enumerate(lines, 1) if old.strip("\n") in line)
    assert found.file == path
    assert abs(found.line - first) <= 10  # at the line, or at the head of its block


def test_checks_fail_on_state_and_keys(module):
    (module / "terraform.tfstate").write_text("{}")
    (module / "examples" / "nightly" / "my-key.json").write_text("{}")
    assert {finding.file.name for finding in check_module(module)} == {"terraform.tfstate", "my-key.json"}


def test_checks_fail_on_no_hcl(module):
    (module / "planted.tf").write_text('resource "x" {\n')
    assert [finding.text[:6] for finding in check_module(module)] == ["no HCL"]


# --- Terraform itself ---------------------------------------------------------------------------------------------------


def _tool(name: str) -> str:
    # Programs that pip does not install; the static checks above need none and always run.
    return shutil.which(name) or pytest.skip(f"{name} is not on PATH")


def test_files_are_formatted():
    done = subprocess.run([_tool("terraform"), "fmt", "-check", "-recursive", "-diff", MODULE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def terraform(tmp_path_factory):
    """Runs Terraform in a folder, with a stand-in for the provider that knows the schemas in use."""
    program, go = _tool("terraform"), _tool("go")
    top = tmp_path_factory.mktemp("terraform")
    source = Path(__file__).parent / "terraform_provider"
    fetched = subprocess.run([go, "mod", "download"], cwd=source, capture_output=True, text=True)
    if fetched.returncode:  # no network: the stand-in cannot be built, and the real provider comes from there as well
        pytest.skip(f"Go modules cannot be downloaded: {fetched.stderr.strip().splitlines()[-1]}")
    subprocess.run([go, "build", "-o", top / "terraform-provider-google", "."], cwd=source, check=True)
    settings = top / "terraformrc"
    settings.write_text(f'provider_installation {{\n  dev_overrides {{\n    "hashicorp/google" = "{top}"\n  }}\n}}\n')
    env = {**os.environ, "TF_CLI_CONFIG_FILE": str(settings), "CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1"}

    def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *arguments, "-no-color"], cwd=folder, env=env, capture_output=True, text=True)

    return run


@pytest.fixture
def checkout(module) -> Path:
    """The copy of the module, with the template's metadata where the module looks for it."""
    shutil.copytree(TOP / "templates", module.parent / "templates")
    return module


def test_module_and_example_are_valid(checkout, terraform):
    for folder in (checkout, checkout / "examples" / "nightly"):
        done = terraform(folder, "get")
        assert done.returncode == 0, done.stderr
        done = terraform(folder, "validate")
        assert done.returncode == 0, done.stderr


def test_validation_knows_the_provider(checkout, terraform):
    path = checkout / "buckets.tf"
    path.write_text(path.read_text().replace("force_destroy  ", "destroy_all    ", 1))
    done = terraform(checkout, "validate")
    assert "destroy_all" in done.stderr
    assert done.returncode == 1


def test_schema_of_the_stand_in_is_what_its_script_writes(checkout, terraform):
    told = terraform(checkout, "providers", "schema", "-json")
    script = Path(__file__).parent / "terraform_provider" / "schema.py"
    written = subprocess.run([sys.executable, script], input=told.stdout, capture_output=True, text=True, check=True).stdout
    assert written == (script.parent / "schema.json").read_text()


def test_modules_own_tests_pass(checkout, terraform):
    done = terraform(checkout, "test")
    assert done.returncode == 0, done.stdout + done.stderr
    wanted = len(re.findall(r'^run "', (checkout / "tests" / "module.tftest.hcl").read_text(), re.M))
    assert f"{wanted} passed, 0 failed" in done.stdout
