"""Decoder processes, with tasks that do what hostile files make decoders do."""

import contextlib
import ctypes
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from typing_extensions import override

from vlmserve.engine.decoder_process import AskingTotals
from vlmserve.engine.decoder_wire import create_window, map_memory_file
from vlmserve.engine.decoders import DecoderError, DecoderPool
from vlmserve.errors import EngineUnavailableError, MediaError


class Lease:
    """Grants what it is told to."""

    def __init__(self, *grants: bool, allowance: int = 0) -> None:
        self.allowance = allowance
        self.grants = list(grants)
        self.counted: list[tuple[int, int]] = []
        self.n_begun = self.n_waits = 0

    def begin(self) -> int:
        self.n_begun += 1
        return self.allowance

    def count(self, n_bytes: int, n_pixels: int, about: Mapping[str, Any] | None) -> bool:
        self.counted.append((n_bytes, n_pixels))
        return self.grants.pop(0) if self.grants else True

    def wait(self) -> None:
        self.n_waits += 1


class Refusing(Lease):
    @override
    def count(self, n_bytes: int, n_pixels: int, about: Mapping[str, Any] | None) -> bool:
        raise MediaError("too many pixels")


def leak(_: AskingTotals) -> None:
    kept.append(bytearray(100 * 2**20))


def hang(_: AskingTotals) -> None:
    while True:
        pass


def refuse(_: AskingTotals) -> None:
    raise MediaError("it is no image")


def count(totals: AskingTotals) -> None:
    totals.add_bytes(7)
    totals.add_pixels(100)
    totals.add_pixels(20)


def interrupt(_: AskingTotals) -> None:
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)


kept: list[bytearray] = []
DEEDS: dict[str, Callable[[AskingTotals], object]] = {
    "crash": lambda _: ctypes.string_at(0),
    "abort": lambda _: os.abort(),
    "exit": lambda _: os._exit(3),
    "hang": hang,
    "swell": lambda _: bytearray(10**10),
    "leak": leak,
    "break": lambda _: 1 // 0,
    "refuse": refuse,
    "count": count,
    "interrupt": interrupt,
}


def decode(task: str, data: bytes, totals: AskingTotals) -> tuple[dict[str, Any], list[bytes]]:
    """What the decoder processes of these tests do."""
    if task in DEEDS:
        DEEDS[task](totals)
    elif task == "pid":
        data = str(os.getpid()).encode()
    elif task == "open files":
        data = "\n".join(open_files()).encode()
    about = {"n_bytes": len(data), "is_copied": task != "frames", "task": task}
    return about, [data[:3], data[3:]]


def open_files() -> Iterator[str]:
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            yield str(link.readlink())


def read(about: Mapping[str, Any], content: Any) -> bytes:
    return bytes(content)


@pytest.fixture
def create_pool() -> Iterator[Callable[..., DecoderPool]]:
    pools: list[DecoderPool] = []

    def create(**settings: Any) -> DecoderPool:
        pools.append(
            DecoderPool(
                **{
                    "n_processes": 1,
                    "memory_bytes": 256 * 2**20,
                    "timeout_s": 30.0,
                    "queue_timeout_s": 30.0,
                    "decode": decode,
                    **settings,
                }
            )
        )
        return pools[-1]

    yield create
    for pool in pools:
        pool.close()


@pytest.fixture
def pool(create_pool: Callable[..., DecoderPool]) -> DecoderPool:
    return create_pool()


