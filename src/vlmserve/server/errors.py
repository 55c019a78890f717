"""One shape for every error of the HTTP API: OpenAI's.

``ErrorTranslator`` sits outside vLLM's app and rewrites the bodies of responses of status 400 and
above, and the events with which vLLM ends a stream that failed; all else passes untouched, and so
does what ``/ready`` says.
"""

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from vlmserve import metrics
from vlmserve.engine.media_connector import media_request
from vlmserve.errors import RequestError, VlmserveError
from vlmserve.server.context import context_of
from vlmserve.server.request_body import RequestBody
from vlmserve.server.translation import openai_error, translate, translate_exception

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


_RETRY_AFTER_S = b"5"
"""For what is overloaded behind vLLM's app, where nothing is known of how long that takes."""

_OWN_BODIES = frozenset({"/ready"})
"""Routes whose failures are no errors: their readers are probes, which want the state itself. Those
of vLLM's ``/health`` have no body."""


def error_body(error: VlmserveError) -> dict[str, Any]:
    """Render the body that OpenAI's clients expect.

    Args:
        error: Any error raised on purpose.

    Returns:
        ``{"error": {"message", "type", "param", "code"}}``; send it with ``error.status``.
    """
    message = error.message if error.hint is None else f"{error.message} {error.hint}"
    param = error.param if isinstance(error, RequestError) else None
    return openai_error(message, error.type, param, error.code)


async def send_error(
    send: "Send", status: int, body: dict[str, Any], headers: tuple[tuple[bytes, bytes], ...] = ()
) -> None:
    """Answer a request with an error body."""
    content = json.dumps(body).encode()
    fields = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": content})


class ErrorTranslator:
    """Pure ASGI middleware that rewrites the bodies of failed responses."""

    def __init__(self, app: "ASGIApp") -> None:
        self._app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass the request on, and rewrite its answer if that is an error."""
        if scope["type"] != "http" or context_of(scope).route in _OWN_BODIES:
            await self._app(scope, receive, send)
            return
        body = RequestBody(receive)
        answer = _Answer(send, body)
        try:
            with media_request(body.locate, body.media_fields):
                await self._app(scope, body.receive, answer.send)
        except (AttributeError, RecursionError) as error:
            # What vLLM raises at some wrong types, and at JSON within a text that nests too deep.
            refusal = translate_exception(error, body)
            if refusal is None or answer.has_begun:
                raise
            await send_error(send, *refusal)


_BUDGET_CODES = frozenset({"context_length_exceeded", "too_many_visual_tokens"})


def _count(status: int, error: dict[str, Any]) -> None:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return
    metrics.REFUSALS.labels(error["code"] or error["type"]).inc()
    if error["code"] in _BUDGET_CODES:
        metrics.BUDGET_REFUSALS.inc()


_ERROR_EVENT = b'data: {"error":'


class _Answer:
    """Holds back a failed response until it is whole, then sends it rewritten."""

    def __init__(self, send: "Send", body: RequestBody) -> None:
        self._send = send
        self._body = body
        self._failed: Message | None = None
        self._content = b""
        self.has_begun = False

    async def send(self, message: "Message") -> None:
        self.has_begun = True
        if message["type"] == "http.response.start" and message["status"] >= HTTPStatus.BAD_REQUEST:
            self._failed = message
            return
        if self._failed is None:
            await self._send(self._translated_event(message))
            return
        if message["type"] != "http.response.body":
            return
        self._content += message.get("body", b"")
        if message.get("more_body", False):
            return
        status, body = translate(self._failed["status"], self._content, self._body)
        _count(status, body["error"])
        kept = tuple(
            (name, value)
            for name, value in self._failed["headers"]
            if name.lower() not in (b"content-type", b"content-length")
        )
        if status == HTTPStatus.SERVICE_UNAVAILABLE and not any(
            name.lower() == b"retry-after" for name, _ in kept
        ):
            kept = (*kept, (b"retry-after", _RETRY_AFTER_S))
        await send_error(self._send, status, body, kept)

    def _translated_event(self, message: "Message") -> "Message":
        """Rewrite the error that a stream of server-sent events ends with."""
        body = message.get("body", b"")
        if not body.startswith(_ERROR_EVENT):
            return message
        event, separator, rest = body.partition(b"\n\n")
        content = event.removeprefix(b"data: ")
        _, translated = translate(HTTPStatus.INTERNAL_SERVER_ERROR, content, self._body)
        rewritten = b"data: " + json.dumps(translated).encode()
        return {**message, "body": rewritten + separator + rest}
