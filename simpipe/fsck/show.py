"""Findings on the terminal."""

from __future__ import annotations

from collections import defaultdict

from rich.markup import escape

from simpipe.fsck.findings import ERROR, WARNING, Finding, Report
from simpipe.tables import console_of

_SHOWN = 5  # of one kind in one release


def print_report(report: Report) -> None:
    """A line a finding, errors first, and one that sums up; of many alike the first few."""
    console = console_of()
    groups: dict[tuple[str, str, str | None], list[Finding]] = defaultdict(list)
    for finding in report.of(ERROR) + report.of(WARNING):
        groups[finding.severity, finding.code, finding.release].append(finding)
    for (severity, code, release), findings in groups.items():
        color = "red" if severity == ERROR else "yellow"
        for finding in findings[:_SHOWN]:
            where = "/".join(part for part in (release, finding.path) if part)
            said = f"[{color}]{severity}[/{color}] {escape(code)}  {escape(where or report.root)}: {escape(finding.what)}"
            console.print(said, soft_wrap=True)
        if len(findings) > _SHOWN:
            console.print(
                f"        and {len(findings) - _SHOWN:,} more of this kind in {escape(release or report.root)}; see --json"
            )
        for cure in dict.fromkeys(finding.cure for finding in findings[:_SHOWN]):
            console.print(f"        cure: {escape(cure)}", soft_wrap=True)
    errors, warnings = (len(report.of(severity)) for severity in (ERROR, WARNING))
    how = "sizes compared, nothing read" if report.fast else "checksums and contents verified"
    looked = f"{_count(report.releases, 'release')}, {report.files:,} files of {report.size / (1 << 20):,.1f} MiB, {how}"
    said = "clean" if report.ok and not warnings else f"{_count(errors, ERROR)}, {_count(warnings, WARNING)}"
    console.print(f"[bold]{said}[/bold]: {looked} under {escape(report.root)}", soft_wrap=True)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")
