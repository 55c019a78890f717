"""The terminal's view of a check: progress of long scans, then the report."""

from types import TracebackType
from typing import TYPE_CHECKING

from vlmserve.doctor.finding import Evidence, Finding, Severity
from vlmserve.doctor.report import CheckRecord

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

_STYLES: dict[Severity, str] = {"block": "bold red", "warn": "bold yellow", "info": "bold cyan"}
_INDENT = " " * 6


class ScanProgress:
    """A bar for what is being read, on a terminal; nothing elsewhere.

    Args:
        console: Where to draw.
    """

    def __init__(self, console: "Console") -> None:
        self._console = console
        self._progress: Progress | None = None
        self._bars: dict[str, TaskID] = {}

    def show(self, what: str, done: int, total: int) -> None:
        """Show how much of something is read, in bytes or samples."""
        if not self._console.is_terminal:
            return
        if self._progress is None:
            from rich.progress import Progress

            self._progress = Progress(console=self._console, transient=True)
            self._progress.start()
        if what not in self._bars:
            self._bars[what] = self._progress.add_task(what)
        self._progress.update(self._bars[what], completed=done, total=total)

    def __enter__(self) -> "ScanProgress":
        """Use the bar in a ``with`` block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bars away."""
        if self._progress is not None:
            self._progress.stop()


def print_report(console: "Console", record: CheckRecord) -> None:
    """Print a report: what the directory is, the findings by severity, the verdict."""
    console.soft_wrap = True
    console.print(record.checkpoint, style="bold", markup=False)
    console.print(record.description, markup=False)
    for finding in record.findings:
        console.print()
        _print_finding(console, finding)
    if record.unknown:
        console.print("\nnot checked:", style="bold")
        for unknown in record.unknown:
            console.print(f"  {unknown.id}: {unknown.reason}", markup=False)
    console.print()
    worst = next((f.severity for f in record.findings if f.severity != "info"), None)
    style = "bold green" if worst is None else _STYLES[worst]
    console.print(record.verdict, style=style, markup=False)


def _print_finding(console: "Console", finding: Finding) -> None:
    console.print(f"{finding.severity:5}", style=_STYLES[finding.severity], end=" ")
    console.print(f"{finding.id}: {finding.title}", style="bold", markup=False)
    if finding.caused_by is not None:
        console.print(f"{_INDENT}follows from {finding.caused_by}", markup=False)
    for evidence in finding.evidence:
        _print_evidence(console, evidence)
    console.print(f"{_INDENT}{finding.consequence}", markup=False)
    console.print(f"{_INDENT}remedy: {finding.remedy}", markup=False)
    console.print(f"{_INDENT}source: {finding.source}", style="dim", markup=False)


def _print_evidence(console: "Console", evidence: Evidence) -> None:
    place = " ".join(part for part in (evidence.file, evidence.key) if part)
    first, *rest = evidence.value.splitlines() or [""]
    # Diffs and tables keep their lines and start below the place they are about.
    lines = [f"{place}: {first}"] if not rest else [f"{place}:", f"  {first}"]
    for line in [*lines, *(f"  {line}" for line in rest)]:
        console.print(f"{_INDENT}{line}", style="dim", markup=False)
