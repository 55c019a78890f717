"""Comparing two processors' settings by what they do, not by how they are spelled.

transformers 4 and 5 write the same processor in several ways: ``size: 336`` or ``{"shortest_edge":
336}``, ``resample: 3`` or ``"bicubic"``, ``min_pixels`` or ``size.shortest_edge``, keys left out
because the class has them as defaults.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vlmserve.checkpoint.processor_settings import PartSettings

# Pillow's numbers (PIL.Image.Resampling), which transformers writes.
_RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}

# float32 and a decimal notation of it.
_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class SettingDifference:
    """One setting that two processors do not share."""

    key: str
    served: Any
    other: Any


def differing_settings(
    served: PartSettings, other: PartSettings, keys: Iterable[str]
) -> Iterator[SettingDifference]:
    """Yield the settings among ``keys`` that have an effect and another value.

    A setting that one side neither has nor inherits from a class that is known here is not
    compared: what its absence means is not known.
    """
    for key in keys:
        if not (_matters(served, key) or _matters(other, key)):
            continue
        left, right = served.get(key), other.get(key)
        if left is None or right is None:
            continue
        if not is_same(key, left, right):
            yield SettingDifference(key, left, right)


def is_same(key: str, left: Any, right: Any) -> bool:
    """Whether two values of one setting mean the same."""
    if key in ("size", "crop_size"):
        return _is_same_size(left, right, is_square=key == "crop_size")
    canonical = _CANONICAL.get(key)
    if canonical is not None:
        left, right = canonical(left), canonical(right)
    return _is_close(left, right)


def _matters(part: PartSettings, key: str) -> bool:
    """Whether a processor would use a setting at all."""
    switch = _SWITCHES.get(key)
    return switch is None or bool(part.get(switch, True))


def _is_same_size(left: Any, right: Any, *, is_square: bool) -> bool:
    sizes = [_edges(value, is_square=is_square) for value in (left, right)]
    if any(isinstance(value, int) for value in (left, right)):
        # A bare number is the shortest edge or a square, as the class has it.
        return len({edge for size in sizes for edge in size.values()}) == 1
    return sizes[0] == sizes[1]


def _edges(value: Any, *, is_square: bool) -> dict[str, Any]:
    if isinstance(value, int):
        return {"height": value, "width": value} if is_square else {"shortest_edge": value}
    if isinstance(value, Mapping):
        return {key: edge for key, edge in value.items() if edge is not None}
    return {"": value}


def _is_close(left: Any, right: Any) -> bool:
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(_is_close, left, right))
    if isinstance(left, int | float) and isinstance(right, int | float):
        return abs(left - right) <= _TOLERANCE * max(abs(left), abs(right))
    return bool(left == right)


def _resample(value: Any) -> Any:
    if isinstance(value, str):
        name = value.rpartition(".")[2].lower()
        return _RESAMPLE.get(name, name)
    return value


_CANONICAL: Mapping[str, Callable[[Any], Any]] = {
    "resample": _resample,
    "do_center_crop": bool,
    "do_pad": bool,
    "do_resize": bool,
    "do_rescale": bool,
    "do_normalize": bool,
    "crop_to_patches": bool,
}

# Settings that are used only where a switch is on.
_SWITCHES = {
    "crop_size": "do_center_crop",
    "size": "do_resize",
    "resample": "do_resize",
    "rescale_factor": "do_rescale",
    "image_mean": "do_normalize",
    "image_std": "do_normalize",
    "min_patches": "crop_to_patches",
    "max_patches": "crop_to_patches",
}
