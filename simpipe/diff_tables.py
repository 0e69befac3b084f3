"""Two releases side by side on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from simpipe.diff_items import KINDS
from simpipe.tables import console_of

_MIB = 1 << 20


def print_diff(found: Mapping[str, Any]) -> None:
    """Prints what `diff_releases` returned."""
    console = console_of()
    _releases(console, found["one"], found["other"])
    _items(console, found["items"])
    parts, shared = found["partitions"], found["files"]
    console.print(
        f"[bold]partitions[/bold] {parts['rebuilt']:,} of {parts['total']:,} rebuilt, "
        f"{parts['hidden_only']:,} with the same files and other hidden rows, {parts['same']:,} the same",
        soft_wrap=True,
    )
    console.print(
        f"[bold]files[/bold]      {shared['new']:,} new ({shared['new_bytes'] / _MIB:,.1f} MiB), "
        f"{shared['shared']:,} shared ({shared['shared_bytes'] / _MIB:,.1f} MiB)",
        soft_wrap=True,
    )
    _numbers(console, "metrics", {(name,): row for name, row in found["metrics"].items()})
    points = {(name, key): row for name, numbers in found["cutpoints"].items() for key, row in numbers.items()}
    _numbers(console, "cutpoints", points)
    _values(console, "index", found["index"])
    _values(console, "configuration", found["config"])


def _releases(console: Console, one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    table = Table()
    for column in ("", "A", "B"):
        table.add_column(column)
    for key in one:
        cells = [_about(key, side[key]) for side in (one, other)]
        table.add_row(key, *map(escape, cells), style="bold" if cells[0] != cells[1] else None)
    console.print(table)


def _about(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key == "verdict":
        said = "passed" if value["passed"] else f"FAILED: {', '.join(value['failed'])}"
        return f"{said}; published by {value['forced']} all the same" if value["forced"] else said
    if key == "encoder":
        return value[:12]
    return f"{value:,}" if isinstance(value, int) else str(value)


def _items(console: Console, items: Mapping[str, Any]) -> None:
    if items["by"] == "ids":
        said = "in both; no digests in one of them, so it is not known which of these changed"
        last = f"{items['in_both']:,} {said}"
    else:
        last = f"{items['changed']:,} changed, {items['unchanged']:,} unchanged"
    console.print(
        f"[bold]items[/bold]      {items['added']:,} added, {items['deleted']:,} deleted, {last}",
        soft_wrap=True,
    )
    for kind in KINDS:
        names, count = items["ids"][kind], items[kind]
        if names:
            more = f" and {count - len(names):,} more" if count > len(names) else ""
            console.print(f"  {kind}: {escape(', '.join(names))}{more}", soft_wrap=True)


def _numbers(console: Console, title: str, rows: Mapping[tuple[str, ...], Mapping[str, float | None]]) -> None:
    """A table of numbers that differ; one line where none does."""
    if not rows:
        console.print(f"[bold]{title}[/bold] alike")
        return
    table = Table(title=f"{title} that differ", title_justify="left")
    for column in ("name", *(("of",) if len(next(iter(rows))) > 1 else ()), "A", "B", "difference"):
        table.add_column(column, justify="left" if column in ("name", "of") else "right")
    for names, row in rows.items():
        one, other = ("-" if row[side] is None else f"{row[side]:.4f}" for side in ("one", "other"))
        change = row["difference"]
        table.add_row(*map(escape, names), one, other, "" if change is None else _change(change))
    console.print(table)


def _change(value: float) -> str:
    return f"{value:+.4f}" if abs(value) >= 5e-5 else f"{value:+.0e}"


def _values(console: Console, title: str, rows: Mapping[str, list[Any]]) -> None:
    if not rows:
        console.print(f"[bold]{title}[/bold] alike")
        return
    table = Table(title=f"{title}: keys that differ", title_justify="left")
    for column in ("key", "A", "B"):
        table.add_column(column, overflow="fold")
    for key, values in rows.items():
        table.add_row(escape(key), *(escape("-" if value is None else str(value)) for value in values))
    console.print(table)
