"""Ends a command at SIGTERM as Ctrl-C does; at either, a server that is not ready at once."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it."""

_CLEAN_UP_S = 20.0
_LAST_CLEAN_UP_S = 2.0


def interrupt_at_sigterm() -> None:
    """Raise ``KeyboardInterrupt`` at SIGTERM: all is cleaned up on the way out."""

    def interrupt(*_: object) -> NoReturn:
        # An engine that is interrupted while it loads may wait for its own processes for ever.
        _end_later(_CLEAN_UP_S, INTERRUPTED)
        raise KeyboardInterrupt

    _listen(interrupt)


@contextlib.contextmanager
def ended_at_once(clean_up: Callable[[int], object]) -> Iterator[None]:
    """End this process at a signal where it stands, and those that it has started.

    SIGTERM ends it with status 0, Ctrl-C with 130. For a server that is not ready, until other
    handlers take the signals: vLLM asks an engine that loads a model to end and waits for it, or
    reports as a failure that it was interrupted, and an exception that is raised in the middle of
    an import or of a callback gets lost. Nothing of it is worth waiting for.

    Args:
        clean_up: Given the status; removes what would outlive the process, and says so.
    """

    def end(number: int, _: object) -> NoReturn:
        status = INTERRUPTED if number == signal.SIGINT else 0
        _end_later(_LAST_CLEAN_UP_S, status)
        _kill_children()
        for child in multiprocessing.active_children():
            child.join()
        clean_up(status)
        os._exit(status)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        _listen(end, number)
    try:
        yield
    finally:
        for number, handler in before.items():
            _listen(handler, number)


def _listen(handler: Any, number: signal.Signals = signal.SIGTERM) -> None:
    # No other thread may.
    if threading.current_thread() is threading.main_thread():
        signal.signal(number, handler)


def _end_later(seconds: float, status: int) -> None:
    def end() -> NoReturn:
        _kill_children()
        os._exit(status)

    watchdog = threading.Timer(seconds, end)
    watchdog.daemon = True
    watchdog.start()


def _kill_children() -> None:
    """Kill what was started through ``multiprocessing``, and what that has started."""
    for child in multiprocessing.active_children():
        # vLLM's workers would end by themselves, and complain.
        if child.pid is None:
            continue
        for pid in (*_below(child.pid), child.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _below(pid: int) -> list[int]:
    """The processes that a process has started, the deepest first."""
    found: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, file.read_text().split()):
                found += [*_below(child), child]
    return found
