"""API keys: every route asks for one, but for the health probes."""

import hashlib
import os
import secrets
from collections.abc import MutableMapping
from typing import TYPE_CHECKING

from vlmserve.config.serve import ServerConfig
from vlmserve.errors import AuthenticationError, ConfigError
from vlmserve.server.errors import error_body, send_error

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_OPEN_ROUTES = frozenset({"/health", "/ready"})


def take_api_key(
    config: ServerConfig, environ: MutableMapping[str, str] | None = None
) -> str | None:
    """Read the API key from the environment.

    vLLM's own variable is read where ours is not set, and taken away in any case: its guard covers
    a part of the routes only, and would ask for a second key.

    Args:
        config: Names the variable.
        environ: The environment to read and change; the process's own when ``None``.

    Returns:
        The key, or ``None`` where the API is open.

    Raises:
        ConfigError: A variable that was named on purpose is not set, or holds no usable key.
    """
    environ = os.environ if environ is None else environ
    name = config.api_key_env
    vllm_key = environ.pop("VLLM_API_KEY", "")
    key = (environ.get(name) or vllm_key).strip()
    if not key:
        if name != ServerConfig().api_key_env:
            raise ConfigError(f"server.api_key_env: the variable {name} holds no key")
        return None
    if not key.isascii() or not key.isprintable():
        raise ConfigError(
            f"server.api_key_env: the key in {name} has characters that no HTTP header can carry"
        )
    return key


class ApiKeyGuard:
    """Pure ASGI middleware that refuses requests without the key.

    vLLM's own guard covers a few prefixes and leaves ``/invocations``, ``/tokenize``, ``/metrics``
    and others open. This one is closed by default.

    Args:
        app: What it guards.
        key: The key that ``Authorization: Bearer`` must carry, not empty.
        open_paths: Further addresses that hold nothing to be guarded.
    """

    def __init__(self, app: "ASGIApp", key: str, open_paths: frozenset[str] = frozenset()) -> None:
        self._app = app
        self._open_paths = _OPEN_ROUTES | open_paths
        self._digest = _digest(key.encode())

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass the request on, or answer 401."""
        if scope["type"] not in ("http", "websocket") or scope["path"] in self._open_paths:
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        # A browser asks without the key whether it may send it; the answer tells nothing.
        is_preflight = (
            scope.get("method") == "OPTIONS" and b"access-control-request-method" in headers
        )
        if is_preflight or self._allowed(headers.get(b"authorization", b"")):
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
