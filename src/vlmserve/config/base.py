"""Reading a YAML file into a strict model, with errors that name file, line and field."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError
from typing_extensions import override

from vlmserve.errors import ConfigError

M = TypeVar("M", bound="StrictModel")

UNION_MARK = "member:"
"""How the tags of a union's members begin: pydantic puts them among the keys of a field's place,
and messages leave them out."""


_MAPPING = "a mapping of keys to values is expected"
_LIST = "a list is expected"
_OWN_WORDS = {
    "extra_forbidden": "unknown key",
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "dict_type": _MAPPING,
    "tuple_type": _LIST,
    "list_type": _LIST,
}
"""What pydantic says in words of Python, by its names of faults."""


class StrictModel(BaseModel):
    """A configuration model: frozen, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @field_validator("*", mode="wrap")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, read: ValidatorFunctionWrapHandler) -> Any:
        """Refuse what pydantic takes for 1 and 0: YAML's yes, no, on and off."""
        try:
            found = read(value)
        except ValidationError as error:
            # That it must be greater than 0 says nothing to who wrote "no".
            if isinstance(value, bool) and _is_out_of_range(error):
                raise _no_numbers([()]) from error
            raise
        if places := list(_switched(value, found, ())):
            raise _no_numbers(places)
        return found


_Place = tuple[int | str, ...]


def _switched(value: Any, found: Any, place: _Place) -> Iterator[_Place]:
    """Where a value was true or false and became a number."""
    if isinstance(value, bool):
        if isinstance(found, int | float) and not isinstance(found, bool):
            yield place
    elif isinstance(value, Mapping) and isinstance(found, Mapping):
        for key in (key for key in value if key in found):
            yield from _switched(value[key], found[key], (*place, str(key)))
    elif isinstance(value, list | tuple) and isinstance(found, list | tuple):
        for i, (before, after) in enumerate(zip(value, found, strict=False)):
            yield from _switched(before, after, (*place, i))


def _is_out_of_range(error: ValidationError) -> bool:
    return all(fault["type"].startswith(("greater_", "less_")) for fault in error.errors())


def _no_numbers(places: Iterable[_Place]) -> ValidationError:
    kind = PydanticCustomError(
        "number_expected",
        "a number is expected; YAML reads yes, no, on and off as true and false",
    )
    faults = [InitErrorDetails(type=kind, loc=place, input=None) for place in places]
    return ValidationError.from_exception_data("settings", faults)


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader keeps the last of two equal keys without a word; this one refuses."""

    @override
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def load_config(
    path: Path | None,
    model: type[M],
    *,
    overrides: Mapping[str, Any] | None = None,
    settings: Iterable[str] = (),
) -> M:
    """Read one YAML file into a model, with command-line settings on top.

    Later sources win: the model's defaults, the file, ``settings``, ``overrides``.

    Args:
        path: The file, or ``None`` for the defaults alone.
        model: The model it must fit.
        overrides: Values by dotted key that win over everything, as flags do.
        settings: ``key.sub=value`` strings, as ``--set`` takes them; the value is YAML.

    Returns:
        The validated, frozen model.

    Raises:
        ConfigError: A file is missing, is not YAML or does not fit, or a setting is malformed;
            the message names the file, the line and the field at fault.
    """
    text = "" if path is None else _read(path)
    raw, root = _parse(text, path)
    # Where each dotted key was set from the command line, for the error message.
    given: dict[str, str] = {}
    for setting in settings:
        key, value = _parse_setting(setting)
        _assign(raw, key, value)
        given[key] = f"--set {setting}"
    for key, value in (overrides or {}).items():
        _assign(raw, key, value)
        given[key] = f"--{key.rpartition('.')[2].replace('_', '-')} {value}"
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        faults = [_fault(fault, root, path, given) for fault in _deepest(error)]
        raise ConfigError("\n".join(faults)) from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: {error.reason}") from error


def _parse(text: str, path: Path | None) -> tuple[dict[Any, Any], yaml.Node | None]:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        raw = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = "" if mark is None else f"{mark.line + 1}: "
        raise ConfigError(f"{path}:{line}{error.problem}") from error
    except (yaml.YAMLError, TypeError, ValueError) as error:
        # The last two: a mapping as a key, a date that does not exist.
        raise ConfigError(f"{path}: not usable YAML: {error}") from error
    if raw is None:
        return {}, root
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}:1: a mapping of keys to values is expected")
    return raw, root


def _parse_setting(setting: str) -> tuple[str, Any]:
    key, equals, text = setting.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"--set {setting}: expected key=value, such as engine.dtype=float32")
    try:
        return key, yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise ConfigError(f"--set {setting}: the value is not YAML: {error}") from error


def _assign(raw: dict[Any, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    here = raw
    for parent in parents:
        below = here.setdefault(parent, {})
        if not isinstance(below, dict):
            raise ConfigError(f"{dotted}: {parent} is not a section")
        here = below
    here[last] = value


def _deepest(error: ValidationError) -> list[Any]:
    """Leave out what only follows: a list is empty because what stands in it is at fault."""
    faults = error.errors()
    places = [fault["loc"] for fault in faults]
    return [
        fault
        for fault, place in zip(faults, places, strict=True)
        if not any(other[: len(place)] == place and other != place for other in places)
    ]


def _fault(fault: Any, root: yaml.Node | None, path: Path | None, given: Mapping[str, str]) -> str:
    loc = [str(part) for part in fault["loc"] if not str(part).startswith(UNION_MARK)]
    field = ".".join(loc) or "(top level)"
    message = fault["msg"].removeprefix("Value error, ")
    message = _OWN_WORDS.get(fault["type"], message)
    for key, source in given.items():
        if field == key or field.startswith(f"{key}.") or key.startswith(f"{field}."):
            return f"{source}: {field}: {message}"
    if path is None:
        return f"{field}: {message}"
    return f"{path}:{_line(root, loc)}: {field}: {message}"


def _line(node: yaml.Node | None, loc: list[str]) -> int:
    """The 1-based line of the deepest node that ``loc`` reaches."""
    line = 1
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            pairs = {str(key.value): (key, value) for key, value in node.value}
            if part not in pairs:
                continue  # pydantic adds parts for union members that are not keys
            key, node = pairs[part]
            line = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
            node = node.value[int(part)]
            line = node.start_mark.line + 1
    return line
