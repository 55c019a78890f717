"""Remembers over a restart which adapters were rolled out, and what aliases stand for."""

import json
import logging
import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from vlmserve.config.base import StrictModel
from vlmserve.errors import ConfigError

_LOG = logging.getLogger(__name__)


class AdapterState(StrictModel):
    """What was rolled out."""

    adapters: dict[str, str] = Field(default_factory=dict)
    """Directory below the operator's root, by the adapter's name."""

    aliases: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(default_factory=dict)
    """What each alias has stood for, the present adapter last."""


def load_state(place: str | None) -> AdapterState:
    """Read the state; an absent file, or none at all, is an empty one.

    Raises:
        ConfigError: The file cannot be read or is broken.
    """
    if place is None:
        return AdapterState()
    try:
        return AdapterState.model_validate_json(Path(place).read_bytes())
    except FileNotFoundError:
        return AdapterState()
    except OSError as error:
        raise ConfigError(f"server.adapter_state: {place}: {error.strerror}") from error
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ConfigError(f"server.adapter_state: {place}: {reason}") from error


def save_state(place: str | None, state: AdapterState) -> None:
    """Write the state; where that fails, the log says so and the server goes on."""
    if place is None:
        return
    path = Path(place)
    part = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        part.write_text(json.dumps(state.model_dump(), indent=1))
        part.replace(path)
    except OSError as error:
        _LOG.error(
            "server.adapter_state: %s: %s; a restart will not bring back this change",
            place,
            error.strerror,
        )
