"""The terminal that commands print to."""

import os
import sys

from rich.console import Console
from typing_extensions import override


class CommandConsole(Console):
    """A console whose reader may leave (``| head``) without changing the exit status."""

    @override
    def on_broken_pipe(self) -> None:
        """Print nothing more; rich itself would end the process with status 1, a regression's."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def create_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """Make the console of a command: results go to stdout, what is going on to stderr.

    What it prints is text: ``train.jsonl:100:`` has no emoji in it.

    Args:
        stderr: Print to stderr.
        width: Columns; the terminal's own when ``None``.
    """
    return CommandConsole(stderr=stderr, width=width, highlight=False, emoji=False)