def wait_for_the_end(pid: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return
        except psutil.NoSuchProcess:
            return
        time.sleep(0.01)
    pytest.fail("the decoder goes on")


def run(pool: DecoderPool, task: str, data: bytes = b"content") -> bytes:
    return pool.decode(task, data, Lease(), read)


@pytest.mark.parametrize("task", ["image", "frames"])
@pytest.mark.parametrize("data", [b"x", b"content" * 10**6])
def test_content_comes_back(pool: DecoderPool, task: str, data: bytes) -> None:
    assert run(pool, task, data) == data


def test_frames_are_the_readers_own(pool: DecoderPool) -> None:
    first = pool.decode("frames", b"content", Lease(), lambda _, content: content)
    first[0:1] = b"C"

    assert run(pool, "frames") == b"content"
    assert bytes(first) == b"Content"


def test_one_process_does_many_tasks(pool: DecoderPool) -> None:
    assert run(pool, "pid") == run(pool, "pid")
    assert pool.pids == [int(run(pool, "pid"))]


@pytest.mark.parametrize("task", ["crash", "abort"])
def test_crash_is_the_files_fault(pool: DecoderPool, task: str) -> None:
    before = run(pool, "pid")

    with pytest.raises(MediaError, match="it is broken: its decoder crashed"):
        run(pool, task)

    assert run(pool, "image") == b"content"
    assert run(pool, "pid") != before


def test_decoder_that_ends(pool: DecoderPool) -> None:
    with pytest.raises(MediaError, match="ended by the system"):
        run(pool, "exit")

    assert run(pool, "image") == b"content"


def test_decoder_that_is_killed_at_work(create_pool: Callable[..., DecoderPool]) -> None:
    pool = create_pool()
    victim = int(run(pool, "pid"))
    killer = threading.Timer(0.2, os.kill, (victim, signal.SIGKILL))
    killer.start()

    with pytest.raises(MediaError, match="ended by the system"):
        run(pool, "hang")

    killer.join()
    assert run(pool, "image") == b"content"


def test_decoder_that_is_killed_idle(pool: DecoderPool) -> None:
    pid = int(run(pool, "pid"))
    os.kill(pid, signal.SIGKILL)
    wait_for_the_end(pid)

    assert run(pool, "image") == b"content"


def test_time_is_limited(create_pool: Callable[..., DecoderPool]) -> None:
    pool = create_pool(timeout_s=0.2)

    with pytest.raises(MediaError, match=r"takes too long.*media\.decode_timeout_s"):
        run(pool, "hang")

    assert run(create_pool(), "image") == b"content"


def test_memory_is_limited(pool: DecoderPool) -> None:
    with pytest.raises(MediaError, match=r"too much memory.*media\.decode_memory_bytes"):
        run(pool, "swell")

    assert run(pool, "image") == b"content"


def test_what_a_decoder_leaked_is_no_later_files_fault(pool: DecoderPool) -> None:
    before = run(pool, "pid")
    for _ in range(4):
        run(pool, "leak")

    assert run(pool, "pid") != before


def test_errors_of_loaders_keep_their_class(pool: DecoderPool) -> None:
    with pytest.raises(DecoderError, match="by zero") as caught:
        run(pool, "break")

    assert caught.value.name == "ZeroDivisionError"
    with pytest.raises(MediaError, match="it is no image"):
        run(pool, "refuse")


def test_server_is_asked_before_anything_is_decoded(pool: DecoderPool) -> None:
    lease = Lease()

    pool.decode("count", b"", lease, read)

    assert lease.counted == [(7, 100), (0, 20), (0, 0)]


def test_what_is_allowed_unasked_is_told_afterwards(pool: DecoderPool) -> None:
    lease = Lease(allowance=110)

    pool.decode("count", b"", lease, read)

    # The second question has the first one's pixels in it.
    assert lease.counted == [(7, 120), (0, 0)]

    lease = Lease(allowance=120)
    pool.decode("count", b"", lease, read)

    assert lease.counted == [(7, 120)]


def test_too_much_that_is_told_afterwards(pool: DecoderPool) -> None:
    before = run(pool, "pid")

    with pytest.raises(MediaError, match="too many pixels"):
        pool.decode("count", b"", Refusing(allowance=1000), read)

    assert run(pool, "pid") == before


def test_waiting_for_memory_keeps_no_decoder(pool: DecoderPool) -> None:
    class Waiting(Lease):
        @override
        def wait(self) -> None:
            super().wait()
            assert run(pool, "image") == b"content"

    lease = Waiting(True, False)

    pool.decode("count", b"", lease, read)

    assert lease.n_waits == 1
    assert lease.n_begun == 2
    assert lease.counted == [(7, 100), (0, 20), (7, 100), (0, 20), (0, 0)]


def test_refusal_keeps_the_decoder(pool: DecoderPool) -> None:
    before = run(pool, "pid")

    with pytest.raises(MediaError, match="too many pixels"):
        pool.decode("count", b"", Refusing(), read)

    assert run(pool, "pid") == before


def test_wait_for_a_decoder_has_an_end(create_pool: Callable[..., DecoderPool]) -> None:
    pool = create_pool(queue_timeout_s=0.05)

    class Busy(Lease):
        @override
        def count(self, n_bytes: int, n_pixels: int, about: Mapping[str, Any] | None) -> bool:
            with pytest.raises(EngineUnavailableError, match="wait to be decoded"):
                run(pool, "image")
            return True

    assert pool.decode("count", b"", Busy(), read) == b""


def test_signals_to_a_terminals_group_are_ignored(pool: DecoderPool) -> None:
    assert run(pool, "interrupt") == b"content"


def test_files_and_ports_of_the_server_are_closed(
    create_pool: Callable[..., DecoderPool], tmp_path: Path
) -> None:
    with socket.socket() as port, (tmp_path / "secret").open("w"):
        port.bind(("127.0.0.1", 0))
        inode = str(Path(f"/proc/self/fd/{port.fileno()}").readlink())
        listed = run(create_pool(), "open files").decode()

    assert inode not in listed
    assert "secret" not in listed


def test_closing_ends_every_process(create_pool: Callable[..., DecoderPool]) -> None:
    pool = create_pool()
    pid = int(run(pool, "pid"))

    pool.close()

    wait_for_the_end(pid)


def kill_template(pid: int) -> int:
    """Kill what a decoder was forked from, and wait until it has ended."""
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)
    wait_for_the_end(parent)
    return parent


