"""Reads a request's body before anything is made of it: its size, its pace, its nesting."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vlmserve.errors import (
    BodyTooLargeError,
    OverloadedError,
    RequestError,
    SlowRequestError,
    VlmserveError,
)
from vlmserve.server.context import RequestContext, context_of, header
from vlmserve.server.json_depth import nests_deeper
from vlmserve.server.json_values import why_unusable
from vlmserve.server.refusal import refuse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from vlmserve.config.server import ServerConfig

_LINGER_S = 10.0
_LINGER_BYTES = 64 * 2**20
_RETRY_AFTER_S = 5


class _ClientLeftError(Exception):
    """The client closed the connection while it sent its body."""


class RequestReader:
    """Pure ASGI middleware that reads the whole body, within the operator's limits.

    The app behind it finds the body in the request's context and in the first message that it
    receives; every later message is that the client has left.

    Args:
        app: What comes behind.
        config: Holds the limits.
        max_body_bytes: Size of one body.
    """

    def __init__(self, app: "ASGIApp", config: "ServerConfig", max_body_bytes: int) -> None:
        self._app = app
        self._config = config
        self._max_bytes = max_body_bytes
        self._n_held = 0

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Read the body and pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = context_of(scope)
        with self._holding() as held:
            try:
                context.body = await self._read(scope, receive, held)
            except _ClientLeftError:
                context.refused = "client_left"
                return
            except VlmserveError as error:
                if held.is_arriving and not isinstance(error, SlowRequestError):
                    await self._linger(scope, receive)
                await refuse(scope, send, error, close=True)
                return
            refusal = self._judge(scope, context.body)
            if refusal is not None:
                await refuse(scope, send, refusal)
                return
            await self._app(scope, _replay(context, receive), send)

    async def _read(self, scope: "Scope", receive: "Receive", held: "_Held") -> bytes:
        length = _content_length(scope)
        if length is not None:
            self._check_size(length)
            held.take(length)
        chunks: list[bytes] = []
        n_bytes = 0
        deadline = time.monotonic() + self._config.body_timeout_s
        while held.is_arriving:
            message = await self._next(receive, deadline)
            chunk = message.get("body", b"")
            n_bytes += len(chunk)
            held.is_arriving = message.get("more_body", False)
            self._check_size(n_bytes)
            if length is None:
                held.take(len(chunk))
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _next(self, receive: "Receive", deadline: float) -> "Message":
        left_s = min(self._config.body_idle_timeout_s, deadline - time.monotonic())
        try:
            async with asyncio.timeout(max(left_s, 0.0)):
                message = await receive()
        except TimeoutError:
            raise SlowRequestError(
                f"the request's body did not arrive within {self._config.body_timeout_s:g} s, or "
                f"nothing of it came for {self._config.body_idle_timeout_s:g} s"
            ) from None
        if message["type"] == "http.disconnect":
            raise _ClientLeftError
        return message

    def _check_size(self, n_bytes: int) -> None:
        if n_bytes > self._max_bytes:
            raise BodyTooLargeError(
                f"the request's body is larger than {self._max_bytes} bytes; the operator can "
                "raise server.max_body_bytes"
            )

    def _judge(self, scope: "Scope", body: bytes) -> RequestError | None:
        """What is wrong with a body's JSON that nothing behind here would say well."""
        if (header(scope, b"content-type") or "").startswith("multipart/"):
            return None
        limit = self._config.max_json_depth
        if nests_deeper(body, limit):
            return RequestError(
                f"the request's JSON nests deeper than {limit}; the operator can raise "
                "server.max_json_depth",
                code="json_too_deep",
            )
        reason = why_unusable(body)
        return None if reason is None else RequestError(reason, code="unusable_value")

    @contextlib.contextmanager
    def _holding(self) -> Iterator["_Held"]:
        held = _Held(self)
        try:
            yield held
        finally:
            self._n_held -= held.n_bytes

    def reserve(self, n_bytes: int) -> None:
        """Count bytes as held in memory.

        Raises:
            OverloadedError: All requests together hold as many as they may.
        """
        limit = self._config.max_buffered_bytes
        if self._n_held + n_bytes > limit:
            raise OverloadedError(
                f"the requests that are in hold {self._n_held} bytes, and this one does not fit "
                f"beside them into {limit}",
                retry_after_s=_RETRY_AFTER_S,
            )
        self._n_held += n_bytes

    async def _linger(self, scope: "Scope", receive: "Receive") -> None:
        """Read on for a moment: a client that still sends would miss an answer sent before."""
        if (header(scope, b"expect") or "").lower() == "100-continue":
            return
        n_bytes = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                while n_bytes < _LINGER_BYTES:
                    message = await receive()
                    n_bytes += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return


class _Held:
    """The bytes of one request's body that count as held."""

    def __init__(self, reader: RequestReader) -> None:
        self._reader = reader
        self.n_bytes = 0
        self.is_arriving = True
        """Whether more of it is to come."""

    def take(self, n_bytes: int) -> None:
        self._reader.reserve(n_bytes)
        self.n_bytes += n_bytes


def _content_length(scope: "Scope") -> int | None:
    text = header(scope, b"content-length")
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def _replay(context: RequestContext, receive: "Receive") -> "Receive":
    given = False

    async def replay() -> "Message":
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": context.body, "more_body": False}

    return replay
