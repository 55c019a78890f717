"""What one side of a comparison is served with: the model behind ``--baseline-config``."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError, field_validator

from vlmserve.config.base import StrictModel, load_config
from vlmserve.config.engine import EngineConfig
from vlmserve.config.serve import ServeConfig
from vlmserve.errors import ConfigError

# What can be said to differ, beside the engine's settings.
_OTHERS = ("engine", "versions", "lora", "chat_template", "asking")


class SideServerConfig(StrictModel):
    """What of a server's settings decides answers."""

    chat_template: str | None = None
    """Path of a chat template that replaces the checkpoint's own."""

    reasoning_parser: str | None = None
    """vLLM's name of a reasoning format, such as ``qwen3``."""


class SideServing(StrictModel):
    """Settings of one side, on top of those that both have."""

    engine: EngineConfig = EngineConfig()
    server: SideServerConfig = SideServerConfig()

    differs: tuple[str, ...] = ()
    """What else may differ, which is not set here: ``versions`` or ``versions.vllm`` where a run
    or an endpoint is of another vLLM, or a setting that it was served with."""

    @field_validator("differs")
    @classmethod
    def _are_settings(cls, fields: tuple[str, ...]) -> tuple[str, ...]:
        known = (*_OTHERS, *EngineConfig.model_fields)
        for field in fields:
            if field.partition(".")[0] not in known:
                raise ValueError(f"{field}: no such setting; known are {', '.join(known)}")
        return fields


@dataclass(frozen=True, slots=True)
class DeclaredServing:
    """How a side is served, and in what it may differ from the other."""

    config: ServeConfig
    declared: frozenset[str]
    """Dotted names, as a side's settings have them; what lies below one is declared as well."""

    sets: tuple[str, ...] = ()
    """Those that the side's own file sets, which only an engine of this process can honour."""


def load_side_config(path: Path | None, common: ServeConfig) -> DeclaredServing:
    """Put one side's settings on top of those that both have.

    Args:
        path: The side's file; ``None`` where it has none.
        common: What both have.

    Raises:
        ConfigError: The file is missing or does not fit; the message names file, line and field.
    """
    if path is None:
        return DeclaredServing(common, frozenset())
    side = load_config(path, SideServing)
    own = side.model_dump(exclude_unset=True, exclude={"differs"})
    merged = _merged(common.model_dump(exclude_unset=True), own)
    try:
        config = ServeConfig.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(f"{path}: {error.errors()[0]['msg']}") from error
    sets = tuple(leaf_names(own.get("engine", {})))
    names = {"chat_template": "chat_template", "reasoning_parser": "asking.reasoning_parser"}
    sets += tuple(names[key] for key in own.get("server", {}))
    return DeclaredServing(config, frozenset((*sets, *side.differs)), sets)


def leaf_names(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted names of all values of nested mappings that are no mappings themselves."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaf_names(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(old, Mapping)
        merged[key] = _merged(old, value) if both else value  # type: ignore[arg-type]
    return merged
