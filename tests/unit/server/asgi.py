"""Drives ASGI apps through the protocol itself."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Headers = Sequence[tuple[bytes, bytes]]


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


async def echo(scope: Any, receive: Any, send: Any) -> None:
    message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message["body"]})


def streamer(gate: asyncio.Event | None = None) -> Any:
    """An app that streams one event, and a second one when the gate opens."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        event = {"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True}
        await send(event)
        if gate is not None:
            await gate.wait()
        await send({**event, "more_body": False})

    return app


@dataclass
class Answer:
    """What an app sent."""

    messages: list[Any] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.messages[0]["headers"])

    @property
    def content(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.content)["error"]
        return error


class Client:
    """One request to an app, whose client can leave.

    Args:
        app: The app.
        body: The body's chunks; the client is silent when ``more`` is set and all are sent.
    """

    def __init__(
        self,
        app: Any,
        path: str = "/v1/chat/completions",
        *,
        body: Any = None,
        chunks: Sequence[bytes] | None = None,
        headers: Headers = (),
        method: str = "POST",
        more: bool = False,
        root_path: str = "",
    ) -> None:
        content = [json.dumps(body).encode()] if chunks is None else list(chunks)
        self._messages = [
            {"type": "http.request", "body": chunk, "more_body": more or i + 1 < len(content)}
            for i, chunk in enumerate(content)
        ]
        self._app = app
        self.left = asyncio.Event()
        self.answer = Answer()
        self.scope: dict[str, Any] = {
            "type": "http",
            "path": path,
            "method": method,
            "headers": list(headers),
            "client": ("10.0.0.9", 1),
            "root_path": root_path,
        }

    async def ask(self) -> Answer:
        await self._app(self.scope, self._receive, self._send)
        return self.answer

    async def _receive(self) -> Any:
        if self._messages:
            return self._messages.pop(0)
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.answer.messages.append(message)


def ask(app: Any, path: str = "/v1/chat/completions", **more: Any) -> Answer:
    """Ask an app once, with an event loop of its own."""

    async def run() -> Answer:
        return await asyncio.wait_for(Client(app, path, **more).ask(), 30)

    return asyncio.run(run())
