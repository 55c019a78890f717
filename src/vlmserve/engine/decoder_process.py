"""Decoder processes: forked from a template that has imported everything, each under ceilings.

The template is forked from the server's process once vLLM is imported and before it has threads
and an engine; whenever a decoder is wanted, the template forks one within milliseconds. Decoders
run vLLM 0.32's own loaders, which know how each family samples frames, and cost no memory but what
they change.
"""

import contextlib
import dataclasses
import gc
import logging
import mmap
import os
import resource
import signal
import socket
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from vlmserve.engine.allocator import keep_freed_memory
from vlmserve.engine.decoder_wire import (
    WINDOW_BYTES,
    create_memory_file,
    receive_permission,
    receive_task,
    send_answer,
)
from vlmserve.errors import MediaError

_LOG = logging.getLogger(__name__)

NUMBER = struct.Struct("!q")
FORK, WAIT = b"F", b"W"

Decode = Callable[[Any, bytes, "AskingTotals"], tuple[dict[str, Any], Iterable[Any]]]
"""Carries a task out: what it says of the result, ``n_bytes`` among it, and the result's bytes in
pieces. With ``is_copied`` the server copies them at once."""

_FIRST_OWN_FILE = 3
_FAILED = 70
# One image takes what the last one left: new pages cost more than decoding into them.
_KEPT_BYTES = 64 * 2**20


class StoppedError(Exception):
    """The server does not want the rest of a task."""


class AskingTotals:
    """Asks the server whether what was found may be decoded.

    Args:
        sock: To the server.
        allowance_pixels: What may be decoded unasked, and is only told afterwards.
    """

    def __init__(self, sock: socket.socket, allowance_pixels: int) -> None:
        self._sock = sock
        self._allowance_pixels = allowance_pixels
        self._n_bytes = self._n_pixels = 0
        self._about: dict[str, Any] | None = None

    @property
    def untold(self) -> list[Any]:
        """What the server has not been told yet: bytes, pixels, and what they are of."""
        return [self._n_bytes, self._n_pixels, self._about]

    def add_bytes(self, n_bytes: int) -> None:
        """Count a file; it is said with the next pixels."""
        self._n_bytes += n_bytes

    def add_pixels(self, n_pixels: int, measured: Any = None) -> None:
        """Ask for pixels, and say what they are of: a dataclass or nothing.

        Raises:
            StoppedError: They may not be decoded, or not now.
        """
        self._n_pixels += n_pixels
        if measured is not None:
            self._about = dataclasses.asdict(measured)
        if self._n_pixels <= self._allowance_pixels:
            return
        send_answer(self._sock, {"count": self.untold})
        self._n_bytes = self._n_pixels = self._allowance_pixels = 0
        self._about = None
        if not receive_permission(self._sock):
            raise StoppedError


def run_template(control: socket.socket, memory_bytes: int, decode: Decode) -> NoReturn:
    """Fork decoders when told to, until the server is gone; then end them all.

    Args:
        control: To the server. ``FORK`` comes with a new decoder's socket and window and is
            answered with its process id; ``WAIT`` with an id, and is answered with its status.
        memory_bytes: What a decoder may allocate beyond what it starts with.
        decode: Carries a task out.
    """
    children: set[int] = set()
    try:
        _settle(control)
        while True:
            command, files, _, _ = socket.recv_fds(control, 1 + NUMBER.size, 2)
            if command[:1] == FORK:
                children.add(_fork_decoder(control, files, memory_bytes, decode))
            elif command[:1] == WAIT:
                (pid,) = NUMBER.unpack(command[1:])
                _, status = os.waitpid(pid, 0)
                children.discard(pid)
                control.sendall(NUMBER.pack(status))
            else:
                break
    except Exception:  # noqa: BLE001 - there is nobody else to tell
        _LOG.exception("the template of the decoder processes failed")
    finally:
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os._exit(0)


def _settle(control: socket.socket) -> None:
    """Become a process of its own after a fork."""
    # Ctrl-C, and what a service manager sends to a whole group, are for the server: it still
    # answers what runs, and needs decoders for it.
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    # The server's sockets and files; the port would stay taken after its death.
    keep = control.fileno()
    os.closerange(_FIRST_OWN_FILE, keep)
    os.closerange(keep + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    # What is here is shared with all decoders as long as nobody writes to it.
    gc.freeze()


def _fork_decoder(
    control: socket.socket, files: list[int], memory_bytes: int, decode: Decode
) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            control.close()
            _limit(memory_bytes)
            keep_freed_memory(_KEPT_BYTES)
            _fall_silent()
            sock, window = files
            _serve(socket.socket(fileno=sock), mmap.mmap(window, WINDOW_BYTES), decode)
        except Exception:  # noqa: BLE001 - as above
            _LOG.exception("a decoder process failed")
        finally:
            os._exit(_FAILED)
    for file in files:
        os.close(file)
    control.sendall(NUMBER.pack(pid))
    return pid


def _limit(memory_bytes: int) -> None:
    """Bound what this process may take, and offer it first where the machine runs out of memory."""
    ceiling = _data_bytes() + memory_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (ceiling, ceiling))
    Path("/proc/self/comm").write_text("vlmserve-decode")  # its name in ps and top
    # A dump would hold callers' pictures.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _fall_silent() -> None:
    """Keep what libraries print of broken files out of the server's log: callers would fill it."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in range(_FIRST_OWN_FILE):
        os.dup2(nowhere, standard)
    os.close(nowhere)


def _data_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status does not say how much memory this process has")


def _serve(sock: socket.socket, window: mmap.mmap, decode: Decode) -> NoReturn:
    """Carry tasks out until there are no more."""
    while True:
        try:
            (allowance, task), data = receive_task(sock)
        except (EOFError, OSError):
            os._exit(0)
        totals = AskingTotals(sock, allowance)
        try:
            about, result = decode(task, data, totals)
            file = _hand_over(about, result, window)
        except StoppedError:
            send_answer(sock, {"stopped": True})
            continue
        except MemoryError:
            send_answer(sock, {"memory": True})
            continue
        except MediaError as error:
            send_answer(sock, {"refused": error.message})
            continue
        except Exception as error:  # noqa: BLE001 - third-party code at the caller's bytes
            send_answer(sock, _describe(error))
            continue
        del result
        send_answer(sock, {**about, "used": totals.untold}, file)
        if file is not None:
            os.close(file)


def _hand_over(about: dict[str, Any], result: Iterable[Any], window: mmap.mmap) -> int | None:
    """Put a result where the server reads it."""
    if not about.get("is_copied") or about["n_bytes"] > WINDOW_BYTES:
        return create_memory_file(result)
    place = 0
    for piece in result:
        window[place : place + len(piece)] = piece
        place += len(piece)
    return None


def _describe(error: Exception) -> dict[str, Any]:
    # OpenCV has an error of its own for it.
    if "Insufficient memory" in str(error) or isinstance(error.__cause__, MemoryError):
        return {"memory": True}
    text = str(error.args[0] if error.args else error)[:2000]
    return {"broken": text, "error": type(error).__name__}
