"""The server's end of the process that decoder processes are forked from."""

import contextlib
import logging
import mmap
import os
import socket
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
        self.is_lost = False
        """Whether it cannot start decoders any more."""
        self._pid = os.fork()
        if self._pid == 0:
            run_template(theirs, memory_bytes, decode)
        theirs.close()

    def fork(self) -> Decoder:
        """Start a decoder.

        Raises:
            EngineUnavailableError: The template is gone.
        """
        ours, theirs = socket.socketpair()
        window = create_window()
        try:
            pid = self._ask(FORK + NUMBER.pack(0), theirs.fileno(), window)
            return Decoder(pid, ours, mmap.mmap(window, WINDOW_BYTES), self.wait)
        finally:
            theirs.close()
            os.close(window)

    def wait(self, pid: int) -> int:
        """Give the status of a decoder that has ended."""
        return self._ask(WAIT + NUMBER.pack(pid))

    def close(self) -> None:
        """End it and the decoders that it has started."""
        self._control.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def _ask(self, command: bytes, *files: int) -> int:
        try:
            with self._lock:
                socket.send_fds(self._control, [command], files)
                answer = self._control.recv(NUMBER.size, socket.MSG_WAITALL)
            (number,) = NUMBER.unpack(answer)
        except Exception as error:
            self.is_lost = True
            _LOG.critical("decoder processes cannot be started any more: their template is gone")
            raise EngineUnavailableError(
                "images and videos cannot be decoded any more; the server must be restarted"
            ) from error
        return int(number)
