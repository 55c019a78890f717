"""Says what a slow command is doing: a live line on a terminal, a line a stage elsewhere."""

import time
from types import TracebackType
from typing import TYPE_CHECKING

from vlmserve.cli.console import create_console

if TYPE_CHECKING:
    from rich.status import Status


class Stages:
    """One stage after another, each with its time.

    Example:
        with Stages() as stages:
            stages.begin("importing vLLM")
            ...
            stages.begin("loading the model")
    """

    def __init__(self) -> None:
        self._console = create_console(stderr=True)
        self._status: Status | None = None
        self._text: str | None = None
        self._started = 0.0

    def begin(self, text: str) -> None:
        """End the stage before and show this one."""
        self.end()
        self._text, self._started = text, time.monotonic()
        if self._console.is_terminal:
            self._status = self._console.status(text)
            self._status.start()
        else:
            self._console.print(f"{text} ...", markup=False)

    def end(self) -> None:
        """End the stage that runs, if one does."""
        if self._text is None:
            return
        if self._status is not None:
            self._status.stop()
            self._status = None
            elapsed_s = time.monotonic() - self._started
            self._console.print(f"{self._text} [dim]{elapsed_s:.1f} s[/dim]")
        self._text = None

    def __enter__(self) -> "Stages":
        """Use the stages in a ``with`` block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the last stage."""
        self.end()
