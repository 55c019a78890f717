"""Bodies: their size, their pace, their nesting."""

import asyncio
import json
from typing import Any

import pytest

from tests.unit.server.asgi import Client, ask, echo, hello
from vlmserve.config.serve import ServeConfig
from vlmserve.config.server import ServerConfig
from vlmserve.server.json_depth import nests_deeper
from vlmserve.server.request_reader import RequestReader


def reader(app: Any = echo, *, max_body_bytes: int = 100, **settings: Any) -> RequestReader:
    return RequestReader(app, ServerConfig(**settings), max_body_bytes)


def length(n_bytes: int) -> list[tuple[bytes, bytes]]:
    return [(b"content-length", str(n_bytes).encode())]


def test_body_in_pieces_is_put_together() -> None:
    assert ask(reader(), chunks=[b'{"a"', b": ", b"1}"]).content == b'{"a": 1}'


def test_largest_body_that_is_taken() -> None:
    assert ask(reader(), chunks=[b"x" * 60, b"x" * 40]).status == 200
    assert ask(reader(), chunks=[b"x" * 100], headers=length(100)).status == 200


@pytest.mark.parametrize(
    ("chunks", "headers"),
    [([b"x" * 60, b"x" * 41], []), ([b"x"], length(101)), ([b"x" * 101], length(5))],
)
def test_larger_body_is_refused_whatever_it_says_of_itself(chunks: Any, headers: Any) -> None:
    answer = ask(reader(), chunks=chunks, headers=headers)

    assert answer.status == 413
    assert answer.error["code"] == "body_too_large"
    assert "server.max_body_bytes" in answer.error["message"]
    assert answer.headers[b"connection"] == b"close"


def test_client_that_asks_before_it_sends_is_answered_at_once() -> None:
    headers = [*length(10**9), (b"expect", b"100-continue")]

    # Nothing is ever sent: reading on would wait.
    assert ask(reader(), chunks=[], headers=headers).status == 413


@pytest.mark.parametrize("settings", [{"body_idle_timeout_s": 0.01}, {"body_timeout_s": 0.01}])
def test_body_that_does_not_come_is_not_waited_for(settings: Any) -> None:
    answer = ask(reader(**settings), chunks=[b"{"], more=True)

    assert answer.status == 408
    assert answer.error["code"] == "body_timeout"


def test_bodies_that_are_held_are_counted_together() -> None:
    async def run() -> None:
        go = asyncio.Event()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            await go.wait()
            await hello(scope, receive, send)

        app = reader(slow, max_buffered_bytes=150)
        first = asyncio.create_task(Client(app, chunks=[b"x" * 100]).ask())
        await asyncio.sleep(0)

        answer = await Client(app, chunks=[b"x" * 60]).ask()
        assert answer.status == 429
        assert answer.headers[b"retry-after"]

        go.set()
        await first
        assert (await Client(app, chunks=[b"x" * 60]).ask()).status == 200

    asyncio.run(run())


def test_client_that_leaves_while_it_sends_gets_nothing() -> None:
    async def run() -> None:
        client = Client(reader(), chunks=[b"{"], more=True)
        task = asyncio.create_task(client.ask())
        await asyncio.sleep(0)
        client.left.set()
        assert (await task).messages == []

    asyncio.run(run())


@pytest.mark.parametrize("deep", ["[" * 65 + "]" * 65, '{"a":' * 65 + "1" + "}" * 65, "[" * 10**6])
def test_json_that_nests_too_deep_is_refused(deep: str) -> None:
    answer = ask(reader(max_body_bytes=10**7), chunks=[deep.encode()])

    assert answer.status == 400
    assert answer.error["code"] == "json_too_deep"


def test_a_file_in_a_form_is_no_json() -> None:
    headers = [(b"content-type", b"multipart/form-data; boundary=x")]

    assert ask(reader(), chunks=[b"[" * 99], headers=headers).status == 200


@pytest.mark.parametrize(
    ("value", "depth"),
    [
        (1, 0),
        ([], 1),
        ([[1], [2], {"a": [3]}], 3),
        ({"a": "[[[[[["}, 1),
        ({"a": '\\"[[[{{{', "b": [1]}, 2),
        ([{"a": "\\"}, [{"b\\\\": '"]'}]], 3),
        ([[1]] * 50, 2),
    ],
)
def test_depth(value: Any, depth: int) -> None:
    content = json.dumps(value).encode()

    assert not nests_deeper(content, depth)
    assert depth == 0 or nests_deeper(content, depth - 1)


@pytest.mark.parametrize("content", [b"", b'"', b'"\\', b"]]]]" * 9 + b"[", b"\xff\x00"])
def test_depth_of_what_is_no_json(content: bytes) -> None:
    assert not nests_deeper(content, 1)


def test_default_size_holds_the_media_that_are_allowed() -> None:
    config = ServeConfig()

    assert config.max_body_bytes > config.media.max_request_bytes * 4 / 3
    assert ServeConfig(server=ServerConfig(max_body_bytes=7)).max_body_bytes == 7
