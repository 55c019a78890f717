"""Columns of a data set that tell kinds of samples apart."""

from collections.abc import Mapping, Sequence
from typing import Any

# A column with more different values names samples rather than kinds of them.
_MAX_KINDS = 20


def telling_fields(columns: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
    """Keep the columns of a few different words or whole numbers.

    Args:
        columns: By name, the value of each sample, shape ``(n,)``.

    Returns:
        By name, the values as text, shape ``(n,)``.
    """
    return {
        name: [str(value) for value in values]
        for name, values in columns.items()
        if all(isinstance(value, str | int) for value in values)
        and 1 < len({str(value) for value in values}) <= _MAX_KINDS
    }
