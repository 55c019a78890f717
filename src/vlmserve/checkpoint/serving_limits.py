"""Carries the pixel and frame limits of the training over to serving.

A fine-tune that saw small images and is served large ones answers worse, and nothing says so: the
limits lie in the training framework's files or its environment, not in the processor's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from vlmserve.checkpoint.families.qwen2_vl import QwenVL
from vlmserve.checkpoint.files import read_json_if_present
from vlmserve.checkpoint.processor_settings import (
    PartSettings,
    ProcessorSettings,
    load_processor_settings,
)
from vlmserve.checkpoint.provenance import VisionLimits

if TYPE_CHECKING:
    from vlmserve.checkpoint.source import Checkpoint

# Where vLLM 0.32's video loaders take them (multimodal/video.py).
_VIDEO_KEYS = {"fps": "fps", "fps_min_frames": "min_frames", "fps_max_frames": "max_frames"}
_PIXEL_LIMITS = ("min_pixels", "max_pixels")
_FRAME_LIMITS = ("video_min_pixels", "video_max_pixels")
_SIZE_SETTINGS = frozenset({"size", "min_pixels", "max_pixels"})
# Families whose video processor limits each frame by itself, as the training frameworks do.
_FRAME_FAMILIES = ("qwen2_vl", "qwen2_5_vl")


@dataclass(frozen=True, slots=True)
class MediaSettings:
    """What vLLM is told about media because of the training."""

    mm_processor_kwargs: dict[str, Any]
    media_io_kwargs: dict[str, dict[str, Any]]
    notes: tuple[str, ...]
    """A sentence for each limit: applied, or known and not applicable."""


def training_media_settings(
    checkpoint: "Checkpoint",
    train_env: "VisionLimits | None" = None,
    *,
    chosen: Mapping[str, Any] | None = None,
) -> MediaSettings:
    """Find the limits of the training and spell them for vLLM.

    Args:
        checkpoint: Whose files may name limits.
        train_env: What the framework took from its environment; wins over the files.
        chosen: The operator's own processor settings. Where they set image sizes, in any of the
            spellings that processors know, the training's are left out.
    """
    limits = _known_limits(checkpoint, train_env)
    names = set(chosen or {})
    given_way = ({*_PIXEL_LIMITS} if names & {*_SIZE_SETTINGS, "images_kwargs"} else set()) | (
        {*_FRAME_LIMITS} if names & {*_SIZE_SETTINGS, "videos_kwargs"} else set()
    )
    applicable = _applicable(checkpoint)
    applied = {
        name: value
        for name, value in limits.items()
        if name in applicable and name not in given_way
    }
    video = {key: applied[name] for name, key in _VIDEO_KEYS.items() if name in applied}
    notes = [
        f"{name}={value:g} of the training gives way to engine.mm_processor_kwargs"
        if name in applicable and name in given_way
        else _note(checkpoint, name, value, is_applied=name in applied)
        for name, value in limits.items()
    ]
    return MediaSettings(
        {**_image_size(checkpoint, applied), **_frame_size(checkpoint, applied)},
        {"video": video} if video else {},
        tuple(notes),
    )


def _applicable(checkpoint: "Checkpoint") -> frozenset[str]:
    """The limits that vLLM has a setting for."""
    family = checkpoint.family
    if not isinstance(family, QwenVL):
        return frozenset()
    frames = _FRAME_LIMITS if family.name in _FRAME_FAMILIES else ()
    return frozenset({*_PIXEL_LIMITS, *_VIDEO_KEYS, *frames})


def with_processor_kwargs(
    settings: ProcessorSettings, kwargs: Mapping[str, Any]
) -> ProcessorSettings:
    """The settings that hold when vLLM hands ``mm_processor_kwargs`` to the processor.

    Settings at the top reach both processors, those in ``images_kwargs`` and ``videos_kwargs`` one
    (transformers 5.19 processing_utils.py ``_merge_kwargs``).
    """
    scopes = ("images_kwargs", "videos_kwargs")
    shared = {key: value for key, value in kwargs.items() if key not in scopes}
    parts = []
    for scope, part in zip(scopes, (settings.image, settings.video), strict=True):
        own = kwargs.get(scope)
        chosen = {**shared, **(own if isinstance(own, Mapping) else {})}
        parts.append(_with_settings(part, chosen) if chosen else part)
    return replace(settings, image=parts[0], video=parts[1])


def _with_settings(part: PartSettings, chosen: Mapping[str, Any]) -> PartSettings:
    path = next((source.path for key in part if (source := part.source(key)).path), None)
    # Defaults stay defaults: some give way to the model's own configuration.
    values = {key: value for key, value in part.items() if part.source(key).path is not None}
    size = chosen.get("size")
    if isinstance(size, Mapping):
        # min_pixels and max_pixels are another spelling of the same, and would win.
        values.pop("min_pixels", None)
        values.pop("max_pixels", None)
        chosen = {**chosen, "size": {**(part.get("size") or {}), **size}}
    return PartSettings({**values, **chosen}, class_name=part.class_name, path=path)


def _note(checkpoint: "Checkpoint", name: str, value: float, *, is_applied: bool) -> str:
    if is_applied:
        return f"{name}={value:g} of the training is applied to serving"
    return (
        f"{name}={value:g} of the training is NOT applied: vLLM has no such setting for "
        f"{checkpoint.architecture}"
    )


def _image_size(checkpoint: "Checkpoint", limits: Mapping[str, Any]) -> dict[str, Any]:
    """Spell pixel limits as the image processor's size; videos keep theirs."""
    pixels = {name: limits[name] for name in _PIXEL_LIMITS if name in limits}
    if not pixels:
        return {}
    smallest, largest = _processor_pixels(checkpoint)
    smallest, largest = pixels.get("min_pixels", smallest), pixels.get("max_pixels", largest)
    if smallest is None or largest is None:
        # A size must name both of its edges; these older names may stand alone.
        return dict(pixels)
    # What a framework shrank below the processor's smallest size was enlarged again.
    size = {"shortest_edge": smallest, "longest_edge": max(smallest, largest)}
    return {"images_kwargs": {"size": size}}


