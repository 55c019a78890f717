"""The guards around a small ASGI app, driven through the protocol itself."""

import asyncio
import json
from typing import Any

import pytest

from vlmserve import metrics
from vlmserve.engine.media_connector import current_request
from vlmserve.server.errors import ErrorTranslator, send_error


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


async def call(
    app: Any,
    path: str = "/v1/models",
    headers: tuple[tuple[bytes, bytes], ...] = (),
    body: Any = None,
) -> tuple[int, dict[bytes, bytes], bytes]:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(body).encode()}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": path, "headers": list(headers), "method": "POST"}
    await app(scope, receive, send)
    content = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), content


def test_success_passes_untouched() -> None:
    assert asyncio.run(call(ErrorTranslator(hello)))[2] == b"hello"


def test_failure_is_rewritten_and_keeps_other_headers() -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        error = {"message": "The model `x` does not exist.", "code": 404}
        await send_error(send, 404, {"error": error}, ((b"x-request-id", b"7"),))

    status, headers, content = asyncio.run(call(ErrorTranslator(failing), body={"model": "x"}))

    assert status == 404
    assert headers[b"x-request-id"] == b"7"
    assert int(headers[b"content-length"]) == len(content)
    assert json.loads(content)["error"]["code"] == "model_not_found"


def test_media_of_a_running_request_are_located() -> None:
    found: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        request = current_request.get()
        assert request is not None
        assert request.locate is not None
        found.append(request.locate("u"))
        await hello(scope, receive, send)

    part = {"type": "image_url", "image_url": {"url": "u"}}
    body = {"messages": [{"role": "user", "content": [part]}]}
    asyncio.run(call(ErrorTranslator(app), body=body))

    assert found == ["messages[0].content[0].image_url"]
    assert current_request.get() is None


def test_stream_that_fails_ends_with_an_error_in_our_shape() -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        error = {"message": "EngineCore encountered an issue. See above.", "code": 500}
        events: list[Any] = [{"choices": []}, {"error": error}]
        for event in events:
            body = f"data: {json.dumps(event)}\n\n".encode()
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    status, _, content = asyncio.run(call(ErrorTranslator(failing)))

    first, failed, done, _ = content.split(b"\n\n")
    assert status == 200
    assert first == b'data: {"choices": []}'
    assert json.loads(failed.removeprefix(b"data: "))["error"] == {
        "message": "the engine is gone; try again later",
        "type": "server_error",
        "param": None,
        "code": None,
    }
    assert done == b"data: [DONE]"


def test_refusals_of_the_app_are_counted_by_their_codes() -> None:
    def count() -> tuple[float, float]:
        refused = metrics.REFUSALS.labels("context_length_exceeded")._value.get()
        return refused, metrics.BUDGET_REFUSALS._value.get()

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        message = "the prompt has 9 tokens, and this model's context holds 8"
        await send_error(send, 400, {"error": {"message": message, "code": 400}})

    before = count()
    asyncio.run(call(ErrorTranslator(failing)))

    assert [b - a for a, b in zip(before, count(), strict=True)] == [1, 1]


@pytest.mark.parametrize("value", [True, 5, "x", [1]])
def test_exception_at_a_field_is_the_callers(value: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        value.get("regex")

    body = {"structured_outputs": value}
    status, _, content = asyncio.run(call(ErrorTranslator(app), body=body))

    assert status == 400
    assert json.loads(content)["error"]["param"] == "structured_outputs"


def test_other_exceptions_are_not_the_callers() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        asyncio.get()  # type: ignore[attr-defined]

    with pytest.raises(AttributeError):
        asyncio.run(call(ErrorTranslator(app), body={}))


def test_overload_says_when_to_try_again() -> None:
    async def busy(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send_error(send, 503, {"error": {"message": "too many images wait", "code": 503}})

    status, headers, _ = asyncio.run(call(ErrorTranslator(busy), body={}))

    assert status == 503
    assert int(headers[b"retry-after"]) > 0
