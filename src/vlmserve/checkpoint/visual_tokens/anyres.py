"""LLaVA's way with large images: a grid of tiles beside an overview, and no features of padding.

Read from transformers 5.19, image_processing_utils.py ``select_best_resolution`` and
models/llava_next/processing_llava_next.py; and from LLaVA-VL/LLaVA-NeXT, llava/mm_utils.py and
llava/model/llava_arch.py ``unpad_image``.
"""

import math
from collections.abc import Sequence

from vlmserve.checkpoint.visual_tokens.base import require_size
from vlmserve.errors import CheckpointError

Resolution = tuple[int, int]
"""Width and height in pixels."""

_MOST_OVER_LIMIT = 1.1


def best_resolution(width_px: int, height_px: int, resolutions: Sequence[Resolution]) -> Resolution:
    """The resolution that keeps most of an image's pixels and, of several, wastes least.

    Args:
        width_px: Width of the image.
        height_px: Height of the image.
        resolutions: At least one.
    """
    require_size(width_px, height_px)
    best = resolutions[0]
    most_kept, least_wasted = 0, math.inf
    for width, height in resolutions:
        scale = min(width / width_px, height / height_px)
        scaled = int(width_px * scale) * int(height_px * scale)
        kept = min(scaled, width_px * height_px)
        wasted = width * height - kept
        if kept > most_kept or (kept == most_kept and wasted < least_wasted):
            best, most_kept, least_wasted = (width, height), kept, wasted
    return best


def unpadded_grid(
    width_px: int, height_px: int, grid: tuple[int, int], *, digits: int | None
) -> tuple[int, int]:
    """The features that remain of a grid when those of padding are taken off.

    Args:
        width_px: Width of the image.
        height_px: Height of the image.
        grid: Features across and down, padding included.
        digits: To how many digits the new side is rounded before its fraction is dropped: 7 in
            transformers and vLLM, ``None`` (not at all) in the original code.

    Returns:
        Features across and down. What is taken off is the same on both sides, so that one row or
        column of padding may remain.

    Raises:
        CheckpointError: The grid is empty: its pinpoint is smaller than the tower's pictures.
    """
    columns, rows = grid
    if not columns or not rows:
        raise CheckpointError(
            "config.json: image_grid_pinpoints: one is smaller than vision_config.image_size"
        )

    def whole(side: float) -> int:
        return int(side) if digits is None else int(round(side, digits))

    if width_px / height_px > columns / rows:
        kept = whole(height_px * (columns / width_px))
        rows -= (rows - kept) // 2 * 2
    else:
        kept = whole(width_px * (rows / height_px))
        columns -= (columns - kept) // 2 * 2
    return columns, rows


def shrunk_grid(columns: int, rows: int, *, side: int, max_tiles: int | None) -> tuple[int, int]:
    """The grid after the limit of ``anyres_max_N``.

    Args:
        columns: Features across.
        rows: Features down.
        side: Features of one side of a tile.
        max_tiles: The ``N``, if there is one.
    """
    if max_tiles is None:
        return columns, rows
    ratio = math.sqrt(columns * rows / (max_tiles * side**2))
    if ratio > _MOST_OVER_LIMIT:
        return int(columns // ratio), int(rows // ratio)
    return columns, rows
