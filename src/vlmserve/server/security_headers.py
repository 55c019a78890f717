"""Headers that keep browsers from doing more with an answer than reading it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")


class SecurityHeaders:
    """Pure ASGI middleware that adds what an answer does not say itself.

    A page brings the policy that it needs along; everything else is data, from which a browser may
    load nothing.
    """

    def __init__(self, app: "ASGIApp") -> None:
        self._app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass the request on and complete its answer's headers."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: "Message") -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": _complete(list(message["headers"]))}
            await send(message)

        await self._app(scope, receive, send_guarded)


def _complete(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    given = {name.lower(): value for name, value in headers}
    added = [pair for pair in _ALWAYS if pair[0] not in given]
    is_page = given.get(b"content-type", b"").startswith(b"text/html")
    if not is_page and _POLICY[0] not in given:
        added.append(_POLICY)
    return headers + added
