"""The server's end of the process that decoder processes are forked from."""

import contextlib
import logging
import mmap
import os
import signal
import socket
import struct
import threading

from vlmserve.engine.decoder_client import Decoder
from vlmserve.engine.decoder_process import FORK, NUMBER, WAIT, Decode, run_template
from vlmserve.engine.decoder_wire import WINDOW_BYTES, create_window
from vlmserve.errors import EngineUnavailableError

_LOG = logging.getLogger(__name__)


class DecoderTemplate:
    """The process that decoders are forked from; safe in many threads.

    Args:
        memory_bytes: What one decoder may allocate.
        decode: Carries a task out.
    """

    def __init__(self, memory_bytes: int, decode: Decode) -> None:
        ours, theirs = socket.socketpair()
        self._lock = threading.Lock()
        self._control = ours
        self._is_lost = self._is_reaped = False
        self._pid = os.fork()
        if self._pid == 0:
            run_template(theirs, memory_bytes, decode)
        theirs.close()

    @property
    def is_lost(self) -> bool:
        """Whether it cannot start decoders any more; those that there are may go on."""
        # An event loop asks, which must not wait for an answer that is under way.
        if not self._is_lost and self._lock.acquire(blocking=False):
            try:
                if not self._is_reaped and self._has_ended():
                    self._lose()
            finally:
                self._lock.release()
        return self._is_lost

    def fork(self) -> Decoder:
        """Start a decoder.

        Raises:
            EngineUnavailableError: The template is gone.
        """
        ours, theirs = socket.socketpair()
        window = create_window()
        try:
            pid = self._ask(FORK + NUMBER.pack(0), theirs.fileno(), window)
            if pid is not None:
                return Decoder(pid, ours, mmap.mmap(window, WINDOW_BYTES), self.wait)
        finally:
            theirs.close()
            os.close(window)
        ours.close()
        raise lost_error()

    def wait(self, pid: int) -> int | None:
        """Give the status of a decoder that has ended; ``None`` where nobody knows it any more."""
        return self._ask(WAIT + NUMBER.pack(pid))

    def close(self) -> None:
        """End it and the decoders that it has started."""
        with self._lock:
            self._control.close()
            self._reap()

    def _ask(self, command: bytes, *files: int) -> int | None:
        with self._lock:
            if self._is_lost:
                return None
            try:
                socket.send_fds(self._control, [command], files)
                answer = self._control.recv(NUMBER.size, socket.MSG_WAITALL)
                (number,) = NUMBER.unpack(answer)
            except (OSError, struct.error):
                self._lose()
                return None
        return int(number)

    def _has_ended(self) -> bool:
        """Look, and do not wait."""
        try:
            pid, _ = os.waitpid(self._pid, os.WNOHANG)
        except ChildProcessError:
            pid = self._pid
        self._is_reaped = pid != 0
        return self._is_reaped

    def _lose(self) -> None:
        self._is_lost = True
        _LOG.critical("decoder processes cannot be started any more: their template is gone")
        self._control.close()
        if not self._is_reaped:
            # It may be in a state of its own; decoders that it has started go on.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self._reap()

    def _reap(self) -> None:
        if not self._is_reaped:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
            self._is_reaped = True


def lost_error() -> EngineUnavailableError:
    """What requests are told that would need another decoder."""
    return EngineUnavailableError(
        "images and videos cannot be decoded any more; the server must be restarted"
    )
