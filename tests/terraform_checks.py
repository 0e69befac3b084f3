"""What a Terraform module of this project must hold, checked from its text alone: no provider, no network.

python tests/terraform_checks.py [FOLDER]
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hcl_files import Attribute, Block, read_module
from lark.exceptions import LarkError


@dataclass(frozen=True)
class Finding:
    """A line that breaks a rule."""

    file: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


Findings = Iterator[Finding]

_PUBLIC = re.compile(r"\ball(Authenticated)?Users\b")
_BASIC_ROLE = re.compile(r"roles/(owner|editor|viewer)\b(?![.])")
_IAM = re.compile(r"_iam_(member|binding|policy)$")
_BROAD_ON_PROJECT = re.compile(r"roles/(storage|artifactregistry|cloudkms|secretmanager|iam)\.")
_FORBIDDEN_TYPES = {
    "google_service_account_key": "a key can be copied; let workloads act as the account instead",
    "google_storage_hmac_key": "a key can be copied; let workloads act as the account instead",
    "google_storage_bucket_acl": "bind roles with uniform access instead",
    "google_storage_default_object_acl": "bind roles with uniform access instead",
    "google_storage_object_acl": "bind roles with uniform access instead",
    "google_storage_bucket_access_control": "bind roles with uniform access instead",
    "google_storage_object_access_control": "bind roles with uniform access instead",
    "google_dataflow_flex_template_job": "Terraform launches a finished batch job again at every apply",
    "google_dataflow_job": "Terraform launches a finished batch job again at every apply",
}
_SECRET_NAME = re.compile(r"(^|_)(password|passwd|secret|token|private_key|api_key|access_key|credentials)$")
_SECRET_VALUE = re.compile(
    r"-----BEGIN|\bAIza[0-9A-Za-z_-]{35}|\bya29\.|\bGOCSPX-|\bgh[pousr]_[0-9A-Za-z]{36}|\"private_key\""
    r"|(?<![\w/+-])(?=[\w/+-]*[a-z])(?=[\w/+-]*[A-Z])(?=[\w/+-]*[0-9])[\w+-]{32,}={0,2}(?![\w/+-])"
)
_SECRET_FILES = ("*.tfstate", "*.tfstate.*", "*.pem", "*.p12", "*key*.json")
_TAGGED_IMAGE = re.compile(r"(docker\.pkg\.dev|gcr\.io|docker\.io)/[\w./${}-]+:[\w.-]+$")
_REFERENCE = re.compile(r"(?<![\w.-])((var|local|module)|(data\.)?google_\w+)\.[A-Za-z_][\w-]*")


def check_module(folder: Path) -> list[Finding]:
    """All that is wrong with the module in a folder (its `.tf` files, not the folders below), in the order of files and lines."""
    try:
        blocks = read_module(folder)
    except LarkError as error:
        return [Finding(folder, getattr(error, "line", 0), f"no HCL: {str(error).splitlines()[0]}")]
    found = [*_secret_files(folder), *_references(blocks)]
    for block in blocks:
        for rule in _RULES:
            found += rule(block)
    return sorted(found, key=lambda finding: (str(finding.file), finding.line))


# --- what is open to the world ------------------------------------------------------------------------------------------


def _public(block: Block) -> Findings:
    for attribute in block.everything():
        for name in _PUBLIC.finditer(attribute.text):
            yield _at(block, attribute, f"{name.group()}: nothing is public", name.start())
        if "WORKER_IP_PUBLIC" in attribute.text:
            yield _at(block, attribute, "workers have no public address", attribute.text.index("WORKER_IP_PUBLIC"))


def _bucket(block: Block) -> Findings:
    if block.type != "google_storage_bucket":
        return
    name = f"bucket {block.labels[1]}"
    prevention = block.get("public_access_prevention")
    if block.literal("public_access_prevention") != "enforced":
        text = f'{name} may be made public: public_access_prevention = "enforced"'
        yield _at(block, prevention, text) if prevention else Finding(block.file, block.line, text)
    uniform = block.get("uniform_bucket_level_access")
    if uniform is None or uniform.text != "true":
        text = f"{name} has access lists by object: uniform_bucket_level_access = true"
        yield _at(block, uniform, text) if uniform else Finding(block.file, block.line, text)


# --- who may do what ----------------------------------------------------------------------------------------------------


def _binding(block: Block) -> Findings:
    if block.kind != "resource" or not (kind := _IAM.search(block.type)):
        return
    name = f"{block.type}.{block.labels[1]}"
    if kind.group(1) != "member":
        yield Finding(block.file, block.line, f"{name} takes rights from others: use the _iam_member resource")
    if len(block.comment.split()) < 4:
        yield Finding(block.file, block.line, f"{name} has no reason: say in a comment above why it is needed")
    role = block.get("role")
    if role is None:
        yield Finding(block.file, block.line, f"{name} names no role")
        return
    if role.literal is None:
        yield _at(block, role, f"{name}: the role {role.text} is not written out")
    elif re.search(r"[aA]dmin$", role.literal):
        yield _at(block, role, f"{name}: {role.literal} administers; take a role that uses")
    elif block.type.startswith("google_project_iam") and _BROAD_ON_PROJECT.match(role.literal):
        yield _at(block, role, f"{name}: {role.literal} on the whole project; bind it on the bucket, repository, key or account")


def _roles(block: Block) -> Findings:
    for attribute in block.everything():
        for role in _BASIC_ROLE.finditer(attribute.text):
            yield _at(block, attribute, f"{role.group()} is a basic role: far too much", role.start())
        wild = re.search(r"roles/[\w.]*\*", attribute.text)
        if wild or (attribute.name in ("member", "members", "permissions") and "*" in attribute.text):
            yield _at(block, attribute, f"wildcard in {attribute.name}", wild.start() if wild else 0)


def _forbidden(block: Block) -> Findings:
    if why := _FORBIDDEN_TYPES.get(block.type):
        yield Finding(block.file, block.line, f"{block.type}.{block.labels[1]}: {why}")


# --- secrets, images ----------------------------------------------------------------------------------------------------


def _secrets(block: Block) -> Findings:
    for attribute in block.everything():
        if _SECRET_NAME.search(attribute.name) and attribute.literal:
            yield _at(block, attribute, f"{attribute.name} is written out: a secret does not belong in a file")
        elif value := _SECRET_VALUE.search(attribute.text):
            yield _at(block, attribute, f"{attribute.name} holds what looks like a secret", value.start())


def _secret_files(folder: Path) -> Findings:
    for pattern in _SECRET_FILES:
        for path in sorted(folder.rglob(pattern)):
            yield Finding(path, 1, "state and keys do not belong in the repository")


def _images(block: Block) -> Findings:
    for attribute in block.everything():
        value = attribute.literal
        if value and "@sha256:" not in value and (attribute.name == "image" or _TAGGED_IMAGE.search(value)):
            yield _at(block, attribute, f"image {value} is not named by digest (@sha256:...)")
    if block.kind == "variable" and block.labels[0] == "image":
        checks = [inner.get("condition") for inner in block.blocks if inner.kind == "validation"]
        if not any(check and "@sha256:" in check.text for check in checks):
            yield Finding(block.file, block.line, "variable image: no validation asks for a digest (@sha256:)")


# --- what is said and declared ------------------------------------------------------------------------------------------


def _described(block: Block) -> Findings:
    if block.kind not in ("variable", "output"):
        return
    needs = ("description", "type") if block.kind == "variable" else ("description",)
    for name in needs:
        if not (attribute := block.get(name)) or attribute.text in ('""', "any"):
            yield Finding(block.file, block.line, f"{block.kind} {block.labels[0]} has no {name}")


def _references(blocks: list[Block]) -> Findings:
    """Names that are used and not declared; variables and locals that are declared and not used."""
    declared = {f"var.{block.labels[0]}": block for block in blocks if block.kind == "variable"}
    declared |= {f"module.{block.labels[0]}": block for block in blocks if block.kind == "module"}
    groups = [block for block in blocks if block.kind == "locals"]
    local = {f"local.{attribute.name}": (block, attribute) for block in groups for attribute in block.attributes}
    made = {".".join(block.labels) for block in blocks if block.kind == "resource"}
    made |= {"data." + ".".join(block.labels) for block in blocks if block.kind == "data"}
    known = declared.keys() | local.keys() | made
    used: set[str] = set()
    for block in blocks:
        own = {f"var.{block.labels[0]}"} if block.kind == "variable" else set()
        for attribute in block.everything():
            if attribute.name in ("description", "error_message"):
                continue
            for name in _REFERENCE.finditer(attribute.text):
                if name.group() not in known:
                    yield _at(block, attribute, f"{name.group()} is not declared", name.start())
                used |= {name.group()} - own
    for name, block in declared.items():
        if name.startswith("var.") and name not in used:
            yield Finding(block.file, block.line, f"{name} is not used")
    for name, (block, attribute) in local.items():
        if name not in used:
            yield _at(block, attribute, f"{name} is not used")


_RULES: tuple[Callable[[Block], Findings], ...] = (
    _public,
    _bucket,
    _binding,
    _roles,
    _forbidden,
    _secrets,
    _images,
    _described,
)


def _at(block: Block, attribute: Attribute, text: str, offset: int = 0) -> Finding:
    return Finding(block.file, attribute.line + attribute.text[:offset].count("\n"), text)


def main(folders: list[str]) -> int:
    """Prints what is wrong; 1 where something is."""
    found = [finding for folder in folders for finding in check_module(Path(folder))]
    for finding in found:
        print(finding)
    print(f"{len(found)} findings in {', '.join(folders)}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["terraform", "terraform/examples/nightly"]))
