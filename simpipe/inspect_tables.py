"""What `simpipe inspect` and `simpipe shard --verify` print."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from simpipe.tables import console_of

if TYPE_CHECKING:
    from simpipe.data.verify import VerifyReport

_BAR = 40


def print_inspection(summary: dict[str, Any]) -> None:
    """Tables of a data set; `summary` is what `simpipe.data.inspect.summarize` returns."""
    console = console_of()
    console.print(
        f"[bold]{escape(summary['name'])}[/bold]: {summary['examples']:,} examples in {escape(summary['folder'])}", soft_wrap=True
    )
    _print_splits(console, summary["splits"], summary["compression"])
    _print_classes(console, summary["classes"])
    _print_about(console, summary)


def _print_splits(console: Console, splits: dict[str, Any], compression: str) -> None:
    table = Table()
    table.add_column("")
    for name in splits:
        table.add_column(name, justify="right")
    rows: dict[str, Callable[[dict[str, Any]], str]] = {
        "examples": lambda split: f"{split['examples']:,}",
        "… without label": lambda split: f"{split['unlabelled']:,}",
        "classes": lambda split: f"{split['classes']:,}",
        "examples a class": lambda split: _spread(split["class_size"]),
        "shards": lambda split: f"{split['shards']:,}",
        "examples a shard": lambda split: _spread(split["shard_examples"]),
        f"bytes ({compression})": lambda split: f"{split['bytes']:,}",
        "bytes of offsets": lambda split: f"{split['sidecar_bytes']:,}",
        "bytes an example": lambda split: f"{split['bytes_per_example']:,.1f}",
        "… uncompressed": lambda split: f"{split['record_bytes_per_example']:,.1f}",
    }
    for title, cell in rows.items():
        table.add_row(title, *map(cell, splits.values()))
    console.print(table)
    console.print("three numbers: smallest · median · largest", style="dim")


def _spread(values: dict[str, float] | None) -> str:
    """min, median, max; one number where they are the same."""
    if values is None:
        return ""
    low, middle, high = values["min"], values["median"], values["max"]
    return f"{low:,}" if low == high else f"{low:,} · {middle:,.10g} · {high:,}"


def _print_classes(console: Console, classes: dict[str, Any]) -> None:
    about = f"{classes['all']:,}, {classes['trained']:,} of them trained on; examples a class in {classes['histogram_of']}:"
    console.print(f"[bold]classes[/bold]: {about}")
    bins = classes["histogram"]
    most = max((count for _, _, count in bins), default=1)
    spans = [f"{low:,}" if low == high else f"{low:,} to {high:,}" for low, high, _ in bins]
    for span, (_, _, count) in zip(spans, bins, strict=True):
        bar = "█" * max(round(_BAR * count / most), int(count > 0))
        console.print(f"  {span:>{max(map(len, spans))}}  {bar or '·'} {count:,}", highlight=False)
    if classes["largest"] and classes["largest"][0][1] == classes["smallest"][0][1]:
        console.print(f"  all splits: every class has {classes['largest'][0][1]:,} examples")
        return
    for name in ("largest", "smallest"):
        shown = ", ".join(f"{escape(label)} ({size:,})" for label, size in classes[name])
        console.print(f"  {name}, all splits: {shown}", soft_wrap=True)


def _print_about(console: Console, summary: dict[str, Any]) -> None:
    spec = summary["input"]
    inverted = ", inverted" if spec["inverted"] else ""
    about = f"{spec['name']}, {spec['dtype']} {spec['shape']} as {spec['encoding']}{inverted}"
    console.print(f"[bold]input[/bold]: {escape(about)}")
    columns = ", ".join(f"{name} ({kind})" for name, kind in summary["metadata"].items())
    console.print(f"[bold]metadata[/bold]: {escape(columns or 'none')}")
    counts = ", ".join(f"{count:,} {name}" for name, count in summary["counts"].items())
    console.print(f"[bold]rows of the source[/bold]: {counts}; seed {summary['seed']}", soft_wrap=True)
    console.print("[bold]provenance[/bold]")
    for name, value in _flat(summary["provenance"]):
        console.print(f"  {escape(name)}: {escape(value)}", soft_wrap=True)


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [pair for name, each in value.items() for pair in _flat(each, f"{prefix}.{name}" if prefix else str(name))]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [(prefix, f"{len(value):,}")]
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return [
        (
            prefix,
            text if len(text) <= 120 else f"{text[:100]}… ({len(value)} {'values' if isinstance(value, list) else 'characters'})",
        )
    ]


def print_verification(report: VerifyReport) -> None:
    """Every finding; those with the same cure together."""
    console = console_of()
    groups: dict[str, list[str]] = {}
    for finding in report.findings:
        groups.setdefault(finding.cure, []).append(str(finding))
    for cure, lines in groups.items():
        for line in lines:
            console.print(f"[red]✗[/red] {escape(line)}", soft_wrap=True)
        console.print(f"  cure: {escape(cure)}", soft_wrap=True)
    read = f"{report.records:,} records in {report.files:,} files, {report.bytes:,} bytes"
    where = escape(report.folder)
    if report.ok:
        console.print(f"[green]✓[/green] {where}: {read}; all as dataset.json says", soft_wrap=True)
    else:
        rest = "" if report.complete else "; stopped there, more may be wrong"
        console.print(f"{where}: {len(report.findings):,} findings{rest}; read {read}", soft_wrap=True)
