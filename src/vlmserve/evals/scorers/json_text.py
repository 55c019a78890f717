"""JSON in the words of a model."""

import json
import re
from typing import Any, NoReturn

_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)\n?\s*```", re.DOTALL)


def read_json(text: str) -> Any:
    """Read a text that is JSON, or holds one fenced block of it.

    Raises:
        ValueError: It is neither.
    """
    blocks = _FENCE.findall(text)
    return parse_json(blocks[0] if len(blocks) == 1 else text)


def parse_json(text: str) -> Any:
    """Parse a JSON value.

    Raises:
        ValueError: It is none; NaN and infinities are none.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
