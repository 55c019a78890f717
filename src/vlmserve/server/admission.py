"""Lets requests in while the server is ready, and counts those that run."""

import asyncio
import contextlib
from typing import TYPE_CHECKING

from vlmserve.errors import EngineUnavailableError
from vlmserve.server.errors import error_body, send_error

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_ALWAYS_OPEN = frozenset({"/health", "/ready", "/metrics", "/ping", "/version"})


class Admission:
    """Whether requests are taken, and how many are being answered."""

    def __init__(self) -> None:
        self._draining = False
        self._n_running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def is_open(self) -> bool:
        """Whether new requests are taken."""
        return not self._draining

    @property
    def n_running(self) -> int:
        """Requests that are being answered, streams included."""
        return self._n_running

    def close(self) -> None:
        """Refuse new requests from now on; those that run go on."""
        self._draining = True

    async def drained(self, timeout_s: float) -> bool:
        """Wait until no request runs, for at most ``timeout_s`` seconds; say whether that came."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        return self._idle.is_set()

    def enter(self) -> None:
        """Count a request in."""
        self._n_running += 1
        self._idle.clear()

    def leave(self) -> None:
        """Count a request out."""
        self._n_running -= 1
        if self._n_running == 0:
            self._idle.set()


class AdmissionGate:
    """Pure ASGI middleware that answers 503 while the server drains."""

    def __init__(self, app: "ASGIApp", admission: Admission) -> None:
        self._app = app
        self._admission = admission

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass the request on and count it, or answer 503."""
        if scope["type"] != "http" or scope["path"] in _ALWAYS_OPEN:
            await self._app(scope, receive, send)
            return
        if not self._admission.is_open:
            error = EngineUnavailableError("the server is shutting down; try another one")
            await send_error(
                send,
                error.status,
                error_body(error),
                ((b"retry-after", b"1"), (b"connection", b"close")),
            )
            return
        self._admission.enter()
        try:
            await self._app(scope, receive, send)
        finally:
            self._admission.leave()
