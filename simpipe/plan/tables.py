"""A plan on the terminal."""

from __future__ import annotations

from rich.table import Table

from simpipe.plan.estimate import Estimate
from simpipe.tables import console_of


def print_estimate(estimate: Estimate, name: str) -> None:
    """A table of the verbs, one of the bytes, and what they assume."""
    console, shape = console_of(), estimate.shape
    console.print(
        f"[bold]{name}[/bold]: {shape.items:,} items of dim {shape.dim}, {shape.held_out:,} of them held out as queries, "
        f"by runner {estimate.runner}",
        soft_wrap=True,
    )
    parts = [f"{shape.shards} shards a split"] if shape.has_encoder else [f"{shape.blocks} blocks to import"]
    parts += [f"{shape.files} files of embeddings", f"{shape.partitions} partitions of {round(shape.mean):,} rows"]
    parts += [f"(the largest {shape.largest:,})", f"{shape.store_files} store files"]
    console.print(", ".join(parts).replace(", (", " ("), soft_wrap=True)
    table = Table()
    for column in ("verb", "CPU hours", "pieces", "workers", "machine", "MiB a worker", "files, GB", "Beam, GB", "wall", "price"):
        table.add_column(column, justify="left" if column in ("verb", "machine") else "right")
    for verb in estimate.verbs:
        table.add_row(
            verb.verb,
            f"{verb.cpu_s / 3600:.4f}",
            f"{verb.pieces:,}",
            f"{verb.cost.workers}",
            verb.machine,
            f"{verb.memory_mib:,.0f}",
            _gigabytes(verb.file_bytes),
            _gigabytes(verb.beam_bytes),
            _between(*verb.cost.wall_s),
            f"{verb.cost.price[0]:,.4f} to {verb.cost.price[1]:,.4f}",
        )
    low, high = estimate.price
    files, elements = (sum(getattr(verb, each) for verb in estimate.verbs) for each in ("file_bytes", "beam_bytes"))
    table.add_section()
    table.add_row(
        "total",
        f"{estimate.cpu_s / 3600:.4f}",
        "",
        "",
        "",
        f"{max(verb.memory_mib for verb in estimate.verbs):,.0f}",
        _gigabytes(files),
        _gigabytes(elements),
        _between(*estimate.wall_s),
        f"{low:,.4f} to {high:,.4f}",
    )
    table.caption = f"price in {estimate.currency}"
    console.print(table)
    table = Table()
    table.add_column("under the root")
    table.add_column("GB", justify="right")
    for kind, value in estimate.bytes.items():
        table.add_row(kind, _gigabytes(value))
    table.add_section()
    table.add_row("total", _gigabytes(estimate.total_bytes))
    table.caption = f"{estimate.storage_month:,.4f} {estimate.currency} a month"
    console.print(table)
    for line in estimate.assumptions:
        console.print(f"assumed: {line}", soft_wrap=True, style="dim", markup=False)


def _gigabytes(value: float) -> str:
    return f"{value / 1e9:,.3f}"


def _between(low: float, high: float) -> str:
    one, other = _time(low), _time(high)
    return one if one == other else f"{one} to {other}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
