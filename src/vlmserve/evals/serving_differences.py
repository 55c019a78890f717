"""In what two sides are served and asked differently, and whether somebody meant it."""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vlmserve.errors import ConfigError
from vlmserve.evals.answering import Side

Reason = Literal["declared", "checkpoint", "suite"]

_ENDPOINT = "endpoint"
_MAX_SHOWN = 8


@dataclass(frozen=True, slots=True)
class ServingDifference:
    """One setting that two sides do not have in common."""

    field: str
    """Its dotted name in a side's settings."""

    before: Any
    after: Any
    reason: Reason
    """Who meant it: a configuration of one side, the checkpoint that brings it along, or the
    suite that asks its sides differently."""

    @property
    def text(self) -> str:
        """The setting with both values."""
        return f"{self.field}: {_shown(self.before)} | {_shown(self.after)}"


def find_serving_differences(
    before: Side, candidate: Side, *, declared: Collection[str], by_suite: Collection[str] = ()
) -> list[ServingDifference]:
    """Compare how two sides are served, and refuse what nobody declared.

    Args:
        before: The baseline or an anchor.
        candidate: What is judged.
        declared: Dotted names of settings that may differ, with all that lies below them.
        by_suite: Those that the suite sets differently for its sides.

    Returns:
        What differs.

    Raises:
        ConfigError: Something differs that is neither declared nor comes with a checkpoint; the
            message names all of it.
    """
    found: list[ServingDifference] = []
    refused: list[ServingDifference] = []
    own = before.own_settings | candidate.own_settings
    for field, old, new in _differing(*_comparable(before.settings, candidate.settings)):
        if _covers(declared, field):
            found.append(ServingDifference(field, old, new, "declared"))
        elif _covers(by_suite, field):
            found.append(ServingDifference(field, old, new, "suite"))
        elif _covers(own, field):
            found.append(ServingDifference(field, old, new, "checkpoint"))
        else:
            refused.append(ServingDifference(field, old, new, "declared"))
    if refused:
        _refuse(before, candidate, refused)
    return found


def settings_differences(
    old: Mapping[str, Any], new: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    """What is known to differ between two sides' settings: dotted name, and both values."""
    return list(_differing(*_comparable(old, new)))


def named_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> frozenset[str]:
    """Dotted names of what differs in two sets of settings."""
    return frozenset(field for field, _, _ in _differing(old, new))


def _refuse(before: Side, candidate: Side, refused: list[ServingDifference]) -> None:
    shown = "".join(f"\n  {each.text}" for each in refused[:_MAX_SHOWN])
    more = f"\n  and {len(refused) - _MAX_SHOWN} more" if len(refused) > _MAX_SHOWN else ""
    names = ", ".join(each.field for each in refused[:_MAX_SHOWN])
    raise ConfigError(
        f"{before.name} and {candidate.name} are not comparable: they differ in{shown}{more}",
        hint=f"if that is what you want to compare, say so: --candidate-config FILE with "
        f"differs: [{names}]",
    )


def _comparable(
    old: Mapping[str, Any], new: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is known of both."""
    if _ENDPOINT not in (old.get("engine"), new.get("engine")):
        return dict(old), dict(new)
    hidden = {"engine", "url", "urls", "model"}
    keys = ((old.keys() & new.keys()) | {"asking"}) - hidden
    before, after = ({key: each[key] for key in keys if key in each} for each in (old, new))
    for key in ("versions",):
        if key in keys:
            # Versions that one of them does not state are not known to differ.
            both = before[key].keys() & after[key].keys()
            before[key] = {name: before[key][name] for name in both}
            after[key] = {name: after[key][name] for name in both}
    return before, after


def _differing(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        if isinstance(before, Mapping) or isinstance(after, Mapping):
            # A missing mapping has nothing of what the other one has.
            yield from _differing(_mapping(before), _mapping(after), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", before, after


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _covers(fields: Collection[str], field: str) -> bool:
    return any(field == each or field.startswith(f"{each}.") for each in fields)


def _shown(value: Any) -> str:
    return "unset" if value is None else json.dumps(value, ensure_ascii=False)
