"""Gives each request an id, and writes one line about it when it has been answered.

The line holds no prompt, no medium, no key and no query: method, path, status, time, the key's name
and the id, which the client finds in ``X-Request-Id`` and vLLM in its own log.
"""

import logging
import re
import uuid
from http import HTTPStatus
from typing import TYPE_CHECKING

from vlmserve import metrics
from vlmserve.server.context import RequestContext, attach, header, route_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOG = logging.getLogger(__name__)

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+=-]{0,127}")
_MAX_PATH_CHARS = 120
_CLIENT_LEFT = 499
_QUIET = frozenset({"/health", "/ready", "/metrics", "/ping"})
"""Asked every few seconds; logged only where they fail."""

_ROUTES = frozenset(
    {
        "/v1/chat/completions",
        "/v1/chat/completions/budget",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/models",
        "/tokenize",
        "/detokenize",
        "/health",
        "/ready",
        "/version",
        "/metrics",
    }
)


class RequestLog:
    """Pure ASGI middleware, the outermost: ids, the access log, and counts of what was answered.

    Args:
        app: What comes behind.
        enabled: Whether to write lines; ids and counts are kept in any case.
    """

    def __init__(self, app: "ASGIApp", *, enabled: bool) -> None:
        self._app = app
        self._enabled = enabled

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass the request on with its id, and log its end."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = RequestContext(request_id=_request_id(scope), route=route_of(scope))
        attach(scope, context)
        identified = (b"x-request-id", context.request_id.encode())
        kept = [pair for pair in scope["headers"] if pair[0] != b"x-request-id"]
        scope["headers"] = [*kept, identified]
        status = 0

        async def send_with_id(message: "Message") -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                others = [pair for pair in message["headers"] if pair[0] != b"x-request-id"]
                message = {**message, "headers": [*others, identified]}
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            status = status or HTTPStatus.INTERNAL_SERVER_ERROR
            raise
        finally:
            self._finish(scope, context, status or _CLIENT_LEFT)

    def _finish(self, scope: "Scope", context: RequestContext, status: int) -> None:
        if context.refused == "client_left":
            status = _CLIENT_LEFT
        took_s = context.age_s()
        route = context.route if context.route in _ROUTES else "other"
        metrics.REQUESTS.labels(route, status).inc()
        metrics.REQUEST_SECONDS.labels(route).observe(took_s)
        failed = status >= HTTPStatus.BAD_REQUEST
        if not self._enabled or (context.route in _QUIET and not failed):
            return
        _LOG.info(
            "%s %s %d %.3f s%s key=%s client=%s id=%s",
            scope["method"],
            _printable(context.route),
            status,
            took_s,
            f" {context.refused}" if context.refused else "",
            context.key_name or "-",
            (scope.get("client") or ("-",))[0],
            context.request_id,
        )


def _request_id(scope: "Scope") -> str:
    """The client's own id where it is a plain word, or else a new one."""
    given = header(scope, b"x-request-id")
    return given if given is not None and _ID.fullmatch(given) else uuid.uuid4().hex


def _printable(path: str) -> str:
    shown = "".join(c if c.isprintable() and c != " " else "?" for c in path[:_MAX_PATH_CHARS])
    return shown if len(path) <= _MAX_PATH_CHARS else f"{shown}..."
