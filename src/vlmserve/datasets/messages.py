"""Samples as ``messages``: OpenAI's parts, ms-swift's tags, and TRL's placeholders.

Read from ms-swift 4 dataset/preprocessor/core.py and template/template_inputs.py, TRL's
``prepare_multimodal_messages`` and qwen_vl_utils' ``fetch_video``.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from vlmserve.datasets.conversation import Conversation, Message, Slot, split_tags
from vlmserve.datasets.fields import Row, RowError, first_present, shorten, take_objects, take_text
from vlmserve.datasets.media import MediaReader
from vlmserve.datasets.sample import Medium, TurnRole

MESSAGE_KEYS = ("messages", "conversations", "conversation")
IMAGE_KEYS = ("images", "image")
VIDEO_KEYS = ("videos", "video")
SYSTEM_KEYS = ("system", "system_prompt")
QUERY_KEYS = ("query", "prompt", "input", "instruction", "question", "problem")
RESPONSE_KEYS = (
    "response", "answer", "output", "targets", "target", "answer_key", "answers", "solution",
    "text", "completion", "content",
)  # fmt: skip
"""ms-swift's names for the columns (``RowPreprocessor``, ``ResponsePreprocessor``)."""

ROLES: Mapping[str, TurnRole] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "tool_call": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "tool_response": "tool",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
    "observations": "tool",
}
"""Who speaks, in the words of OpenAI, ms-swift and ShareGPT."""

_INLINE_IMAGE = re.compile(r"<img>(.+?)</img>")


def read_openai(row: Row, media: MediaReader) -> Conversation:
    """Read a row of OpenAI messages; tags in text are text.

    Raises:
        RowError: The row is none.
    """
    return _read_messages(row, media, tags=False)


def read_ms_swift(row: Row, media: MediaReader) -> Conversation:
    """Read a row as ms-swift does: messages with tags, or query and response.

    Raises:
        RowError: The row is none.
    """
    if first_present(row, MESSAGE_KEYS) is not None or isinstance(row.get("prompt"), list):
        return _read_messages(row, media, tags=True)
    return _read_query(row, media)


def _read_messages(row: Row, media: MediaReader, *, tags: bool) -> Conversation:
    key, turns = _turns(row)
    conversation = Conversation(
        messages=[
            _read_message(turn, f"{key}[{index}].", media, tags=tags)
            for index, turn in enumerate(turns)
        ],
        images=_listed(row, IMAGE_KEYS, media.read_images),
        videos=_listed(row, VIDEO_KEYS, media.read_videos),
        put_rest_first=True,
    )
    system = first_present(row, SYSTEM_KEYS)
    if system is not None and conversation.messages[0].role != "system":
        text = take_text(row, system)
        conversation.messages.insert(0, Message("system", _split(text, tags=tags)))
    if tags and not conversation.images:
        _take_inline_images(conversation, media)
    return conversation


def _turns(row: Row) -> tuple[str, list[Row]]:
    key = first_present(row, MESSAGE_KEYS)
    if key is not None:
        return key, take_objects(row, key)
    # TRL's prompt-completion form.
    return "prompt + completion", [*take_objects(row, "prompt"), *take_objects(row, "completion")]


def _read_message(turn: Row, place: str, media: MediaReader, *, tags: bool) -> Message:
    role_key = "from" if "from" in turn and "role" not in turn else "role"
    content_key = "value" if "value" in turn and "content" not in turn else "content"
    name = take_text(turn, role_key, place)
    role = ROLES.get(name)
    if role is None:
        raise RowError(f"{place}{role_key}: {shorten(name)} is no known role")
    content = turn.get(content_key)
    if isinstance(content, list):
        parts = tuple(_read_parts(content, f"{place}{content_key}", media))
    elif turn.get("tool_calls"):
        calls = json.dumps(turn["tool_calls"], ensure_ascii=False)
        parts = (*_split(content, tags=tags), calls) if content else (calls,)
    elif isinstance(content, dict) and name in {"tool_call", "tool_response", "tool"}:
        parts = (json.dumps(content, ensure_ascii=False),)
    else:
        parts = _split(take_text(turn, content_key, place), tags=tags)
    return Message(role, parts, is_trained=_is_trained(turn, place))


def _is_trained(turn: Row, place: str) -> bool:
    loss = turn.get("loss")
    if loss not in (None, True, False):
        raise RowError(f"{place}loss: true or false is expected, not {shorten(loss)}")
    return loss is not False and turn.get("loss_scale") != 0


