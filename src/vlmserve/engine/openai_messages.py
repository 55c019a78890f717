"""Spells messages the way OpenAI's chat API and vLLM's chat parser read them."""

import base64
from collections.abc import Sequence
from typing import Any

from vlmserve.chat import ImagePart, Message, Part, TextPart, VideoPart


def openai_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Spell a conversation as OpenAI's ``messages``; media travel as data URLs of their bytes."""
    return [
        {"role": message.role, "content": [_part(part) for part in message.parts]}
        for message in messages
    ]


def _part(part: Part) -> dict[str, Any]:
    match part:
        case TextPart():
            return {"type": "text", "text": part.text}
        case ImagePart():
            return {"type": "image_url", "image_url": {"url": _data_url(part)}}
        case VideoPart():
            return {"type": "video_url", "video_url": {"url": _data_url(part)}}


def _data_url(part: ImagePart | VideoPart) -> str:
    return f"data:{part.content_type};base64,{base64.b64encode(part.data).decode()}"
