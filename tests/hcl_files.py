"""Reads Terraform's files into blocks and attributes that know their lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hcl2
from lark import Token, Tree


@dataclass(frozen=True)
class Attribute:
    """`name = text`, the expression as it is written."""

    name: str
    text: str
    line: int

    @property
    def literal(self) -> str | None:
        """The value of a plain string; None for any other expression."""
        quoted = len(self.text) > 1 and self.text[0] == self.text[-1] == '"'
        return self.text[1:-1] if quoted and '"' not in self.text[1:-1] and "${" not in self.text else None


@dataclass(frozen=True)
class Block:
    """`kind "label" "label" { ... }`. `comment`: the lines of comment directly above it."""

    kind: str
    labels: tuple[str, ...]
    file: Path
    line: int
    comment: str
    attributes: tuple[Attribute, ...]
    blocks: tuple[Block, ...]

    @property
    def type(self) -> str:
        """Of a resource or data source, such as google_storage_bucket."""
        return self.labels[0] if self.kind in ("resource", "data") else ""

    def get(self, name: str) -> Attribute | None:
        return next((attribute for attribute in self.attributes if attribute.name == name), None)

    def literal(self, name: str) -> str | None:
        """The value of a plain string attribute; None where there is none."""
        attribute = self.get(name)
        return attribute.literal if attribute else None

    def everything(self) -> Iterator[Attribute]:
        """All attributes in it, however deep."""
        yield from self.attributes
        for block in self.blocks:
            yield from block.everything()


def read_module(folder: Path) -> list[Block]:
    """The blocks of a module's `.tf` files, not those of folders below.

    Raises:
      lark.exceptions.LarkError: a file is no HCL.
    """
    return [block for path in sorted(folder.glob("*.tf")) for block in read_blocks(path)]


def read_blocks(path: Path) -> list[Block]:
    """The top-level blocks of one file."""
    text = path.read_text(encoding="utf-8")
    (body,) = hcl2.parses_to_tree(text).children
    return _body(body, text, path)[1]


def _body(body: Tree, text: str, path: Path) -> tuple[list[Attribute], list[Block]]:
    attributes, blocks = [], []
    for child in body.children:
        if not isinstance(child, Tree):
            continue
        if child.data == "attribute":
            name, value = child.children[0], child.children[-1]
            written = text[value.meta.start_pos : value.meta.end_pos].strip()
            attributes.append(Attribute(_word(name), written, child.meta.line))
        elif child.data == "block":
            blocks.append(_block(child, text, path))
    return attributes, blocks


def _block(tree: Tree, text: str, path: Path) -> Block:
    trees = [child for child in tree.children if isinstance(child, Tree)]
    kind, *labels = [_word(child) for child in trees if child.data in ("identifier", "string", "keyword")]
    inner = next((child for child in trees if child.data == "body"), None)
    attributes, blocks = _body(inner, text, path) if inner is not None else ([], [])
    line = tree.meta.line
    return Block(kind, tuple(labels), path, line, _comment_above(text.splitlines(), line), tuple(attributes), tuple(blocks))


def _word(tree: Tree) -> str:
    return "".join(str(token) for token in tree.scan_values(lambda value: isinstance(value, Token))).strip('"')


def _comment_above(lines: list[str], line: int) -> str:
    found: list[str] = []
    for text in reversed(lines[: line - 1]):
        if not text.strip().startswith("#"):
            break
        found.insert(0, text.strip().lstrip("# "))
    return " ".join(found)
