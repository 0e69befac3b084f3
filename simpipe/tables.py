"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from pipelines.line import Line

_HIDDEN = {"rank", "id", "label", "distance"}


def console_of() -> Console:
    """Standard output, as wide as the terminal, or wide enough for paths in a log."""
    console = Console(highlight=False)
    # In a log there is no width to fit: never cut a path or an id.
    return console if console.is_terminal else Console(highlight=False, width=160)


def print_answers(results: list[dict[str, Any]], release: str, distance: str, cutpoint: str | None) -> None:
    """Neighbors of each query, and the match where a cutpoint was named."""
    console = console_of()
    for record in results:
        title = f"query {record['query']}" + (f" (label {record['label']})" if record["label"] is not None else "")
        console.print(f"[bold]{escape(title)}[/bold] in release {release}", soft_wrap=True)
        table = Table()
        extra = sorted({key for neighbor in record["neighbors"] for key in neighbor} - _HIDDEN)
        for column in ("rank", "id", "label", f"{distance} distance", *extra):
            table.add_column(column, justify="right" if column == "rank" or "distance" in column else "left")
        limit = record["match"]["cutpoint_distance"] if cutpoint else None
        for neighbor in record["neighbors"]:
            far = limit is not None and neighbor["distance"] > limit
            cells = [
                str(neighbor["rank"]),
                neighbor["id"],
                str(neighbor["label"]),
                f"{neighbor['distance']:.4f}" + (" beyond" if far else ""),
            ]
            table.add_row(*cells, *(str(neighbor.get(key, "")) for key in extra), style="dim" if far else None)
        console.print(table)
        if cutpoint:
            match = record["match"]
            within = match["distance"] is not None and match["distance"] <= match["cutpoint_distance"]
            label = "an item without label" if match["label"] is None else match["label"]
            said = f"match: {label}" if within else "no match"
            near = "no neighbor" if match["distance"] is None else f"distance {match['distance']:.4f}"
            sign = "<=" if within else ">"
            at = f"{near} {sign} cutpoint {cutpoint} {match['cutpoint_distance']:.4f}{_about(match)}"
            console.print(f"[bold]{escape(said)}[/bold]  ({escape(at)})\n", soft_wrap=True)


def print_filter(about: Mapping[str, Any]) -> None:
    """How a filter was answered, as `FilterAbout.to_json` says."""
    said = f"filter: {about['how']}, {about['matching']:,} items fit, {about['partitions']} partitions asked"
    said += f", {about['pruned']} pruned" if about["pruned"] else ""
    if about["how"] == "over-fetch":
        said += f", {about['rounds']} rounds, {about['scanned']} queries scanned"
    console_of().print(escape(said + (": fewer than asked for" if about["short"] else "")), soft_wrap=True)


def _about(match: Mapping[str, Any]) -> str:
    """What a match's line says after its cutpoint."""
    said = ""
    if "group" in match:
        said += f" of group {match['group']}" if match["group_cutpoint"] else f", group {match['group']} has none of its own"
    return said + (f", probability {match['probability']:.3f}" if match["probability"] is not None else "")


def print_summary(line: Line) -> None:
    """What `simpipe run` ends with: metrics, cutpoints, and where things are."""
    console = console_of()
    folder, manifest = line.release()
    console.print(f"[bold]{line.config.name}: metrics on held-out queries[/bold]")
    table = Table()
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in line.metrics().items():
        table.add_row(name, "" if value is None else f"{value:.4f}")
    console.print(table)
    from simpipe.index.searcher import Searcher

    cutpoints = Searcher(folder, manifest).cutpoints
    if cutpoints:
        console.print("[bold]cutpoints[/bold]: a query matches if its distance is at most")
        table = Table(collapse_padding=True)  # fits 80 columns with intervals
        for column in ("cutpoint", "distance <=", "precision", "recall", "f1"):
            table.add_column(column, justify="left" if column == "cutpoint" else "right")
        for name, at in cutpoints.items():
            table.add_row(escape(name), *(_with_interval(at, key) for key in ("distance", "precision", "recall", "f1")))
        console.print(table)
    console.print(f"release  {manifest.release} (live)\nreport   {folder / 'report.html'}", soft_wrap=True)


def _with_interval(point: Mapping[str, Any], key: str) -> str:
    """A value of a cutpoint, its interval below it in brackets where there is one."""
    low, high = (point.get("interval") or {}).get(key) or (None, None)
    if low is None or high is None:
        return f"{point[key]:.4f}"
    digits = 3 if high >= 0.01 else 4
    return f"{point[key]:.4f}\n({low:.{digits}f}-{high:.{digits}f})"


def print_columns(title: str, rows: Iterable[Mapping[str, Any]], *, digits: int = 4) -> None:
    """A table of records with the same keys."""
    listed = list(rows)
    console = console_of()
    table = Table(title=title, title_justify="left")
    for column in listed[0] if listed else ():
        table.add_column(column, justify="left" if isinstance(listed[0][column], str) else "right")
    for row in listed:
        table.add_row(*(f"{value:.{digits}f}" if isinstance(value, float) else escape(str(value)) for value in row.values()))
    console.print(table)


def print_releases(rows: list[dict[str, Any]], root: str) -> None:
    """One line a release, of records of `overview`; columns that no release fills are left out."""
    console = console_of()
    if not rows:
        console.print(f"no releases under {root}")
        return
    console.print(f"[bold]releases under {escape(root)}[/bold]", soft_wrap=True)
    shown = [_release_cells(row) for row in rows]
    table = Table(box=None, padding=(0, 2, 0, 0))
    columns = [name for name in shown[0] if any(cells[name] for cells in shown)]
    for name in columns:
        table.add_column(name, justify="right" if name in _RIGHT else "left", no_wrap=name == "release")
    for row, cells in zip(rows, shown, strict=True):
        words = row["state"].split()
        style = "red" if "damaged" in words else "bold" if "live" in words else None
        table.add_row(*(escape(cells[name]) for name in columns), style=style)
    console.print(table)


_RIGHT = ("items", "parts", "p@1", "recall")


def _release_cells(row: Mapping[str, Any]) -> dict[str, str]:
    """A release in 160 columns: its id tells the year, the verdict whether it was forced, and the JSON the rest."""
    made, changes = row["made"] or {}, row["changes"]
    by = str(made.get("by", "")).partition("@")[0]
    parts = "" if row["partitions"] is None else str(row["partitions"])
    said = "" if not changes else f"+{changes.get('added', 0):,} ~{changes.get('changed', 0):,} -{changes.get('deleted', 0):,}"
    return {
        "release": row["release"],
        "state": row["state"].replace(" forced", "") if row["verdict"] == "forced" else row["state"],
        "created": (row["created"] or "")[5:16].replace("T", " "),
        "made": f"{made.get('verb', '')} {by}".strip(),
        "from": _from(row),
        "changes": said,
        "items": "" if row["items"] is None else f"{row['items']:,}",
        "parts": parts if row["rebuilt"] is None else f"{row['rebuilt']}/{parts}",
        "backend": row["backend"] or "",
        "encoder": (row["encoder"] or "")[:8],
        "p@1": _number(row["precision@1"]),
        "recall": _number(row["ann_recall"]),
        "verdict": row["verdict"] or "-",
    }


def _from(row: Mapping[str, Any]) -> str:
    """The end of the id of the release that was re-indexed, or the start of the key of the embeddings."""
    return row["base"].partition("Z")[2] if row["base"] else str(row["embeddings"] or "")[:8]


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)
