"""InternVL: tiles of one size in a grid of the image's shape, and an overview beside them.

Read from transformers 5.19, models/got_ocr2/image_processing_got_ocr2.py and
models/internvl/processing_internvl.py, and for the original format from vllm 0.32,
transformers_utils/processors/internvl.py; its training code is OpenGVLab/InternVL,
internvl_chat/internvl/train/internvl_chat_finetune.py
``multi_modal_multi_image_get_item``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from typing_extensions import override

from vlmserve.checkpoint.processor_settings import PartSettings, ProcessorSettings
from vlmserve.checkpoint.visual_tokens.base import VisualSize, VisualTokens, require_size

N_MARKS = 2
"""``<img>`` and ``</img>`` around each image, and each frame of a video."""


@lru_cache(maxsize=32)
def _grids(min_tiles: int, max_tiles: int) -> tuple[tuple[int, int], ...]:
    """Every grid of columns and rows with so many tiles, few tiles first."""
    sides = range(1, max_tiles + 1)
    grids = [(i, j) for i in sides for j in sides if min_tiles <= i * j <= max_tiles]
    return tuple(sorted(grids, key=lambda grid: grid[0] * grid[1]))


@dataclass(frozen=True, slots=True)
class InternVLTokens(VisualTokens):
    """InternVL in either format."""

    tile_px: int
    tile_tokens: int
    min_tiles: int = 1
    max_tiles: int = 12
    is_tiled: bool = True
    has_overview: bool = True
    """A tile of the whole image behind the others, where there are several."""

    shares_tiles: bool = False
    """Whether the images of one sample share the most tiles, as in the original training code."""

    frame_separator: str = "\n"
    """Between the frames of a video: a newline in transformers, nothing in vLLM's processor of the
    original format."""

    @override
    def image(self, width_px: int, height_px: int, *, n_images: int = 1) -> VisualSize:
        require_size(width_px, height_px)
        most = max(1, self.max_tiles // n_images) if self.shares_tiles else self.max_tiles
        columns, rows = self._grid(width_px, height_px, most) if self.is_tiled else (1, 1)
        tiles = columns * rows
        tiles += int(self.has_overview and tiles > 1)
        tokens = tiles * self.tile_tokens + N_MARKS
        return VisualSize(tokens, columns * self.tile_px, rows * self.tile_px)

    def _grid(self, width_px: int, height_px: int, most: int) -> tuple[int, int]:
        """The grid whose shape is nearest the image's; of equals, the last that is not too fine."""
        best, best_difference = (1, 1), float("inf")
        for grid in _grids(self.min_tiles, most):
            difference = abs(width_px / height_px - grid[0] / grid[1])
            is_filled = width_px * height_px > 0.5 * self.tile_px**2 * grid[0] * grid[1]
            if difference < best_difference or (difference == best_difference and is_filled):
                best, best_difference = grid, difference
        return best

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
        texts = tuple(
            f"{self.frame_separator if index else ''}Frame{index + 1}: "
            for index in range(n_frames)
        )
        tokens = n_frames * (self.tile_tokens + N_MARKS)
        return VisualSize(tokens, self.tile_px, self.tile_px, n_frames, texts)


def create_internvl_tokens(settings: ProcessorSettings) -> InternVLTokens:
    """The formula of InternVL in the transformers format.

    Raises:
        CheckpointError: A setting is malformed.
    """
    image = settings.image
    length = settings.wrapper.get("image_seq_length", 256)
    wrapper = PartSettings({"image_seq_length": length}, prefix="processor_config.json: ")
    # The processor asks for tiles whatever the image processor's file says.
    return InternVLTokens(
        tile_px=image.integer("size.height"),
        tile_tokens=wrapper.integer("image_seq_length"),
        min_tiles=image.integer("min_patches"),
        max_tiles=image.integer("max_patches"),
    )


def create_internvl_chat_tokens(config: Mapping[str, Any]) -> InternVLTokens:
    """The formula of InternVL in its original format (``InternVLChatModel``).

    Raises:
        CheckpointError: A setting is malformed.
    """
    vision = config.get("vision_config")
    vision = vision if isinstance(vision, Mapping) else {}
    sizes = PartSettings(
        {
            "image_size": vision.get("image_size", 448),
            "patch_size": vision.get("patch_size", 14),
            "min_dynamic_patch": config.get("min_dynamic_patch", 1),
            "max_dynamic_patch": config.get("max_dynamic_patch", 12),
        },
        prefix="config.json: ",
    )
    tile_px, patch_px = sizes.integer("image_size"), sizes.integer("patch_size")
    ratio = config.get("downsample_ratio", 0.5)
    shrink = float(ratio) if isinstance(ratio, int | float) else 0.5
    return InternVLTokens(
        tile_px=tile_px,
        tile_tokens=int((tile_px // patch_px) ** 2 * shrink**2),
        min_tiles=sizes.integer("min_dynamic_patch"),
        max_tiles=sizes.integer("max_dynamic_patch"),
        is_tiled=bool(config.get("dynamic_image_size", True)),
        has_overview=bool(config.get("use_thumbnail", True)),
        frame_separator="",
    )
