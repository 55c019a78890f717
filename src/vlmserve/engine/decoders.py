"""Decodes media in processes of their own, so that no file can end or fill the server's.

Whatever happens to a decoder at a file, a crash, a kill, too much memory or time, is that file's
refusal; the decoder is replaced when the next file comes.
"""

import contextlib
import logging
import mmap
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from vlmserve import metrics
from vlmserve.engine.decoder_process import FORK, NUMBER, WAIT, Decode, run_template
from vlmserve.engine.decoder_wire import (
    WINDOW_BYTES,
    Answer,
    create_window,
    map_memory_file,
    receive_answer,
    send_permission,
    send_task,
)
from vlmserve.errors import EngineUnavailableError, MediaError

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

# A window keeps this much of the memory that it once took.
_KEPT_WINDOW_BYTES = 64 * 2**20
_CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL})


class DecoderError(Exception):
    """What a loader raised at a file, in its process.

    Args:
        name: The exception's class.
        text: What it said.
    """

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


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


class DecoderPool:
    """Decoder processes, started as they are needed; safe in many threads.

    Fork the template before the process has threads of its own that may hold locks, and after it
    has imported what decoders need.

    Args:
        n_processes: Files decoded at once.
        memory_bytes: What one decoder may allocate.
        timeout_s: Seconds that one file may take.
        queue_timeout_s: Seconds that a file may wait for its turn.
        decode: Carries a task out.
    """

    def __init__(
        self,
        *,
        n_processes: int,
        memory_bytes: int,
        timeout_s: float,
        queue_timeout_s: float,
        decode: Decode,
    ) -> None:
        self.n_processes = n_processes
        self._timeout_s = timeout_s
        self._queue_timeout_s = queue_timeout_s
        self._template = _Template(memory_bytes, decode)
        # The last one used is taken first: its memory is warm. ``None`` is one to be forked.
        self._idle: queue.LifoQueue[_Decoder | None] = queue.LifoQueue()
        for _ in range(n_processes):
            self._idle.put(None)

    @property
    def is_lost(self) -> bool:
        """Whether decoders that fail cannot be replaced any more."""
        return self._template.is_lost

    @property
    def pids(self) -> list[int]:
        """The processes of decoders that are idle."""
        return [decoder.pid for decoder in list(self._idle.queue) if decoder is not None]

    def decode(self, task: Any, data: bytes, lease: Lease, read: Read[T]) -> T:
        """Decode one file; blocks.

        Args:
            task: What ``decode`` of the pool is given.
            data: The file.
            lease: Asked before anything is decoded.
            read: Takes the result.

        Raises:
            MediaError: The file is over a limit, took too much time or memory, or ended its
                decoder.
            DecoderError: The file is broken.
            EngineUnavailableError: No decoder or no memory became free in time.
        """
        while True:
            allowance = lease.begin()
            with self._taken() as decoder:
                deadline = time.monotonic() + self._timeout_s
                answer = decoder.run((allowance, task), data, lease, deadline)
                if "memory" in answer.content and decoder.n_tasks > 1:
                    # What it leaked before may have been in the way.
                    decoder.close()
                    continue
                if "stopped" not in answer.content:
                    return self._read(answer, decoder, read)
            lease.wait()

    def close(self) -> None:
        """End all decoders."""
        self._template.close()
        for decoder in list(self._idle.queue):
            if decoder is not None:
                decoder.drop()

    @contextlib.contextmanager
    def _taken(self) -> "Iterator[_Decoder]":
        try:
            decoder = self._idle.get(timeout=self._queue_timeout_s)
        except queue.Empty:
            raise EngineUnavailableError(
                "too many images and videos wait to be decoded; try again later"
            ) from None
        try:
            if decoder is not None and decoder.has_ended():
                decoder.close()
                decoder = None
            if decoder is None:
                decoder = self._template.fork()
            yield decoder
        finally:
            self._idle.put(None if decoder is None or decoder.is_closed else decoder)

    def _read(self, answer: Answer, decoder: "_Decoder", read: Read[T]) -> T:
        content = answer.content
        if "refused" in content:
            raise MediaError(str(content["refused"]))
        if "memory" in content:
            raise MediaError(
                "decoding it takes too much memory; the operator can raise "
                "media.decode_memory_bytes"
            )
        if "broken" in content:
            raise DecoderError(str(content.get("error")), str(content["broken"]))
        try:
            if answer.file is not None:
                return read(content, map_memory_file(answer.file, content["n_bytes"]))
            return decoder.read_window(content, read)
        except (KeyError, TypeError, ValueError) as error:
            decoder.close()
            raise DecoderError("ValueError", f"its decoder's answer is none: {error}") from error


class _Template:
    """The process that decoders are forked from."""

    def __init__(self, memory_bytes: int, decode: Decode) -> None:
        ours, theirs = socket.socketpair()
        self._lock = threading.Lock()
        self._control = ours
        self.is_lost = False
        self._pid = os.fork()
        if self._pid == 0:
            run_template(theirs, memory_bytes, decode)
        theirs.close()

    def fork(self) -> "_Decoder":
        ours, theirs = socket.socketpair()
        window = create_window()
        try:
            pid = self._ask(FORK + NUMBER.pack(0), theirs.fileno(), window)
            return _Decoder(pid, ours, mmap.mmap(window, WINDOW_BYTES), self)
        finally:
            theirs.close()
            os.close(window)

    def wait(self, pid: int) -> int:
        """Give the status of a decoder that has ended."""
        return self._ask(WAIT + NUMBER.pack(pid))

    def close(self) -> None:
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


class _Decoder:
    """One decoder process, used by one thread at a time."""

    def __init__(
        self, pid: int, sock: socket.socket, window: mmap.mmap, template: _Template
    ) -> None:
        self.pid = pid
        self.n_tasks = 0
        self.is_closed = False
        self._sock = sock
        self._window = window
        self._template = template

    def has_ended(self) -> bool:
        """Whether it ended with nothing to do, as where the system ran out of memory."""
        self._sock.setblocking(False)  # noqa: FBT003 - the standard library's own form
        try:
            # It says nothing unless it is asked.
            self._sock.recv(1)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

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
        """Have a file decoded; whatever goes wrong with the process ends it."""
        self.n_tasks += 1
        try:
            send_task(self._sock, task, data, deadline)
            while True:
                answer = receive_answer(self._sock, deadline)
                if "count" in answer.content:
                    may = self._may(lease, _Counts.read(answer.content["count"]))
                    send_permission(self._sock, go_on=may)
                    continue
                if "used" in answer.content:
                    _Counts.read(answer.content["used"]).count(lease)
                return answer
        except TimeoutError:
            self.close()
            raise MediaError(
                "decoding it takes too long; the operator can raise media.decode_timeout_s"
            ) from None
        except (EOFError, OSError, KeyError, TypeError, ValueError) as error:
            status = self.close()
            raise MediaError(_say(status)) from error

    def _may(self, lease: Lease, counts: "_Counts") -> bool:
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

    def close(self) -> int:
        """End it, if it has not ended by itself, and give its status."""
        self.drop()
        metrics.DECODER_RESTARTS.inc()
        # Its number stays its own until the template has waited for it.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        return self._template.wait(self.pid)


def _say(status: int) -> str:
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if number in _CRASHES:
        _LOG.warning("a decoder process crashed at a request's media: signal %d", number)
        return "it is broken: its decoder crashed"
    _LOG.warning("a decoder process ended at a request's media: status %d", status)
    return "its decoder was ended by the system, mostly for want of memory"
