"""Ends a command at SIGTERM as Ctrl-C does, and a server that is not ready at once.

vLLM asks an engine that loads a model to end, and waits; an engine that is inside a long call hears
that late. Nothing of it is worth waiting for.
"""

import functools
import multiprocessing
import os
import signal
import threading
from typing import NoReturn

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it."""

_CLEAN_UP_S = 20.0
_asked = threading.Event()


class Terminated(KeyboardInterrupt):
    """SIGTERM came; scratch directories and engines are cleaned up on the way out."""


def end_at_sigterm(*, kill: bool = False) -> None:
    """Raise ``Terminated`` at SIGTERM in the main thread; no other may listen for it.

    Args:
        kill: End the processes that were started, before they are asked to.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, functools.partial(_end, kill))


def was_terminated() -> bool:
    """Whether SIGTERM came: where ``Terminated`` got lost, what fails now fails for that."""
    return _asked.is_set()


def _end(kill: bool, *_: object) -> NoReturn:  # noqa: FBT001 - signal handlers have no keywords
    _asked.set()
    # Libraries may wait for what they started for ever.
    watchdog = threading.Timer(_CLEAN_UP_S, _give_up)
    watchdog.daemon = True
    watchdog.start()
    if kill:
        _kill_children()
    raise Terminated


def _give_up() -> NoReturn:
    _kill_children()
    os._exit(INTERRUPTED)


def _kill_children() -> None:
    for child in multiprocessing.active_children():
        child.kill()
