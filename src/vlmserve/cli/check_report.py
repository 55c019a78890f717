"""The terminal's view of a check: progress of long scans, then the report."""

import textwrap
from types import TracebackType
from typing import TYPE_CHECKING

from vlmserve.doctor.finding import Evidence, Finding, Severity
from vlmserve.doctor.report import CheckRecord

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

_STYLES: dict[Severity, str] = {"block": "bold red", "warn": "bold yellow", "info": "bold cyan"}
_INDENT = 6
_LEAST_COLUMNS = 20


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
    """Print a report: what the directory is, the findings by severity, the verdict.

    On a terminal, text is wrapped between words and keeps its indentation; paths, remedies and
    what lies elsewhere than on a terminal keep their lines, to be copied and searched whole.
    """
    console.soft_wrap = True
    console.print(record.checkpoint, style="bold", markup=False)
    _print_text(console, record.description, 0)
    for finding in record.findings:
        console.print()
        _print_finding(console, finding)
    if record.unknown:
        console.print("\nnot checked:", style="bold")
        for unknown in record.unknown:
            _print_text(console, f"{unknown.id}: {unknown.reason}", 2)
    console.print()
    worst = next((f.severity for f in record.findings if f.severity != "info"), None)
    style = "bold green" if worst is None else _STYLES[worst]
    _print_text(console, record.verdict, 0, style)


def _print_finding(console: "Console", finding: Finding) -> None:
    console.print(f"{finding.severity:5}", style=_STYLES[finding.severity], end=" ")
    # Behind the severity in its first line.
    title = f"{finding.id}: {finding.title}"
    for number, line in enumerate(_wrap(console, title, _INDENT)):
        console.print(f"{_INDENT * ' ' * (number > 0)}{line}", style="bold", markup=False)
    if finding.caused_by is not None:
        _print_text(console, f"follows from {finding.caused_by}")
    for evidence in finding.evidence:
        _print_evidence(console, evidence)
    _print_text(console, finding.consequence)
    console.print(f"{_INDENT * ' '}remedy: {finding.remedy}", markup=False)
    _print_text(console, f"source: {finding.source}", style="dim")


def _print_evidence(console: "Console", evidence: Evidence) -> None:
    place = " ".join(part for part in (evidence.file, evidence.key) if part)
    first, *rest = evidence.value.splitlines() or [""]
    if not rest:
        _print_text(console, f"{place}: {first}", style="dim")
        return
    # Diffs and tables keep their lines and start below the place they are about.
    for line in (f"{place}:", f"  {first}", *(f"  {line}" for line in rest)):
        console.print(f"{_INDENT * ' '}{line}", style="dim", markup=False)


def _print_text(console: "Console", text: str, indent: int = _INDENT, style: str = "") -> None:
    for line in _wrap(console, text, indent):
        console.print(f"{indent * ' '}{line}", style=style, markup=False)


def _wrap(console: "Console", text: str, indent: int) -> list[str]:
    """The lines of a text; a word that is longer than a line stays whole."""
    if not console.is_terminal:
        return [text]
    width = max(console.width - indent, _LEAST_COLUMNS)
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
