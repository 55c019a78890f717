"""What a server and its decoder processes send each other over a socket.

A decoder reads hostile files and may have been taken over by one. What it sends is therefore read
as JSON and as bytes of a sealed memory file, never unpickled; it cannot shrink or change that file
once it is sent.
"""

import fcntl
import json
import mmap
import os
import pickle
import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# Lengths of a message's text and of the bytes behind it.
_HEAD = struct.Struct("!IQ")
# Whole answers come with one call nearly always. A thread that waits for a socket lets others run
# and has to wait for them afterwards, so that each further call may cost milliseconds.
_MOST_AT_ONCE_BYTES = 16 * 1024
# C's ``struct timeval`` where a long has 64 bits.
_TIMEOUT = struct.Struct("qq")
WINDOW_BYTES = 256 * 2**20
"""Size of a window; a file's decoded image rarely has more."""

_SMALL_BYTES = 64 * 1024
_MAX_TEXT_BYTES = 16 * 2**20
_WINDOW_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_SEALS = _WINDOW_SEALS | fcntl.F_SEAL_WRITE


@dataclass(frozen=True, slots=True)
class Answer:
    """What a decoder says."""

    content: dict[str, Any]
    file: int | None = None
    """A memory file with what it decoded, where it is not in the window; whoever takes the answer
    closes it."""


def send_task(sock: socket.socket, task: Any, data: bytes, deadline: float) -> None:
    """Send a decoder its next task with a file.

    Raises:
        TimeoutError, BlockingIOError: It did not take it in time.
        OSError: It is gone.
    """
    _set_timeout(sock, deadline)
    text = pickle.dumps(task)
    head = _HEAD.pack(len(text), len(data)) + text
    if len(data) <= _SMALL_BYTES:
        # Waking the other side costs more than the copy.
        sock.sendall(head + data)
        return
    sock.sendall(head)
    sock.sendall(data)


def receive_task(sock: socket.socket) -> tuple[Any, bytes]:
    """Wait for a task, in the decoder.

    Raises:
        EOFError: There will be no more.
    """
    n_text, n_data = _HEAD.unpack(_receive(sock, _HEAD.size))
    # From the server itself, which is what this process was forked from.
    task = pickle.loads(_receive(sock, n_text))  # noqa: S301
    return task, _receive(sock, n_data)


def send_answer(sock: socket.socket, content: dict[str, Any], file: int | None = None) -> None:
    """Say something to the server, with a memory file or without."""
    text = json.dumps(content, default=_plain).encode()
    message = _HEAD.pack(len(text), 0) + text
    if file is None:
        sock.sendall(message)
    else:
        # The file travels with the first byte; the message may be longer than the socket's buffer.
        sent = socket.send_fds(sock, [message], [file])
        sock.sendall(message[sent:])


def receive_answer(sock: socket.socket, deadline: float) -> Answer:
    """Wait for what a decoder says.

    Args:
        sock: The socket to it.
        deadline: Until when, by ``time.monotonic``.

    Raises:
        TimeoutError, BlockingIOError: Nothing came in time.
        EOFError: The decoder is gone.
        TypeError, ValueError: It does not keep to the form.
    """
    _set_timeout(sock, deadline)
    message, files, _, _ = socket.recv_fds(sock, _MOST_AT_ONCE_BYTES, 1)
    file = files[0] if files else None
    try:
        content = _receive_content(sock, message, deadline)
    except BaseException:
        if file is not None:
            os.close(file)
        raise
    return Answer(content, file)


def _receive_content(sock: socket.socket, message: bytes, deadline: float) -> dict[str, Any]:
    if not message:
        raise EOFError("the decoder is gone")
    if len(message) < _HEAD.size:
        message += _receive(sock, _HEAD.size - len(message), deadline)
    n_text, _ = _HEAD.unpack_from(message)
    if n_text > _MAX_TEXT_BYTES:
        raise ValueError("a decoder's answer is too long")
    text = message[_HEAD.size :]
    if len(text) > n_text:
        raise ValueError("a decoder says more than it was asked")
    if len(text) < n_text:
        text += _receive(sock, n_text - len(text), deadline)
    content = json.loads(text)
    if not isinstance(content, dict):
        raise TypeError("a decoder's answer is no object")
    return content


def send_permission(sock: socket.socket, *, go_on: bool) -> None:
    """Tell a decoder whether it may decode what it found."""
    sock.sendall(b"+" if go_on else b"-")


def receive_permission(sock: socket.socket) -> bool:
    """Wait for that, in the decoder."""
    return _receive(sock, 1) == b"+"


def create_memory_file(pieces: Iterable[Any]) -> int:
    """Put bytes into a memory file that cannot be changed any more.

    Args:
        pieces: Contiguous bytes, one behind the other.

    Returns:
        Its descriptor.
    """
    file = os.memfd_create("vlmserve-media", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    for piece in pieces:
        rest = memoryview(piece).cast("B")
        while len(rest):
            rest = rest[os.write(file, rest) :]
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
    return file


def create_window() -> int:
    """Create the memory that a server and one decoder share for whatever fits.

    Writing a file for each image would cost more than decoding a small one: memory that was
    written before is ten times faster than new one. Nobody can change its size, which would end
    whoever reads it.

    Returns:
        Its descriptor, of ``WINDOW_BYTES``; memory is taken as it is written to.
    """
    file = os.memfd_create("vlmserve-window", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(file, WINDOW_BYTES)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, _WINDOW_SEALS)
    return file


def map_memory_file(file: int, n_bytes: int) -> mmap.mmap:
    """Map a decoder's memory file, and close it.

    Args:
        file: Its descriptor.
        n_bytes: Its size by what the decoder says.

    Returns:
        Its content. Writing to it changes a copy.

    Raises:
        ValueError: It is not sealed, or of another size: reading it could end this process.
    """
    try:
        if fcntl.fcntl(file, fcntl.F_GET_SEALS) != _SEALS or os.fstat(file).st_size != n_bytes:
            raise ValueError("a decoder's memory file is not what it says")
        return mmap.mmap(file, n_bytes, flags=mmap.MAP_PRIVATE)
    except OSError as error:
        raise ValueError("a decoder sent no memory file") from error
    finally:
        os.close(file)


def _receive(sock: socket.socket, n_bytes: int, deadline: float | None = None) -> bytes:
    data = bytearray(n_bytes)
    rest = memoryview(data)
    while len(rest):
        if deadline is not None:
            _set_timeout(sock, deadline)
        n_read = sock.recv_into(rest)
        if n_read == 0:
            raise EOFError("the other side is gone")
        rest = rest[n_read:]
    return bytes(data)


def _set_timeout(sock: socket.socket, deadline: float) -> None:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    # Python's own timeouts wait twice, for a socket to be ready and then for its bytes.
    seconds, fraction = divmod(left_s, 1)
    timeout = _TIMEOUT.pack(int(seconds), max(1, int(fraction * 1e6)))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)


def _plain(value: Any) -> Any:
    # numpy's numbers and arrays, which loaders put into a video's description.
    return value.tolist()
