"""Spells messages the way OpenAI's chat API and vLLM's chat parser read them."""

import base64
from collections.abc import Sequence
from typing import Any

from vlmserve.chat import FramesPart, ImagePart, Message, Part, TextPart, VideoPart


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
        case FramesPart():
            return {"type": "video_url", "video_url": {"url": _frames_url(part)}}


def _frames_url(part: FramesPart) -> str:
    """Spell a list of pictures as vLLM reads it, whatever kind of pictures they are.

    The rate is a parameter that vlmserve's servers read; others refuse it, rather than take the
    frames for those of another rate.
    """
    rate = part.frames_per_second
    about = "video/jpeg" if rate is None else f"video/jpeg;fps={rate:g}"
    frames = (base64.b64encode(frame).decode() for frame in part.frames)
    return f"data:{about};base64,{','.join(frames)}"


def _data_url(part: ImagePart | VideoPart) -> str:
    return f"data:{part.content_type};base64,{base64.b64encode(part.data).decode()}"