def test_loss_of_the_template(pool: DecoderPool) -> None:
    template = kill_template(int(run(pool, "pid")))

    assert pool.is_lost
    assert not psutil.pid_exists(template)
    # The decoder that there is goes on until it ends.
    assert run(pool, "image") == b"content"
    with pytest.raises(EngineUnavailableError, match="cannot be decoded any more"):
        run(pool, "exit")
    with pytest.raises(EngineUnavailableError, match="cannot be decoded any more"):
        run(pool, "image")


def test_places_without_a_decoder_are_left_when_the_template_is_lost(
    create_pool: Callable[..., DecoderPool],
) -> None:
    """Files wait for the one decoder that there is, and none is refused."""
    pool = create_pool(n_processes=3)
    template = kill_template(int(run(pool, "pid")))
    answers: list[bytes] = []
    begun, may_go_on = threading.Event(), threading.Event()

    class Busy(Lease):
        @override
        def count(self, n_bytes: int, n_pixels: int, about: Mapping[str, Any] | None) -> bool:
            begun.set()
            return may_go_on.wait(60)

    busy = threading.Thread(target=lambda: pool.decode("count", b"", Busy(), read))
    busy.start()
    assert begun.wait(60)
    waiting = [
        threading.Thread(target=lambda: answers.append(run(pool, "image"))) for _ in range(4)
    ]
    for thread in waiting:
        thread.start()
    may_go_on.set()
    for thread in (busy, *waiting):
        thread.join(60)

    assert answers == [b"content"] * 4
    assert pool.is_lost
    assert not psutil.pid_exists(template)


def test_idle_decoder_that_ended_with_the_template(
    create_pool: Callable[..., DecoderPool],
) -> None:
    """Another one that lives takes its file."""
    pool = create_pool(n_processes=2)
    pids: list[bytes] = []

    class Nested(Lease):
        @override
        def count(self, n_bytes: int, n_pixels: int, about: Mapping[str, Any] | None) -> bool:
            if not pids:
                pids.append(run(pool, "pid"))
            return True

    pool.decode("count", b"", Nested(), read)
    assert len(pool.pids) == 2
    # The one that is taken next.
    victim = pool.pids[-1]
    kill_template(victim)
    os.kill(victim, signal.SIGKILL)
    wait_for_the_end(victim)

    assert run(pool, "image") == b"content"


def test_everybody_is_told_when_the_last_decoder_ends(
    create_pool: Callable[..., DecoderPool],
) -> None:
    pool = create_pool(n_processes=2)
    kill_template(int(run(pool, "pid")))
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            run(pool, "exit")
        except EngineUnavailableError as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert [str(failure) for failure in failures] == [str(failures[0])] * 6
    assert "cannot be decoded any more" in str(failures[0])


def say(sock: socket.socket, text: bytes, *files: int) -> None:
    """What a decoder sends that a file has taken over."""
    socket.send_fds(sock, [struct.pack("!IQ", len(text), 0) + text], list(files))


@pytest.mark.parametrize(
    "text",
    [
        b"[]", b"5", b"{", b"\xff", b"{}", b'{"n_bytes": 1e9, "is_copied": true}',
        b'{"n_bytes": -1, "is_copied": true}', b'{"n_bytes": 99999999999, "is_copied": true}',
        b'{"count": [-1, 5, null]}', b'{"count": 5}', b'{"count": ["a", "b", {}]}',
        b'{"count": []}',
    ],
)  # fmt: skip
def test_answers_that_are_none(create_pool: Callable[..., DecoderPool], text: bytes) -> None:
    def lie(task: str, data: bytes, totals: Any) -> Any:
        say(totals._sock, text)
        time.sleep(20)

    pool = create_pool(decode=lie)

    with pytest.raises((DecoderError, MediaError)):
        run(pool, "image")

    assert pool.pids == []


def test_memory_files_that_could_end_the_server() -> None:
    sealed_only_in_size = create_window()
    plain = os.memfd_create("plain")
    os.ftruncate(plain, 10)

    for file, n_bytes in ((sealed_only_in_size, 10), (plain, 10)):
        with pytest.raises(ValueError, match="not what it says"):
            map_memory_file(file, n_bytes)
    reading, writing = os.pipe()
    os.close(writing)
    with pytest.raises(ValueError, match="no memory file"):
        map_memory_file(reading, 10)
