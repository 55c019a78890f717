"""Connections of a real uvicorn server over a small app."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from vlmserve.config.server import ServerConfig


@pytest.fixture
def port() -> Iterator[int]:
    uvicorn = pytest.importorskip("uvicorn")
    from vlmserve.server.connection import guarded_protocol

    async def greet(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        while message.get("more_body"):
            message = await receive()
        headers = [(b"content-length", b"5")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"hello"})

    limits = ServerConfig(header_timeout_s=0.5, max_connections=3)
    config = uvicorn.Config(
        greet, http=guarded_protocol(limits), ws="none", lifespan="off", log_level="critical"
    )
    server = uvicorn.Server(config)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[sock])))
        thread.start()
        yield sock.getsockname()[1]
        server.should_exit = True
        thread.join(30)


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.settimeout(30)
    return connection


def read_to_end(connection: socket.socket) -> tuple[int, Any]:
    """What comes until the server closes: the status, and the error's fields."""
    content = b""
    while chunk := connection.recv(65536):
        content += chunk
    head, _, body = content.partition(b"\r\n\r\n")
    if not head:
        return 0, None
    return int(head.split(b" ")[1]), json.loads(body)["error"] if body != b"hello" else "hello"


def exchange(port: int, data: bytes) -> tuple[int, Any]:
    with connect(port) as connection:
        connection.sendall(data)
        return read_to_end(connection)


def greet(connection: socket.socket) -> None:
    """Ask on a connection that stays open."""
    connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    content = b""
    while not content.endswith(b"hello"):
        chunk = connection.recv(65536)
        assert chunk, content
        content += chunk


GOOD = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


def test_headers_that_do_not_end_are_not_waited_for(port: int) -> None:
    status, error = exchange(port, b"GET / HTTP/1.1\r\nhost: x\r\n")

    assert status == 408
    assert error["code"] == "headers_timeout"
    assert exchange(port, GOOD) == (200, "hello")


def test_headers_that_trickle_have_no_more_time(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        for _ in range(100):
            try:
                connection.sendall(b"a: b\r\n")
            except OSError:
                return  # closed, and the answer is past
            connection.settimeout(0.05)
            try:
                if data := connection.recv(65536):
                    assert b" 408 " in data
                    return
            except TimeoutError:
                continue
    pytest.fail("the connection was kept")


def test_connection_that_says_nothing_is_closed_without_a_word(port: int) -> None:
    assert exchange(port, b"") == (0, None)


def test_large_headers_are_refused(port: int) -> None:
    for end in (b"", b"\r\n\r\n"):  # still to come, or all in one piece
        status, error = exchange(port, b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"a" * 70_000 + end)

        assert status == 431
        assert error["code"] == "headers_too_large"


def test_headers_of_one_connection_are_not_counted_together(port: int) -> None:
    head = b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"a" * 40_000
    with connect(port) as connection:
        connection.sendall(head + b"\r\n\r\n")
        while not connection.recv(65536).endswith(b"hello"):
            pass
        connection.sendall(head + b"\r\nconnection: close\r\n\r\n")

        assert read_to_end(connection) == (200, "hello")


@pytest.mark.parametrize(
    "data", [b"GARBAGE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02"]
)
def test_what_is_no_http_is_answered_in_our_shape(port: int, data: bytes) -> None:
    status, error = exchange(port, data)

    assert status == 400
    assert error["code"] == "invalid_http"


def test_a_large_body_is_no_large_header(port: int) -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 200000\r\n\r\n"

    assert exchange(port, head + b"x" * 200_000) == (200, "hello")


def test_one_connection_more_is_answered_and_closed(port: int) -> None:
    kept = [connect(port) for _ in range(3)]
    for connection in kept:  # so that the server knows of it
        greet(connection)

    status, error = exchange(port, b"")
    assert status == 503
    assert error["code"] == "too_many_connections"

    for connection in kept:
        connection.close()


def test_requests_on_one_connection_each_have_their_time(port: int) -> None:
    with connect(port) as connection:
        for _ in range(3):
            greet(connection)
        connection.sendall(b"GET / HTTP/1.1\r\n")
        assert read_to_end(connection)[0] == 408
