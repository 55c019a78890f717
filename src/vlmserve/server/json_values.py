"""Values that JSON can write and nothing behind it can work with: half characters, huge numbers."""

import json
import re
from typing import Any

# Only bodies that have one of these are parsed here: an escaped surrogate, or many digits. The
# escapes of a whole character outside the basic plane begin alike.
_SUSPICIOUS = re.compile(rb"\\u[dD][89a-fA-F]|[0-9]{19}")
_LARGEST = 2**63 - 1


class _TooLargeError(Exception):
    """A number does not fit into 64 bits."""


def why_unusable(body: bytes) -> str | None:
    """Say what is wrong with the values of a request's JSON.

    Args:
        body: The body, which may be anything.

    Returns:
        A sentence, or ``None`` where nothing is; a body that is no JSON is told of elsewhere.
    """
    if _SUSPICIOUS.search(body) is None:
        return None
    try:
        parsed: Any = json.loads(body, parse_int=_parse_int)
    except _TooLargeError:
        return "a whole number in the request does not fit into 64 bits"
    except (ValueError, RecursionError):
        return None
    try:
        json.dumps(parsed, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "text in the request holds half a character: a surrogate without its other half"
    return None


def _parse_int(digits: str) -> int:
    if len(digits) > len(str(_LARGEST)) + 1 or abs(int(digits)) > _LARGEST:
        raise _TooLargeError
    return int(digits)
