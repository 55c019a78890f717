"""LLaVA in its original format: 1.5, 1.6, OneVision and Video.

Read from haotian-liu/LLaVA and LLaVA-VL/LLaVA-NeXT, llava/model/llava_arch.py
``prepare_inputs_labels_for_multimodal`` and llava/mm_utils.py; which features are taken, and how
tiles become a sequence, stands in ``config.json`` under ``mm_*``.
"""

import ast
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from vlmserve.checkpoint.visual_tokens.anyres import (
    Resolution,
    best_resolution,
    shrunk_grid,
    unpadded_grid,
)
from vlmserve.checkpoint.visual_tokens.base import VisualSize, VisualTokens, require_size
from vlmserve.checkpoint.visual_tokens.tower import VisionTower
from vlmserve.errors import CheckpointError

_TOWER_NAME = re.compile(r"(?P<kind>clip|siglip).*patch(?P<patch>\d+)(?:-(?P<image>\d+))?")
_TILED = re.compile(r"anyres(?:_max_(?P<most>\d+))?")
_GRID_RANGE = re.compile(r"\((\d+)x(\d+)\)")
_MERGE_TYPES = ("flat", "spatial", "spatial_unpad")
_POOL_STRIDE = 2


@dataclass(frozen=True, slots=True)
class LlavaOriginalTokens(VisualTokens):
    """Original LLaVA with one tower and one way to put tiles into a row."""

    tower: VisionTower
    strategy: str = "default"
    merge_type: str = "flat"
    """``mm_patch_merge_type``: tiles one after another, in one grid, or that without padding and
    with newline tokens."""

    resolutions: tuple[Resolution, ...] = ()
    """Empty where images are not tiled."""

    max_tiles: int | None = None
    tiles_several: bool = True
    """Whether images are tiled where a sample has several; LLaVA-NeXT's later code pads them."""

    marks: int = 0
    """2 where ``mm_use_im_start_end`` puts a token before and one behind each image."""

    pooled: int | None = None
    """Features of a pooled video frame's side; ``None`` where there is no video."""

    newline_position: str = "one_token"

    @override
    def image(self, width_px: int, height_px: int, *, n_images: int = 1) -> VisualSize:
        require_size(width_px, height_px)
        tower, base = self.tower, self.tower.features(self.strategy)
        if not self.resolutions or (n_images > 1 and not self.tiles_several):
            newline = int(self.merge_type == "spatial_unpad" and bool(self.resolutions))
            return VisualSize(base + newline + self.marks, tower.image_px, tower.image_px)
        width, height = best_resolution(width_px, height_px, self.resolutions)
        columns, rows = width // tower.image_px, height // tower.image_px
        if self.merge_type == "flat":
            tokens = base * (1 + columns * rows)
        elif self.merge_type == "spatial":
            tokens = base + columns * rows * tower.grid**2
        else:
            grid = (columns * tower.grid, rows * tower.grid)
            kept = unpadded_grid(width_px, height_px, grid, digits=None)
            across, down = shrunk_grid(*kept, side=tower.grid, max_tiles=self.max_tiles)
            tokens = base + down * (across + 1)
        return VisualSize(tokens + self.marks, width, height)

    @override
    def video(
        self,
        width_px: int,
        height_px: int,
        n_frames: int,
        *,
        frame_times_s: tuple[float, ...] | None = None,
    ) -> VisualSize | None:
        require_size(width_px, height_px)
        if self.pooled is None:
            return None
        frame = self.pooled**2
        extra = 0
        if self.merge_type != "flat":
            match self.newline_position:
                case "grid":
                    frame += self.pooled
                case "frame":
                    frame += 1
                case "one_token":
                    extra = int(self.merge_type == "spatial_unpad")
        side = self.tower.image_px
        return VisualSize(n_frames * frame + extra + self.marks, side, side, n_frames)


