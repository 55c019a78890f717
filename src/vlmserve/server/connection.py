"""uvicorn 0.54's connections with an end: of their number, of their headers' size, of patience.

uvicorn waits for ever for a request's headers, takes them at any size, and answers what is no HTTP
in plain text. What is behind the headers is guarded in ``request_reader.py``.
"""

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from httptools import HttpParserError
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from vlmserve import metrics
from vlmserve.server.translation import openai_error

if TYPE_CHECKING:
    import asyncio

    from vlmserve.config.server import ServerConfig

_MAX_HEADER_BYTES = 64 * 1024


def guarded_protocol(config: "ServerConfig") -> type[HttpToolsProtocol]:
    """The class that uvicorn makes of each connection.

    Args:
        config: Holds the limits.
    """
    return type("GuardedProtocol", (_GuardedProtocol,), {"limits": config})


class _GuardedProtocol(HttpToolsProtocol):
    limits: "ServerConfig"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._patience: asyncio.TimerHandle | None = None
        self._n_header_bytes = self._n_parsed_bytes = 0
        self._in_headers = True
        self._is_silent = True

    @override
    def connection_made(self, transport: "asyncio.Transport") -> None:  # type: ignore[override]
        super().connection_made(transport)
        metrics.CONNECTIONS.set(len(self.connections))
        if len(self.connections) > self.limits.max_connections:
            metrics.REFUSALS.labels("too_many_connections").inc()
            self._end(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"{self.limits.max_connections} connections are open, which is all that this "
                "server takes",
                "too_many_connections",
            )
            return
        self._expect_headers()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._be_patient()
        super().connection_lost(exc)
        metrics.CONNECTIONS.set(len(self.connections))

    @override
    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._is_silent = False
        super().data_received(data)
        # What comes with the headers' end may be body; then they are complete by now.
        if self._in_headers:
            self._n_header_bytes += len(data)
            if self._n_header_bytes > _MAX_HEADER_BYTES:
                self._refuse_headers()

    @override
    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_headers()

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        # Those that come whole, in one piece, are told here alone.
        self._n_parsed_bytes += len(name) + len(value)
        if self._n_parsed_bytes > _MAX_HEADER_BYTES:
            raise HttpParserError  # uvicorn sends the answer to it
        super().on_header(name, value)

    @override
    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._be_patient()
        super().on_headers_complete()

    @override
    def send_400_response(self, msg: str) -> None:
        if self._n_parsed_bytes > _MAX_HEADER_BYTES:
            self._refuse_headers()
        else:
            self._end(HTTPStatus.BAD_REQUEST, "this is no HTTP request", "invalid_http")

    def _expect_headers(self) -> None:
        self._in_headers = True
        self._n_header_bytes = self._n_parsed_bytes = 0
        if self._patience is None:
            self._patience = self.loop.call_later(self.limits.header_timeout_s, self._too_slow)

    def _refuse_headers(self) -> None:
        self._end(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"the request's headers are larger than {_MAX_HEADER_BYTES} bytes",
            "headers_too_large",
        )

    def _be_patient(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _too_slow(self) -> None:
        self._patience = None
        if self.transport.is_closing():
            return
        if self._is_silent:
            self.transport.close()  # opened in advance and never used
            return
        metrics.TIMEOUTS.labels("headers").inc()
        self._end(
            HTTPStatus.REQUEST_TIMEOUT,
            f"the request's headers did not arrive within {self.limits.header_timeout_s:g} s",
            "headers_timeout",
        )

    def _end(self, status: HTTPStatus, message: str, code: str) -> None:
        """Answer without an app, and close; into the middle of an answer nothing is written."""
        if self.transport.is_closing():
            return
        answering: Any = self.cycle  # none before the first request, whatever its type says
        if answering is not None and not answering.response_complete:
            self.transport.close()
            return
        kind = (
            "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
        )
        body = json.dumps(openai_error(message, kind, None, code)).encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nx-content-type-options: nosniff\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
