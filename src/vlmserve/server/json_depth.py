"""How deep a JSON text nests, told without parsing it."""

import re

_STRUCTURE = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[{]|[\]}]', re.DOTALL)


def nests_deeper(content: bytes, limit: int) -> bool:
    """Whether arrays and objects lie more than ``limit`` deep in one another.

    Parsers recurse, or build a million objects, before they notice. Time is linear in the size, and
    texts with few brackets, such as those that hold an image, are told by counting.

    Args:
        content: What should be JSON; anything.
        limit: The greatest depth that is fine.
    """
    if not _opens_more(content, limit):
        return False
    depth = 0
    for match in _STRUCTURE.finditer(content):
        first = content[match.start()]
        if first in b"[{":
            depth += 1
            if depth > limit:
                return True
        elif first in b"]}":
            depth -= 1
    return False


def _opens_more(content: bytes, limit: int) -> bool:
    """Whether more than ``limit`` brackets open, in strings or not; looks no further than that."""
    n_found = 0
    for bracket in (b"[", b"{"):
        at = content.find(bracket)
        while at >= 0:
            n_found += 1
            if n_found > limit:
                return True
            at = content.find(bracket, at + 1)
    return False