def create_llava_original_tokens(
    config: Mapping[str, Any], *, has_video: bool
) -> LlavaOriginalTokens | None:
    """Build original LLaVA's formula.

    Args:
        config: ``config.json``.
        has_video: Whether it was made by LLaVA-NeXT's later code, which knows videos and does not
            tile the images of a sample with several.

    Returns:
        The formula, or ``None`` where the tower is not told by its name, or where resamplers and
        other rare settings come in.

    Raises:
        CheckpointError: A setting is malformed.
    """
    tower = find_original_tower(config)
    merge_type = str(config.get("mm_patch_merge_type") or "flat")
    if tower is None or merge_type not in _MERGE_TYPES or _has_resampler(config):
        return None
    tiled = _TILED.fullmatch(str(config.get("image_aspect_ratio") or "square"))
    most = tiled["most"] if tiled is not None else None
    is_whole = config.get("mm_vision_select_feature", "patch") == "cls_patch"
    return LlavaOriginalTokens(
        tower,
        # SigLIP's tower has no class token to drop.
        strategy="full" if is_whole or not tower.has_class_token else "default",
        merge_type=merge_type,
        resolutions=() if tiled is None else _resolutions(config, tower.image_px),
        max_tiles=None if most is None else int(most),
        tiles_several=not has_video,
        marks=2 * bool(config.get("mm_use_im_start_end")),
        pooled=_pooled_side(config, tower) if has_video else None,
        newline_position=str(config.get("mm_newline_position") or "one_token"),
    )


def find_original_tower(config: Mapping[str, Any]) -> VisionTower | None:
    """The tower that ``mm_vision_tower`` names, such as ``openai/clip-vit-large-patch14-336``.

    Returns:
        The tower, or ``None`` where the name tells nothing.
    """
    name = config.get("mm_vision_tower") or config.get("vision_tower")
    match = _TOWER_NAME.search(str(name or "").rstrip("/").rpartition("/")[2].lower())
    if match is None:
        return None
    image_px = int(match["image"] or 224)
    return VisionTower(image_px, int(match["patch"]), match["kind"] == "clip")


def _has_resampler(config: Mapping[str, Any]) -> bool:
    return bool(config.get("mm_resampler_type") or config.get("add_faster_video"))


def _pooled_side(config: Mapping[str, Any], tower: VisionTower) -> int:
    # get_2dPool: averages and maxima drop an odd row, interpolation keeps it.
    if config.get("mm_spatial_pool_mode", "bilinear") == "bilinear":
        return math.ceil(tower.grid / _POOL_STRIDE)
    return tower.grid // _POOL_STRIDE


def _resolutions(config: Mapping[str, Any], tile_px: int) -> tuple[Resolution, ...]:
    """``image_grid_pinpoints``: widths and heights, as a list, its text, or a range of grids."""
    given = config.get("image_grid_pinpoints")
    pinpoints: Any = given
    if isinstance(given, str):
        grids = _GRID_RANGE.findall(given)
        pinpoints = _grid_range(grids, tile_px) if grids else _literal(given)
    resolutions = []
    for pinpoint in pinpoints if isinstance(pinpoints, Sequence) and pinpoints else [None]:
        match pinpoint:
            case [int(width), int(height)] if width > 0 and height > 0:
                resolutions.append((width, height))
            case _:
                raise CheckpointError(
                    "config.json: image_grid_pinpoints: a list of widths and heights is expected, "
                    f"not {given!r}"
                )
    return tuple(resolutions)


def _grid_range(grids: list[tuple[str, str]], tile_px: int) -> list[Resolution]:
    """Every grid between the first and the last that are named."""
    (first_columns, first_rows), (last_columns, last_rows) = grids[0], grids[-1]
    return [
        (columns * tile_px, rows * tile_px)
        for columns in range(int(first_columns), int(last_columns) + 1)
        for rows in range(int(first_rows), int(last_rows) + 1)
    ]


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
