"""Carries the pixel and frame limits of the training over to serving.

A fine-tune that saw small images and is served large ones answers worse, and nothing says so: the
limits lie in the training framework's files or its environment, not in the processor's.
"""

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from vlmserve.checkpoint.families.qwen2_vl import QwenVL
from vlmserve.checkpoint.files import read_json_if_present
from vlmserve.checkpoint.provenance import VisionLimits

if TYPE_CHECKING:
    from vlmserve.checkpoint.source import Checkpoint

# Where vLLM 0.32 takes them for the Qwen-VL families (qwen2_vl.py, qwen3_vl.py, video.py).
_PROCESSOR_KEYS = {"min_pixels": "min_pixels", "max_pixels": "max_pixels"}
_VIDEO_KEYS = {"fps": "fps", "fps_max_frames": "max_frames"}


@dataclass(frozen=True, slots=True)
class MediaSettings:
    """What vLLM is told about media because of the training."""

    mm_processor_kwargs: dict[str, Any]
    media_io_kwargs: dict[str, dict[str, Any]]
    notes: tuple[str, ...]
    """A sentence for each limit: applied, or known and not applicable."""


def training_media_settings(
    checkpoint: "Checkpoint", train_env: "VisionLimits | None" = None
) -> MediaSettings:
    """Find the limits of the training and spell them for vLLM.

    Args:
        checkpoint: Whose files may name limits.
        train_env: What the framework took from its environment; wins over the files.
    """
    limits = _known_limits(checkpoint, train_env)
    processor: dict[str, Any] = {}
    video: dict[str, Any] = {}
    notes: list[str] = []
    for name, value in limits.items():
        target, keys = (
            (processor, _PROCESSOR_KEYS) if name in _PROCESSOR_KEYS else (video, _VIDEO_KEYS)
        )
        if name in keys and isinstance(checkpoint.family, QwenVL):
            target[keys[name]] = value
            notes.append(f"{name}={value:g} of the training is applied to serving")
        else:
            notes.append(
                f"{name}={value:g} of the training is NOT applied: vLLM has no such setting "
                f"for {checkpoint.architecture}"
            )
    return MediaSettings(processor, {"video": video} if video else {}, tuple(notes))


def _known_limits(checkpoint: "Checkpoint", train_env: "VisionLimits | None") -> dict[str, float]:
    limits = VisionLimits() if checkpoint.training is None else checkpoint.training.limits
    own = _processor_max_pixels(checkpoint)
    if limits.max_pixels is not None and own is not None:
        # The frameworks shrink an image to their limit and hand it to the processor, whose own
        # limit goes on to hold.
        limits = replace(limits, max_pixels=min(limits.max_pixels, own))
    if train_env is not None:
        limits = limits.updated(train_env)
    if isinstance(checkpoint.family, QwenVL):
        limits = limits.in_pixels(checkpoint.family.pixels_per_token(checkpoint.config))
    values = {field.name: getattr(limits, field.name) for field in fields(limits)}
    return {name: value for name, value in values.items() if value is not None}


def _processor_max_pixels(checkpoint: "Checkpoint") -> int | None:
    """Largest image in pixels by the processor's own files, in either layout."""
    directory = checkpoint.model.path
    for name, section in (
        ("preprocessor_config.json", None),
        ("processor_config.json", "image_processor"),
    ):
        settings = read_json_if_present(directory / name)
        settings = settings if section is None else settings.get(section) or {}
        size = settings.get("size")
        value = size.get("longest_edge") if isinstance(size, dict) else None
        value = settings.get("max_pixels") or value
        if isinstance(value, int):
            return value
    return None
