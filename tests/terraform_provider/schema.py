"""Writes schema.json anew from the real provider, where it can be had, for the resources that terraform/ uses.

terraform -chdir=terraform providers schema -json | python tests/terraform_provider/schema.py > schema.json
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_MODULE = Path(__file__).parents[2] / "terraform"
_USED = re.compile(r'^(resource|data) "(google_\w+)"', re.M)


def schema_of(told: Mapping[str, Any]) -> str:
    """The text of schema.json.

    Args:
      told: what `terraform providers schema -json` prints.
    """
    (provider,) = [found for name, found in told["provider_schemas"].items() if name.endswith("/google")]
    used = {match.groups() for path in _MODULE.glob("*.tf") for match in _USED.finditer(path.read_text())}
    lines = []
    for name, kind, type_ in sorted((f"data.{type_}" if kind == "data" else type_, kind, type_) for kind, type_ in used):
        block = provider["resource_schemas" if kind == "resource" else "data_source_schemas"][type_]["block"]
        computed = {key: _type(about) for key, about in sorted(block["attributes"].items()) if _only_computed(about)}
        parts = f'  "arguments": {json.dumps(_arguments(block))},\n  "computed": {json.dumps(computed)}'
        lines.append(f" {json.dumps(name)}: {{\n{parts}\n }}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _arguments(block: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, about in block.get("attributes", {}).items():
        if not _only_computed(about):
            found[name] = ("!" if about.get("required") else "") + _type(about)
    for name, about in block.get("block_types", {}).items():
        single = about["nesting_mode"] == "single" or about.get("max_items") == 1
        kind = ("!" if about.get("min_items") else "") + ("block" if single else "blocks")
        found[name] = [kind, _arguments(about["block"])]
    return dict(sorted(found.items()))


def _only_computed(about: Mapping[str, Any]) -> bool:
    return not (about.get("required") or about.get("optional"))


def _type(about: Mapping[str, Any]) -> str:
    """`string`, `list(string)`, ...; `dynamic` for objects, which only computed attributes have here."""
    kind = about.get("type", "dynamic")
    if isinstance(kind, str):
        return kind
    outer, inner = kind
    if outer == "object" or not isinstance(inner, str):
        return "dynamic"
    return f"{'map' if outer == 'map' else 'list'}({inner})"


if __name__ == "__main__":
    sys.stdout.write(schema_of(json.load(sys.stdin)))
