"""The server's end of one decoder process: a task goes out, questions and an answer come back.

Whatever happens to the process at a file, a crash, a kill, too much memory or time, is that file's
refusal.
"""

import contextlib
import logging
import mmap
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from vlmserve import metrics
from vlmserve.engine.decoder_wire import (
    WINDOW_BYTES,
    Answer,
    receive_answer,
    send_permission,
    send_task,
)
from vlmserve.errors import MediaError

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

# A window keeps this much of the memory that it once took.
_KEPT_WINDOW_BYTES = 64 * 2**20
_CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL})


Read = Callable[[Mapping[str, Any], Any], T]
"""Makes something of a decoder's description and bytes; the bytes are the reader's own unless the
description says ``is_copied``, which they must be before it returns."""


class Lease(Protocol):
    """What a file may take of its request's and of all requests' memory."""

    def begin(self) -> int:
        """A decoder begins with the file, perhaps once more.

        Returns:
            How many pixels it may decode before they are counted.
        """

    def count(self, n_bytes: int, n_pixels: int, about: Mapping[str, Any] | None) -> bool:
        """Count what a decoder found; whether there is memory for it now.

        Whatever it raises is the end of the task.
        """

    def wait(self) -> None:
        """Wait for the memory that ``count`` did not get."""


@dataclass(frozen=True, slots=True)
class _Counts:
    """What a decoder found."""

    n_bytes: int
    n_pixels: int
    about: Mapping[str, Any] | None

    @classmethod
    def read(cls, content: Any) -> "_Counts":
        """Read it from an answer.

        Raises:
            TypeError, ValueError: It is not in the form.
        """
        n_bytes, n_pixels, about = content
        if min(int(n_bytes), int(n_pixels)) < 0:
            raise ValueError("a decoder counts backwards")
        return cls(int(n_bytes), int(n_pixels), about)

    def count(self, lease: Lease) -> bool:
        return lease.count(self.n_bytes, self.n_pixels, self.about)


class EndedIdleError(Exception):
    """A decoder had ended with nothing to do, as where the system ran out of memory."""


class EndedUnseenError(Exception):
    """A decoder ended, and nobody knows of what: whatever it was forked from has ended as well."""


class Decoder:
    """One decoder process, used by one thread at a time.

    Args:
        pid: The process.
        sock: What it listens to.
        window: The memory that is shared with it.
        reap: Waits for a process that has ended, and gives its status, or ``None`` where that is
            not known: nobody can be told whether the file was at fault.
    """

    def __init__(
        self, pid: int, sock: socket.socket, window: mmap.mmap, reap: Callable[[int], int | None]
    ) -> None:
        self.pid = pid
        self.n_tasks = 0
        self.is_closed = False
        self._sock = sock
        self._window = window
        self._reap = reap

    def read_window(self, about: Mapping[str, Any], read: Read[T]) -> T:
        """Copy a result out of the shared memory, and keep little of that."""
        n_bytes = about["n_bytes"]
        if not (about["is_copied"] and 0 <= n_bytes <= WINDOW_BYTES):
            raise ValueError("nothing was decoded")
        with memoryview(self._window) as whole, whole[:n_bytes] as part:
            result = read(about, part)
        if n_bytes > _KEPT_WINDOW_BYTES:
            self._window.madvise(mmap.MADV_REMOVE)
        return result

    def run(self, task: Any, data: bytes, lease: Lease, deadline: float) -> Answer:
        """Have a file decoded; whatever goes wrong with the process ends it.

        Raises:
            EndedIdleError: It had ended before.
            EndedUnseenError: It ended, and why is not known.
            MediaError: The file took too long, or ended it.
        """
        self.n_tasks += 1
        try:
            self._send(task, data, deadline)
            while True:
                answer = receive_answer(self._sock, deadline)
                if "count" in answer.content:
                    may = self._may(lease, _Counts.read(answer.content["count"]))
                    send_permission(self._sock, go_on=may)
                    continue
                if "used" in answer.content:
                    _Counts.read(answer.content["used"]).count(lease)
                return answer
        except (TimeoutError, BlockingIOError):
            self.close()
            raise MediaError(
                "decoding it takes too long; the operator can raise media.decode_timeout_s"
            ) from None
        except (EOFError, OSError, KeyError, TypeError, ValueError) as error:
            status = self.close()
            if status is None:
                raise EndedUnseenError from error
            raise MediaError(_say(status)) from error

    def _send(self, task: Any, data: bytes, deadline: float) -> None:
        try:
            send_task(self._sock, task, data, deadline)
        except (BrokenPipeError, ConnectionResetError) as error:
            # It reads a file before it looks at it.
            if self.n_tasks == 1:
                raise
            self.close()
            raise EndedIdleError from error

    def _may(self, lease: Lease, counts: _Counts) -> bool:
        try:
            return counts.count(lease)
        except Exception:
            send_permission(self._sock, go_on=False)
            receive_answer(self._sock, time.monotonic() + 1)
            raise

    def drop(self) -> None:
        """Let go of what is shared with it."""
        self.is_closed = True
        self._sock.close()
        self._window.close()

    def close(self) -> int | None:
        """End it, if it has not ended by itself, and give its status where that is known."""
        self.drop()
        metrics.DECODER_RESTARTS.inc()
        # Its number stays its own until the template has waited for it.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        return self._reap(self.pid)


def _say(status: int) -> str:
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if number in _CRASHES:
        _LOG.warning("a decoder process crashed at a request's media: signal %d", number)
        return "it is broken: its decoder crashed"
    _LOG.warning("a decoder process ended at a request's media: status %d", status)
    return "its decoder was ended by the system, mostly for want of memory"
