"""Progress of a running evaluation: a line while an engine loads, then a bar a side."""

import logging
from contextlib import ExitStack
from types import TracebackType
from typing import TextIO, cast

from rich.console import Console
from rich.file_proxy import FileProxy
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

from vlmserve.evals.records import AskedName


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

    Bars are drawn only while answers come. While an engine loads there is a plain line: whatever
    the engine logs then has lines of its own.

    Args:
        console: Where to draw.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: dict[AskedName, TaskID] = {}
        self._failed: dict[AskedName, int] = {}
        self._progress: Progress | None = None
        self._drawing = ExitStack()

    def __enter__(self) -> "ProgressBars":
        """Use the bars in a ``with`` block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the bars as they are."""
        self._stop()

    def loading(self, name: str) -> None:
        """End the bars before and say what is loaded."""
        self._stop()
        self._console.print(f"loading {name} ...", markup=False, soft_wrap=True)

    def started(self, side: AskedName, n_requests: int, n_reused: int) -> None:
        """Show a side's bar."""
        if not self._console.is_terminal:
            self._console.print(f"{side}: {n_requests} requests to send, {n_reused} answers reused")
            return
        if n_requests == 0:
            return
        self._failed[side] = 0
        self._bars[side] = self._start().add_task(side, total=n_requests, failed=0)

    def scoring(self, side: AskedName, n_requests: int, n_reused: int) -> None:
        """Show a bar for the likelihoods of a side's expected answers."""
        if not self._console.is_terminal:
            self._console.print(
                f"{side}: {n_requests} expected answers to score, {n_reused} likelihoods reused"
            )
            return
        if n_requests == 0:
            return
        self._failed[side] = 0
        self._bars[side] = self._start().add_task(f"{side} NLL", total=n_requests, failed=0)

    def answered(self, side: AskedName, *, failed: bool) -> None:
        """Move a side's bar by one."""
        if self._progress is None:
            return
        self._failed[side] += failed
        self._progress.update(self._bars[side], advance=1, failed=self._failed[side])

    def _start(self) -> Progress:
        if self._progress is None:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                _RateColumn(),
                TimeRemainingColumn(),
                console=self._console,
            )
            _log_above_bars(self._console, self._drawing)
            self._drawing.callback(self._progress.stop)
            self._progress.start()
        return self._progress

    def _stop(self) -> None:
        self._drawing.close()
        self._progress = None


def _log_above_bars(console: Console, until: ExitStack) -> None:
    """Let log lines appear above the bars, and not behind them."""
    # Bars redirect sys.stderr, but a handler has held on to the real one since it was made.
    terminal = console.file
    for handler in logging.getLogger("vlmserve").handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is terminal:
            handler.setStream(cast("TextIO", FileProxy(console, terminal)))
            until.callback(handler.setStream, terminal)
