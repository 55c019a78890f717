"""API keys: every route asks for one, but for the health probes."""

import hashlib
import secrets
from typing import TYPE_CHECKING

from vlmserve.errors import AuthenticationError
from vlmserve.server.errors import error_body, send_error

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_OPEN_ROUTES = frozenset({"/health", "/ready"})


class ApiKeyGuard:
    """Pure ASGI middleware that refuses requests without the key.

    vLLM's own guard covers a few prefixes and leaves ``/invocations``, ``/tokenize``, ``/metrics``
    and others open. This one is closed by default.

    Args:
        app: What it guards.
        key: The key that ``Authorization: Bearer`` must carry, not empty.
    """

    def __init__(self, app: "ASGIApp", key: str) -> None:
        self._app = app
        self._digest = _digest(key.encode())

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass the request on, or answer 401."""
        if scope["type"] not in ("http", "websocket") or scope["path"] in _OPEN_ROUTES:
            await self._app(scope, receive, send)
            return
        if self._allowed(dict(scope["headers"]).get(b"authorization", b"")):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        error = AuthenticationError("the API key is missing or wrong")
        await send_error(send, error.status, error_body(error), ((b"www-authenticate", b"Bearer"),))

    def _allowed(self, authorization: bytes) -> bool:
        scheme, _, key = authorization.partition(b" ")
        # Digests have one length, so that the comparison's time says nothing about the key.
        matches = secrets.compare_digest(_digest(key.strip()), self._digest)
        return matches and scheme.lower() == b"bearer"


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
