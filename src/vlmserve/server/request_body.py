"""Remembers a request's body as it passes, to name the field that an error is about."""

import json
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import Message, Receive

_PROMPT_FIELDS = ("messages", "input", "prompt")
"""Where chat completions, responses and completions hold the prompt."""

_MEDIA_KEYS = {"image_url": "image", "video_url": "video", "audio_url": "audio"}
_OTHER_PART_TYPES = frozenset(
    {"text", "refusal", "input_text", "output_text", "input_image", "input_audio", "input_file"}
)


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

    @cached_property
    def content(self) -> dict[str, Any]:
        """The body as an object; empty when it is none."""
        try:
            body = json.loads(b"".join(self._chunks))
        except ValueError:
            return {}
        return body if isinstance(body, dict) else {}

    @property
    def prompt_field(self) -> str | None:
        """The field that holds the prompt."""
        return next((name for name in _PROMPT_FIELDS if name in self.content), None)

    def locate(self, url: str) -> str | None:
        """Find the field that holds a media URL, such as ``messages[1].content[3].image_url``."""
        for field, _, value in self._media():
            if value == url:
                return field
        return None

    def media_fields(self, kind: str) -> list[str]:
        """List the fields that hold media of one kind (``image``, ``video``), in reading order."""
        return [field for field, found, _ in self._media() if found == kind]

    def first_unknown_part(self) -> tuple[str, str] | None:
        """Find the first content part of a type that no API has: its field and its type."""
        for field, part in self._parts():
            kind = part.get("type")
            if kind not in _OTHER_PART_TYPES and kind not in _MEDIA_KEYS:
                return field, str(kind)
        return None

    def _parts(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for name in _PROMPT_FIELDS:
            messages = self.content.get(name)
            for i, message in enumerate(messages if isinstance(messages, list) else ()):
                parts = message.get("content") if isinstance(message, dict) else None
                for j, part in enumerate(parts if isinstance(parts, list) else ()):
                    if isinstance(part, dict):
                        yield f"{name}[{i}].content[{j}]", part

    def _media(self) -> Iterator[tuple[str, str, str | None]]:
        """Yield field, kind and URL of every medium."""
        for field, part in self._parts():
            for key, kind in _MEDIA_KEYS.items():
                if key in part:
                    value = part[key]
                    url = value.get("url") if isinstance(value, dict) else value
                    yield f"{field}.{key}", kind, url if isinstance(url, str) else None
