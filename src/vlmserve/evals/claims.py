"""Keeps two processes on one store from asking the same thing at the same time.

Whoever is about to ask an answerer claims it, and who comes second waits and then finds the answers
in the store. A claim is a lock on one byte of a file beside the store: the kernel gives it up when
its process ends, however that ends.
"""

import fcntl
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from vlmserve.evals.answer_tables import Answerer

_LOG = logging.getLogger(__name__)

_SUFFIX = "-claims"
# Two answerers on one byte would only wait for each other.
_PLACES = 2**31 - 1


@contextmanager
def claim(store: Path, answerers: Iterable[Answerer], what: str) -> Iterator[None]:
    """Hold the sole right to ask some answerers, waiting for others that hold it.

    Args:
        store: The store that the answers go into.
        answerers: What is about to be asked.
        what: What to call them while waiting.
    """
    # In one order, so that two processes never wait for each other.
    places = sorted({_place(answerer) for answerer in answerers})
    path = store.with_name(store.name + _SUFFIX)
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        # The store itself could be opened: rather ask something twice than not at all.
        _LOG.warning("%s: %s; another process may ask the same", path, error.strerror or error)
        yield
        return
    try:
        for place in places:
            _lock(file, place, what)
        yield
    finally:
        os.close(file)


def _lock(file: int, place: int, what: str) -> None:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
    except (BlockingIOError, PermissionError):
        _LOG.warning("another process is asking %s: waiting for its answers", what)
        fcntl.lockf(file, fcntl.LOCK_EX, 1, place)
    except OSError as error:
        _LOG.warning("locks do not work here (%s); another process may ask the same", error)


def _place(answerer: Answerer) -> int:
    text = f"{answerer.checkpoint}\n{answerer.settings}"
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big") % _PLACES
