"""Ids, log lines and headers of answers."""

import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.server.asgi import ask, hello
from vlmserve import metrics
from vlmserve.server.context import context_of, header
from vlmserve.server.request_log import RequestLog
from vlmserve.server.security_headers import SecurityHeaders


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    logger = logging.getLogger("vlmserve")
    before = logger.propagate
    logger.propagate = True
    caplog.set_level(logging.INFO, "vlmserve")
    yield lambda: [record.getMessage() for record in caplog.records]
    logger.propagate = before


def log(app: Any = hello, *, enabled: bool = True) -> RequestLog:
    return RequestLog(app, enabled=enabled)


def test_id_of_the_client_comes_back_and_reaches_vllm() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(header(scope, b"x-request-id"))
        headers = [(b"x-request-id", b"vllm's own")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    answer = ask(log(app), headers=[(b"x-request-id", b"trace-1:a")])

    assert answer.headers[b"x-request-id"] == b"trace-1:a"
    assert [name for name, _ in answer.messages[0]["headers"]] == [b"x-request-id"]
    assert seen == ["trace-1:a"]


@pytest.mark.parametrize("given", [b"", b"two words", b"a\nb", b"x" * 129, b"\xff", b"-dash"])
def test_id_that_is_no_word_is_replaced(given: bytes) -> None:
    answer = ask(log(), headers=[(b"x-request-id", given)])

    assert re.fullmatch(rb"[0-9a-f]{32}", answer.headers[b"x-request-id"])


def test_line_tells_no_more_than_it_should(lines: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        context_of(scope).key_name = "web"
        await hello(scope, receive, send)

    ask(
        log(app),
        "/v1/chat/completions",
        body={"messages": "SECRET PROMPT"},
        headers=[(b"authorization", b"Bearer SECRETKEY"), (b"x-request-id", b"i-1")],
    )

    (line,) = lines()
    assert re.fullmatch(
        r"POST /v1/chat/completions 200 \d+\.\d{3} s key=web client=10\.0\.0\.9 id=i-1", line
    )
    assert "SECRET" not in line


def test_path_cannot_forge_lines(lines: Any) -> None:
    ask(log(), "/a\nPOST /b 200\x1b[31m" + "c" * 500)

    (line,) = lines()
    assert "\n" not in line
    assert "\x1b" not in line
    assert len(line) < 300


def test_probes_that_succeed_are_not_logged(lines: Any) -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 503, "headers": []})

    ask(log(), "/health", method="GET")
    assert lines() == []
    ask(log(failing), "/health", method="GET")
    assert "GET /health 503" in lines()[0]


def test_log_can_be_turned_off(lines: Any) -> None:
    ask(log(enabled=False))

    assert lines() == []


def test_requests_are_counted_by_known_routes_alone() -> None:
    def count(route: str, status: int) -> float:
        value: float = metrics.REQUESTS.labels(route, status)._value.get()
        return value

    async def silent(scope: Any, receive: Any, send: Any) -> None:
        pass

    before = [count("/v1/models", 200), count("other", 200), count("/tokenize", 499)]
    ask(log(), "/v1/models")
    ask(log(), "/v1/../etc/passwd")
    ask(log(silent), "/tokenize")

    after = [count("/v1/models", 200), count("other", 200), count("/tokenize", 499)]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1]


def test_answers_carry_security_headers() -> None:
    headers = ask(SecurityHeaders(hello)).headers

    assert headers[b"x-content-type-options"] == b"nosniff"
    assert headers[b"x-frame-options"] == b"DENY"
    assert headers[b"referrer-policy"] == b"no-referrer"
    assert headers[b"content-security-policy"] == b"default-src 'none'; frame-ancestors 'none'"


def test_a_page_keeps_its_own_policy() -> None:
    async def page(scope: Any, receive: Any, send: Any) -> None:
        headers = [
            (b"content-type", b"text/html"),
            (b"Content-Security-Policy", b"default-src 'self'"),
            (b"cache-control", b"max-age=60"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    headers = ask(SecurityHeaders(page)).headers

    assert headers[b"Content-Security-Policy"] == b"default-src 'self'"
    assert b"content-security-policy" not in headers
    assert headers[b"cache-control"] == b"max-age=60"
    assert headers[b"x-content-type-options"] == b"nosniff"
