"""LLaVA-1.5, LLaVA-NeXT and LLaVA-OneVision in the transformers format.

Sizes are those of the model's configuration, as in vllm 0.32 (models/llava.py, models/llava_next.py
and models/llava_onevision.py ``get_num_image_tokens``); transformers 5.19 takes the same numbers
from the processor (models/llava*/processing_llava*.py).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from vlmserve.checkpoint.processor_settings import ProcessorSettings
from vlmserve.checkpoint.visual_tokens.anyres import (
    Resolution,
    best_resolution,
    shrunk_grid,
    unpadded_grid,
)
from vlmserve.checkpoint.visual_tokens.base import VisualSize, VisualTokens, require_size
from vlmserve.checkpoint.visual_tokens.tower import VisionTower
from vlmserve.errors import CheckpointError

_DIGITS = 7
_NEXT_PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


@dataclass(frozen=True, slots=True)
class LlavaTokens(VisualTokens):
    """LLaVA-1.5: every image becomes one square picture."""

    tower: VisionTower
    strategy: str = "default"
    """``vision_feature_select_strategy``."""

    @override
    def image(self, width_px: int, height_px: int, *, n_images: int = 1) -> VisualSize:
        require_size(width_px, height_px)
        side = self.tower.image_px
        return VisualSize(self.tower.features(self.strategy), side, side)


@dataclass(frozen=True, slots=True)
class LlavaNextTokens(VisualTokens):
    """LLaVA-NeXT: an overview, and tiles with a newline token behind each row of features."""

    tower: VisionTower
    resolutions: tuple[Resolution, ...]
    strategy: str = "default"

    @override
    def image(self, width_px: int, height_px: int, *, n_images: int = 1) -> VisualSize:
        width, height = best_resolution(width_px, height_px, self.resolutions)
        tower = self.tower
        grid = (width // tower.image_px * tower.grid, height // tower.image_px * tower.grid)
        columns, rows = unpadded_grid(width_px, height_px, grid, digits=_DIGITS)
        return VisualSize(rows * (columns + 1) + tower.features(self.strategy), width, height)


@dataclass(frozen=True, slots=True)
class LlavaOnevisionTokens(VisualTokens):
    """LLaVA-OneVision: as LLaVA-NeXT with up to 36 tiles, shrunk to the worth of nine; and videos.

    All images of a sample are tiled, as vllm 0.32, ms-swift and LLaMA-Factory have it, which hand
    images over one by one. transformers 5.19 takes ``tower.features + 1`` for each where it is
    given several images of one sample as a list of their own, and so did the model's training.
    """

    tower: VisionTower
    resolutions: tuple[Resolution, ...]
    strategy: str = "full"
    max_tiles: int | None = 9
    pool_stride: int = 2

    @override
    def image(self, width_px: int, height_px: int, *, n_images: int = 1) -> VisualSize:
        width, height = best_resolution(width_px, height_px, self.resolutions)
        tower = self.tower
        grid = (width // tower.image_px * tower.grid, height // tower.image_px * tower.grid)
        columns, rows = unpadded_grid(width_px, height_px, grid, digits=_DIGITS)
        columns, rows = shrunk_grid(columns, rows, side=tower.grid, max_tiles=self.max_tiles)
        return VisualSize(rows * (columns + 1) + tower.features(self.strategy), width, height)

    @override
    def video(
        self,
        width_px: int,
        height_px: int,
        n_frames: int,
        *,
        frame_times_s: tuple[float, ...] | None = None,
    ) -> VisualSize:
        require_size(width_px, height_px)
        pooled = math.ceil(self.tower.grid / self.pool_stride)
        side = self.tower.image_px
        return VisualSize(n_frames * pooled**2 + 1, side, side, n_frames)


def create_llava_tokens(config: Mapping[str, Any]) -> LlavaTokens | None:
    """LLaVA-1.5's formula, or ``None`` for a tower not known here.

    Raises:
        CheckpointError: A setting is malformed.
    """
    tower = VisionTower.from_config(config)
    return None if tower is None else LlavaTokens(tower, _strategy(config, "default"))


def create_llava_next_tokens(config: Mapping[str, Any]) -> LlavaNextTokens | None:
    """LLaVA-NeXT's formula, or ``None`` for a tower not known here.

    Raises:
        CheckpointError: A setting is malformed.
    """
    tower = VisionTower.from_config(config)
    if tower is None:
        return None
    return LlavaNextTokens(
        tower, _resolutions(config, _NEXT_PINPOINTS), _strategy(config, "default")
    )


def create_llava_onevision_tokens(
    config: Mapping[str, Any], settings: ProcessorSettings
) -> LlavaOnevisionTokens | None:
    """LLaVA-OneVision's formula, or ``None`` for a tower not known here.

    Raises:
        CheckpointError: A setting is malformed.
    """
    vision = config.get("vision_config")
    if not isinstance(vision, Mapping):
        # LlavaOnevisionConfig's own default.
        vision = {"model_type": "siglip_vision_model", "image_size": 384, "patch_size": 14}
    tower = VisionTower.from_config({"vision_config": vision})
    if tower is None:
        return None
    sides = range(384, 2305, 384)
    every = tuple((height, width) for height in sides for width in sides)
    limit = settings.wrapper.get("vision_aspect_ratio") or config.get("vision_aspect_ratio")
    match = re.fullmatch(r"anyres_max_(\d+)", str(limit or "anyres_max_9"))
    if match is None:
        raise CheckpointError(
            f"config.json: vision_aspect_ratio: anyres_max_ and a number is expected, not {limit!r}"
        )
    return LlavaOnevisionTokens(
        tower, _resolutions(config, every), _strategy(config, "full"), int(match[1])
    )


def _strategy(config: Mapping[str, Any], default: str) -> str:
    strategy = config.get("vision_feature_select_strategy") or default
    if strategy not in {"default", "full"}:
        raise CheckpointError(
            "config.json: vision_feature_select_strategy: default or full is expected, not "
            f"{strategy!r}"
        )
    return str(strategy)


def _resolutions(
    config: Mapping[str, Any], default: tuple[tuple[int, int], ...]
) -> tuple[Resolution, ...]:
    """The pinpoints, which transformers keeps as height and width."""
    pinpoints = config.get("image_grid_pinpoints") or default
    resolutions = []
    for pinpoint in pinpoints if isinstance(pinpoints, list | tuple) else [None]:
        match pinpoint:
            case [int(height), int(width)] if height > 0 and width > 0:
                resolutions.append((width, height))
            case _:
                raise CheckpointError(
                    "config.json: image_grid_pinpoints: a list of heights and widths is expected, "
                    f"not {pinpoints!r}"
                )
    return tuple(resolutions)
