"""Decodes media in processes of their own, so that no file can end or fill the server's.

Whatever happens to a decoder at a file, a crash, a kill, too much memory or time, is that file's
refusal; the decoder is replaced when the next file comes.
"""

import contextlib
import queue
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from vlmserve.engine.decoder_client import Decoder, EndedIdleError, EndedUnseenError, Lease, Read
from vlmserve.engine.decoder_process import Decode
from vlmserve.engine.decoder_template import DecoderTemplate, lost_error
from vlmserve.engine.decoder_wire import Answer, map_memory_file
from vlmserve.errors import EngineUnavailableError, MediaError

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")


class DecoderError(Exception):
    """What a loader raised at a file, in its process.

    Args:
        name: The exception's class.
        text: What it said.
    """

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


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
        self._template = DecoderTemplate(memory_bytes, decode)
        # The last one used is taken first: its memory is warm. ``None`` is one to be forked.
        self._idle: queue.LifoQueue[Decoder | None] = queue.LifoQueue()
        self._n_places = n_processes
        self._lock = threading.Lock()
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
                try:
                    answer = decoder.run((allowance, task), data, lease, deadline)
                except EndedIdleError:
                    continue
                except EndedUnseenError as error:
                    raise lost_error() from error
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
    def _taken(self) -> "Iterator[Decoder]":
        decoder = self._take()
        try:
            yield decoder
        finally:
            self._idle.put(None if decoder.is_closed else decoder)

    def _take(self) -> Decoder:
        """Wait for a decoder, or for a place for one to be forked."""
        deadline = time.monotonic() + self._queue_timeout_s
        while True:
            try:
                decoder = self._idle.get(timeout=max(deadline - time.monotonic(), 0))
            except queue.Empty:
                raise EngineUnavailableError(
                    "too many images and videos wait to be decoded; try again later"
                ) from None
            if decoder is not None:
                return decoder
            try:
                return self._template.fork()
            except EngineUnavailableError:
                self._give_up_a_place()
            except BaseException:
                self._idle.put(None)
                raise

    def _give_up_a_place(self) -> None:
        """Leave a place empty: the decoders that there are go on without the template.

        Raises:
            EngineUnavailableError: There are none.
        """
        with self._lock:
            self._n_places -= 1
            if self._n_places > 0:
                return
        # Whoever waits is to be told as well.
        self._idle.put(None)
        raise lost_error()

    def _read(self, answer: Answer, decoder: Decoder, read: Read[T]) -> T:
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