def _split(text: str, *, tags: bool) -> tuple[str | Slot, ...]:
    if tags:
        return split_tags(text)
    return (text,) if text else ()


def _read_parts(
    content: list[Any], place: str, media: MediaReader
) -> Iterator[str | Slot | Medium]:
    for index, part in enumerate(content):
        here = f"{place}[{index}]"
        if isinstance(part, str):
            yield part
            continue
        if not isinstance(part, dict):
            raise RowError(f"{here}: an object is expected, not {shorten(part)}")
        yield _read_part(part, here, media)


def _read_part(part: Row, here: str, media: MediaReader) -> str | Slot | Medium:
    kind = part.get("type")
    if kind == "text":
        return take_text(part, "text", f"{here}.")
    if kind in {"image", "image_url"}:
        key = first_present(part, ("image", "image_url", "url", "path", "base64"))
        if key is None:
            return Slot("image", "<image>")
        value = f"data:;base64,{part[key]}" if key == "base64" else part[key]
        return media.read_one("image", value, f"{here}.{key}")
    if kind in {"video", "video_url"}:
        key = first_present(part, ("video", "video_url", "url", "path"))
        if key is None:
            return Slot("video", "<video>")
        rate = first_present(part, ("sample_fps", "fps"))
        return media.read_video(
            part[key], f"{here}.{key}", None if rate is None else _read_rate(part, rate, here)
        )
    raise RowError(f"{here}.type: {shorten(kind)} is neither text, image nor video")


def _read_rate(part: Row, key: str, here: str) -> float:
    value = part[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise RowError(f"{here}.{key}: a positive number is expected, not {shorten(value)}")
    return float(value)


def _listed(row: Row, keys: tuple[str, ...], read: Any) -> list[Medium]:
    key = first_present(row, keys)
    media: list[Medium] = [] if key is None else read(row[key], key)
    return media


def _take_inline_images(conversation: Conversation, media: MediaReader) -> None:
    """``<img>path</img>`` in the text, ms-swift's older spelling (``_replace_image_tags``)."""
    for index, message in enumerate(conversation.messages):
        parts: list[str | Slot | Medium] = []
        for part in message.parts:
            if not isinstance(part, str) or "<img>" not in part:
                parts.append(part)
                continue
            for place, piece in enumerate(_INLINE_IMAGE.split(part)):
                if place % 2:
                    parts.append(media.read_one("image", piece, "<img>"))
                elif piece:
                    parts.append(piece)
        conversation.messages[index] = Message(message.role, tuple(parts), message.is_trained)


def _read_query(row: Row, media: MediaReader) -> Conversation:
    query = first_present(row, QUERY_KEYS)
    response = first_present(row, RESPONSE_KEYS)
    if query is None or response is None:
        missing = "query" if query is None else "response"
        raise RowError(f"{missing}: neither messages nor {missing}")
    messages = []
    system = first_present(row, SYSTEM_KEYS)
    if system is not None:
        messages.append(Message("system", split_tags(take_text(row, system))))
    messages += read_history(row.get("history"))
    answer = row[response]
    if isinstance(answer, list) and answer and isinstance(answer[0], str):
        answer = answer[0]  # ms-swift trains on the first of several
    messages += [
        Message("user", split_tags(take_text(row, query))),
        Message("assistant", split_tags(take_text({response: answer}, response))),
    ]
    return Conversation(
        messages=messages,
        images=_listed(row, IMAGE_KEYS, media.read_images),
        videos=_listed(row, VIDEO_KEYS, media.read_videos),
        put_rest_first=True,
    )


def read_history(value: Any) -> list[Message]:
    """Read earlier rounds: a list of pairs of question and answer.

    Raises:
        RowError: It is something else.
    """
    if value in (None, ""):
        return []
    if not isinstance(value, list):
        raise RowError(f"history: a list of pairs is expected, not {shorten(value)}")
    messages = []
    roles: tuple[TurnRole, TurnRole] = ("user", "assistant")
    for index, pair in enumerate(value):
        if not isinstance(pair, list | tuple) or len(pair) != len(roles):
            raise RowError(f"history[{index}]: a pair is expected, not {shorten(pair)}")
        for role, text in zip(roles, pair, strict=True):
            if text is None:
                continue
            if not isinstance(text, str):
                raise RowError(f"history[{index}]: text is expected, not {shorten(text)}")
            messages.append(Message(role, split_tags(text)))
    return messages