def _frame_size(checkpoint: "Checkpoint", limits: Mapping[str, Any]) -> dict[str, Any]:
    """Spell limits of frames as the video processor's size; images keep theirs."""
    if not any(name in limits for name in _FRAME_LIMITS):
        return {}
    own = load_processor_settings(checkpoint).video.get("size") or {}
    smallest = limits.get("video_min_pixels", own.get("shortest_edge"))
    largest = limits.get("video_max_pixels", own.get("longest_edge"))
    if smallest is None or largest is None:
        return {}
    size = {"shortest_edge": smallest, "longest_edge": max(smallest, largest)}
    return {"videos_kwargs": {"size": size}}


def _known_limits(checkpoint: "Checkpoint", train_env: "VisionLimits | None") -> dict[str, Any]:
    limits = VisionLimits() if checkpoint.training is None else checkpoint.training.limits
    _, own = _processor_pixels(checkpoint)
    if limits.max_pixels is not None and own is not None:
        # The frameworks shrink an image to their limit and hand it to the processor, whose own
        # limit goes on to hold.
        limits = replace(limits, max_pixels=min(limits.max_pixels, own))
    if limits.video_min_pixels is not None:
        # Enlarged frames are handed to the processor, too, whose own smallest size goes on to hold.
        size = load_processor_settings(checkpoint).video.get("size") or {}
        floor = max(limits.video_min_pixels, _number(size.get("shortest_edge")) or 0)
        limits = replace(limits, video_min_pixels=floor)
    if train_env is not None:
        limits = limits.updated(train_env)
    if isinstance(checkpoint.family, QwenVL):
        limits = limits.in_pixels(checkpoint.family.pixels_per_token(checkpoint.config))
    values = {field.name: getattr(limits, field.name) for field in fields(limits)}
    return {name: value for name, value in values.items() if value is not None}


def _processor_pixels(checkpoint: "Checkpoint") -> tuple[int | None, int | None]:
    """Smallest and largest image in pixels by the processor's own files, in either layout."""
    directory = checkpoint.model.path
    settings = read_json_if_present(directory / "preprocessor_config.json")
    nested = read_json_if_present(directory / "processor_config.json").get("image_processor")
    for place in (settings, nested):
        if not isinstance(place, dict) or not place:
            continue
        given = place.get("size")
        size = given if isinstance(given, dict) else {}
        return (
            _number(place.get("min_pixels"), size.get("shortest_edge")),
            _number(place.get("max_pixels"), size.get("longest_edge")),
        )
    return None, None


def _number(*values: Any) -> int | None:
    return next((value for value in values if isinstance(value, int)), None)
