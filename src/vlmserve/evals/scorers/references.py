"""Targets that hold several accepted answers."""

import json


def read_references(target: str) -> list[str]:
    """Read the accepted answers of a target.

    Args:
        target: A JSON list of texts, or one answer as it stands.

    Raises:
        ValueError: The list is empty or holds something else than text.
    """
    if not target.lstrip().startswith("["):
        return [target]
    try:
        found = json.loads(target)
    except (ValueError, RecursionError):
        return [target]
    if not isinstance(found, list):
        return [target]
    if not found or not all(isinstance(one, str) and one.strip() for one in found):
        raise ValueError("a list of accepted answers must hold texts, and at least one")
    return found
