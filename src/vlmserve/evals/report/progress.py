"""Progress bars of a running evaluation."""

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Task as Bar
from rich.text import Text
from typing_extensions import override

from vlmserve.evals.records import SideName


class _RateColumn(TextColumn):
    """Answers a second, and failures."""

    def __init__(self) -> None:
        super().__init__("")

    @override
    def render(self, task: Bar) -> Text:
        """Render one bar's rate."""
        rate = task.finished_speed or task.speed or 0.0
        text = Text(f"{rate:.1f}/s")
        if failed := task.fields["failed"]:
            text.append(f"  {failed} failed", style="yellow")
        return text


class ProgressBars:
    """One bar a side on a terminal; elsewhere a line when a side begins.

    Args:
        console: Where to draw.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: dict[SideName, TaskID] = {}
        self._failed: dict[SideName, int] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "ProgressBars":
        """Begin to draw."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the bars as they are."""
        self._progress.stop()

    def started(self, side: SideName, n_requests: int, n_reused: int) -> None:
        """Show a side's bar."""
        if not self._console.is_terminal:
            self._console.print(f"{side}: {n_requests} requests to send, {n_reused} answers reused")
        if n_requests == 0:
            return
        self._failed[side] = 0
        self._bars[side] = self._progress.add_task(side, total=n_requests, failed=0)

    def answered(self, side: SideName, *, failed: bool) -> None:
        """Move a side's bar by one."""
        self._failed[side] += failed
        self._progress.update(self._bars[side], advance=1, failed=self._failed[side])
