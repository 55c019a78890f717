"""Remembers a request's body as it passes, to name the field that an error is about."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import Message, Receive


class RequestBody:
    """The body of one request, read along with the app and parsed only when asked.

    Requests that succeed never pay for parsing.

    Args:
        receive: The ASGI channel that the body comes from.
    """

    def __init__(self, receive: "Receive") -> None:
        self._receive = receive
        self._chunks: list[bytes] = []

    async def receive(self) -> "Message":
        """Hand the app the next message of the request."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._chunks.append(message.get("body", b""))
        return message

    def locate(self, url: str) -> str | None:
        """Find the field that holds a media URL, such as ``messages[1].content[3].image_url``."""
        for field, _, value in self._media():
            if value == url:
                return field
        return None

    def media_fields(self, kind: str) -> list[str]:
        """List the fields that hold media of one kind (``image``, ``video``), in reading order."""
        return [field for field, found, _ in self._media() if found == kind]

    def _media(self) -> Iterator[tuple[str, str, str | None]]:
        """Yield field, kind and URL of every medium in chat ``messages`` or responses ``input``."""
        try:
            body = json.loads(b"".join(self._chunks))
        except ValueError:
            return
        if not isinstance(body, dict):
            return
        for name in ("messages", "input"):
            messages = body.get(name)
            for i, message in enumerate(messages if isinstance(messages, list) else ()):
                content = message.get("content") if isinstance(message, dict) else None
                for j, part in enumerate(content if isinstance(content, list) else ()):
                    if isinstance(part, dict):
                        yield from _part_media(f"{name}[{i}].content[{j}]", part)


def _part_media(field: str, part: dict[str, Any]) -> Iterator[tuple[str, str, str | None]]:
    for kind in ("image", "video", "audio"):
        key = f"{kind}_url"
        if key not in part:
            continue
        value = part[key]
        url = value.get("url") if isinstance(value, dict) else value
        yield f"{field}.{key}", kind, url if isinstance(url, str) else None
