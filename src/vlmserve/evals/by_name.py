"""Makes what a suite asks for by a name and options."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

from pydantic import ValidationError

from vlmserve.config.base import StrictModel
from vlmserve.config.suite_entries import ScorerConfig
from vlmserve.errors import ConfigError

M = TypeVar("M", bound=StrictModel)


def create_by_name(
    config: ScorerConfig, known: Mapping[str, type[M]], *, what: str, place: str
) -> M:
    """Make the thing of a name.

    Args:
        config: Name and options.
        known: What there is, by name; fields are options.
        what: What these are called, for messages.
        place: Where name and options stand, such as ``suite.yaml: tasks.0.scorer``, for messages.

    Raises:
        ConfigError: There is nothing of this name, or an option is unknown or wrong.
    """
    chosen = known.get(config.name)
    if chosen is None:
        near = difflib.get_close_matches(config.name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
        raise ConfigError(f"{place}: no {what} {config.name!r}", hint=hint)
    try:
        return chosen.model_validate(config.options)
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(str(part) for part in fault["loc"]) or "options"
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            fields = chosen.model_fields.items()
            listed = ", ".join(field.alias or name for name, field in fields) or "none"
            message = f"{config.name} has no such option; it has: {listed}"
        raise ConfigError(f"{place}.{field}: {message}") from error
