"""How large images and how long videos a training framework let through, and where that stands.

The limits of LLaMA-Factory and ms-swift never reach the processor that they save: they are settings
of the run (``image_max_pixels``, ``max_pixels``) or environment variables.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from vlmserve.checkpoint.provenance import TrainingInfo, VisionLimits

_LLAMA_FACTORY_DEFAULTS = VisionLimits(
    min_pixels=32 * 32,
    max_pixels=768 * 768,
    video_min_pixels=16 * 16,
    video_max_pixels=256 * 256,
    fps=2.0,
    fps_max_frames=128,
)
"""LLaMA-Factory 0.9.2 to 0.9.5, hparams/model_args.py ``ProcessorArguments``. Before that they were
smaller: 512 * 512 (0.9.1) and 512 a side (0.9.0) for images."""

_SWIFT_DEFAULTS = VisionLimits(
    video_min_pixels=128 * 28 * 28,
    video_max_pixels=768 * 28 * 28,
    fps=2.0,
    fps_min_frames=4,
    fps_max_frames=768,
)
"""qwen-vl-utils 0.0.14 vision_process.py, which ms-swift hands every Qwen-VL video to. Its limits
for images are those of the processors that Qwen ships."""

_DEFAULTS = {"llama-factory": _LLAMA_FACTORY_DEFAULTS, "ms-swift": _SWIFT_DEFAULTS}

_LLAMA_FACTORY_NAMES = {
    "min_pixels": "image_min_pixels",
    "max_pixels": "image_max_pixels",
    "fps": "video_fps",
    "fps_max_frames": "video_maxlen",
}

LIMITS_APART = tuple(_DEFAULTS)
"""Frameworks that save the processor as they found it, whatever limits they trained with."""

TRAIN_ENV = "--train-env"
"""What a limit that the user told is said to come from."""


@dataclass(frozen=True)
class TrainingLimits:
    """The limits of one training run."""

    framework: str | None
    """As in ``TrainingInfo``; ``None`` where the user alone tells."""

    known: VisionLimits
    """What the user tells, or else what the run's files record."""

    told: VisionLimits
    """What the user tells: the environment of the run."""

    assumed: VisionLimits
    """The framework's defaults, for what nothing records; ms-swift's are Qwen-VL's only."""

    sources: Mapping[str, tuple[str, str]]
    """File and key by field of ``known``."""

    @property
    def probable(self) -> VisionLimits:
        """What is known, and what is assumed for the rest."""
        return self.assumed.updated(self.known)

    def shrink_image(self, width_px: int, height_px: int) -> tuple[int, int]:
        """What the framework makes of an image before the model's own processor sees it.

        LLaMA-Factory 0.9.5 data/mm_plugin.py ``_preprocess_image``; ms-swift 4
        template/vision_utils.py ``rescale_image`` for ``max_pixels`` of its arguments. Limits from
        the environment act in the processor's place, so they are not applied here.
        """
        if self.framework == "llama-factory":
            size = _rescale_above(width_px, height_px, self.probable.max_pixels)
            return _rescale_below(*size, self.probable.min_pixels)
        if self.framework == "ms-swift" and self.told.max_pixels is None:
            return _rescale_above(width_px, height_px, self.known.max_pixels)
        return width_px, height_px

    def shrink_frame(self, width_px: int, height_px: int) -> tuple[int, int]:
        """What LLaMA-Factory makes of a frame of a video; others leave it to a processor."""
        if self.framework != "llama-factory":
            return width_px, height_px
        size = _rescale_above(width_px, height_px, self.probable.video_max_pixels)
        return _rescale_below(*size, self.probable.video_min_pixels)


def find_training_limits(
    training: TrainingInfo | None, train_env: VisionLimits | None
) -> TrainingLimits | None:
    """Collect what is known of a run's limits.

    Args:
        training: What the framework left beside the weights.
        train_env: What the user tells; wins over the files.

    Returns:
        The limits, or ``None`` where nothing is known of the run at all.
    """
    told = train_env or VisionLimits()
    if training is None:
        if told == VisionLimits():
            return None
        return TrainingLimits(None, told, told, VisionLimits(), _told_sources(told))
    sources = {
        name: (training.files[-1] if training.files else training.framework, key)
        for name, key in _recorded_keys(training).items()
    }
    return TrainingLimits(
        framework=training.framework,
        known=training.limits.updated(told),
        told=told,
        assumed=_DEFAULTS.get(training.framework, VisionLimits()),
        sources={**sources, **_told_sources(told)},
    )


def _recorded_keys(training: TrainingInfo) -> dict[str, str]:
    names = _LLAMA_FACTORY_NAMES if training.framework == "llama-factory" else {}
    return {name: names.get(name, name) for name in _set_fields(training.limits)}


def _told_sources(told: VisionLimits) -> dict[str, tuple[str, str]]:
    return {name: (TRAIN_ENV, name.upper()) for name in _set_fields(told)}


def _set_fields(limits: VisionLimits) -> list[str]:
    return [field.name for field in fields(limits) if getattr(limits, field.name) is not None]


def _rescale_above(width_px: int, height_px: int, limit: int | None) -> tuple[int, int]:
    if limit is None or width_px * height_px <= limit:
        return width_px, height_px
    return _rescaled(width_px, height_px, limit)


def _rescale_below(width_px: int, height_px: int, limit: int | None) -> tuple[int, int]:
    if limit is None or width_px * height_px >= limit:
        return width_px, height_px
    return _rescaled(width_px, height_px, limit)


def _rescaled(width_px: int, height_px: int, area: int) -> tuple[int, int]:
    factor = math.sqrt(area / (width_px * height_px))
    return max(1, int(width_px * factor)), max(1, int(height_px * factor))
