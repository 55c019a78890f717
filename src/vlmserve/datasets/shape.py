"""Which format a row has, by its shape."""

from typing import Any, Literal, get_args

from vlmserve.datasets.conversation import TAGS
from vlmserve.datasets.fields import Row, first_present
from vlmserve.datasets.messages import (
    IMAGE_KEYS,
    MESSAGE_KEYS,
    QUERY_KEYS,
    RESPONSE_KEYS,
    VIDEO_KEYS,
)

Format = Literal["openai", "ms-swift", "sharegpt", "alpaca", "llava", "vlmevalkit"]
"""What data sets are written in; a table with tabs is of the last."""

FORMATS: tuple[Format, ...] = get_args(Format)
"""In the order in which a format is taken where a row has the shape of several."""

_MEDIA_KEYS = (*IMAGE_KEYS, *VIDEO_KEYS)
_TABLE_KEYS = frozenset(("index", "question", "answer"))
_MESSAGES = frozenset[Format](("openai", "ms-swift"))
_SWIFT = frozenset[Format](("ms-swift",))


def possible_formats(row: Any) -> frozenset[Format]:
    """The formats that a row could be of; none where it has the shape of no sample.

    Text alone looks alike in several. ``messages`` are ms-swift's where tags in their text or
    columns beside them say so, since OpenAI's format puts media into the content.
    """
    if not isinstance(row, dict):
        return frozenset()
    key = first_present(row, MESSAGE_KEYS)
    if key is not None:
        return _of_turns(row, key, row[key])
    if isinstance(row.get("prompt"), list) and isinstance(row.get("completion"), list):
        return _of_turns(row, "messages", [*row["prompt"], *row["completion"]])
    return _of_columns(row)


def _of_columns(row: Row) -> frozenset[Format]:
    if "instruction" in row and "output" in row:
        return frozenset(("alpaca",))
    if row.keys() >= _TABLE_KEYS and ("image_path" in row or "A" in row):
        return frozenset(("vlmevalkit",))
    if first_present(row, QUERY_KEYS) and first_present(row, RESPONSE_KEYS):
        return _SWIFT
    return frozenset()


def _of_turns(row: Row, key: str, turns: Any) -> frozenset[Format]:
    if not isinstance(turns, list):
        return _SWIFT if key == "messages" else frozenset(("sharegpt",))
    is_sharegpt = any(isinstance(turn, dict) and "from" in turn for turn in turns)
    if is_sharegpt and key == "conversations":
        return _of_conversations(row)
    if is_sharegpt or key != "messages":
        return _SWIFT
    contents = [turn.get("content") for turn in turns if isinstance(turn, dict)]
    if any(isinstance(content, list) for content in contents):
        return _MESSAGES
    has_tags = any(
        tag in content for content in contents if isinstance(content, str) for tag in TAGS
    )
    has_loss = any("loss" in turn for turn in turns if isinstance(turn, dict))
    if has_tags or has_loss or any(row.get(name) for name in (*_MEDIA_KEYS, "objects")):
        return _SWIFT
    return _MESSAGES


def _of_conversations(row: Row) -> frozenset[Format]:
    if row.get("image") or row.get("video"):
        return frozenset(("llava",))
    if row.get("images") or row.get("videos"):
        return frozenset(("sharegpt",))
    return frozenset(("sharegpt", "llava"))
