"""Refuses media in content parts of another type.

vLLM 0.32 (``renderers/chat_utils.py``) reads of a part what belongs to its type and hands most
other keys to the chat template. Templates look for keys such as ``image``: in a part of type text
they write the tokens of an image that is not there. What vLLM knows and does not read, such as an
``image_url`` beside a text, would be left out without a word.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_MEDIA_KEY = re.compile(r"(input_)?(image|video|audio)s?(_.*)?")

_OWN_KEYS = {"input_image": "image_url"}
"""Where the key of a type has another name than the type."""

_KNOWN_KEYS = (
    "image_url", "image_pil", "image_embeds", "audio_embeds", "video_embeds", "audio_url",
    "input_audio", "video_url",
)  # fmt: skip
"""What vLLM reads, in the order in which it looks into a part that has no type or has a uuid."""


def find_foreign_medium(messages: Iterable[Any]) -> tuple[str, str] | None:
    """Find a medium in a part of another type.

    Args:
        messages: Those of a chat.

    Returns:
        The dotted field, such as ``messages[0].content[1].image``, and what is wrong with it;
        ``None`` where each part has what belongs to its type.
    """
    for field, part in _parts(messages):
        own = _own_key(part)
        for key, value in part.items():
            # Clients write null for what they leave out; a template looks for other keys' names.
            if key == own or (value is None and key in _KNOWN_KEYS):
                continue
            if isinstance(key, str) and _MEDIA_KEY.fullmatch(key):
                return f"{field}.{key}", _wrong(part)
    return None


def _own_key(part: Mapping[Any, Any]) -> str | None:
    kind = part.get("type")
    if isinstance(kind, str):
        return _OWN_KEYS.get(kind, kind)
    return next((key for key in _KNOWN_KEYS if key in part), None)


def _wrong(part: Mapping[Any, Any]) -> str:
    kind = part.get("type")
    of_type = f" of type {kind}" if isinstance(kind, str) else ""
    return (
        f"a part{of_type} cannot hold this; give each image and video a part of its own, of type "
        "image_url or video_url"
    )


def _parts(messages: Iterable[Any]) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    for i, message in enumerate(messages):
        parts = message.get("content") if isinstance(message, Mapping) else None
        for j, part in enumerate(parts if isinstance(parts, list) else ()):
            if isinstance(part, Mapping):
                yield f"messages[{i}].content[{j}]", part
