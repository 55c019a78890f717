"""Taking a row's fields, with words for those that are wrong."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

_MOST_CHARS = 60


class RowError(Exception):
    """A row is no sample; the message names the field."""


Row = Mapping[str, Any]
"""A row of a data file, or an object in it."""


def take_objects(row: Row, key: str) -> list[Row]:
    """A field that is a list of objects, not empty."""
    value = row.get(key)
    if not isinstance(value, list) or not value:
        raise RowError(f"{key}: a list of turns is expected, not {shorten(value)}")
    for index, item in enumerate(value):
        if not isinstance(item, dict):
            raise RowError(f"{key}[{index}]: an object is expected, not {shorten(item)}")
    return value


def take_text(row: Row, key: str, place: str = "") -> str:
    """A field that is text.

    Args:
        row: What holds the field.
        key: Its name.
        place: Where ``row`` stands, with a dot behind, for messages.
    """
    value = row.get(key)
    if not isinstance(value, str):
        raise RowError(f"{place}{key}: text is expected, not {shorten(value)}")
    return value


def first_present(row: Row, keys: Sequence[str]) -> str | None:
    """The first of some names under which the row has something."""
    return next((key for key in keys if row.get(key) not in (None, "")), None)


def shorten(value: Any) -> str:
    """A value, short enough for a message."""
    if value is None:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False, default=lambda item: type(item).__name__)
    return text if len(text) <= _MOST_CHARS else f"{text[:_MOST_CHARS]}..."
