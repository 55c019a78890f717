"""InternLM-XComposer2, 2-VL, 4KHD and 2.5, whose training and inference differ in image sizes.

Read from InternLM/InternLM-XComposer, finetune/ixc_utils.py (2.5, training),
InternLM-XComposer-2.0/finetune/{ixc_utils,data_mix}.py (2, 2-VL and 4KHD, training) and
InternLM-XComposer-2.5-OmniLive/internlm-xcomposer2d5-ol-7b/base/{ixc_utils,
modeling_internlm_xcomposer2}.py (2.5, inference).
"""

import math
from dataclasses import dataclass

from typing_extensions import override

from vlmserve.checkpoint.visual_tokens.base import VisualSize, VisualTokens, require_size
from vlmserve.errors import MediaError

_TILES_OF_SEVERAL_IMAGES = 6
_VIDEO_FRAMES = 32
_CAPTION_PX = 40
_LINE_PX = 10


@dataclass(frozen=True, slots=True)
class XComposer2Tokens(VisualTokens):
    """XComposer2 (224 pixels, 256 tokens) and 2-VL (490 pixels, 1225 tokens): one square."""

    image_px: int
    patch_px: int = 14

    @override
    def image(self, width_px: int, height_px: int, *, n_images: int = 1) -> VisualSize:
        require_size(width_px, height_px)
        return VisualSize((self.image_px // self.patch_px) ** 2, self.image_px, self.image_px)


@dataclass(frozen=True, slots=True)
class XComposerHDTokens(VisualTokens):
    """4KHD and 2.5: tiles beside an overview, a separator token behind each row of features."""

    tile_px: int
    """336 for 4KHD, 560 for 2.5."""

    hd_num: int
    """The most tiles. Training: 16 (4KHD) and 18 (2.5) unless told otherwise."""

    fill: float | None = None
    """How many times its own width an image is enlarged at most, to whole tiles: 1 for inference
    with 2.5, 1.5 for its training; ``None`` fills the tiles there are, as 4KHD does."""

    hd_num_of_several: int | None = None
    """The most tiles of an image where a sample has several: 6 for inference with 2.5."""

    @property
    def _tile_side(self) -> int:
        # Four patches of 14 pixels are one token.
        return self.tile_px // 28

    @override
    def image(self, width_px: int, height_px: int, *, n_images: int = 1) -> VisualSize:
        require_size(width_px, height_px)
        is_upright = width_px < height_px
        width, height = max(width_px, height_px), min(width_px, height_px)
        most = self.hd_num
        if n_images > 1 and self.hd_num_of_several is not None:
            most = self.hd_num_of_several
        columns = self._columns(width, width / height, most)
        rows = self._rows(int(columns * self.tile_px / (width / height)), width_px, height_px)
        return self._size(rows, columns) if is_upright else self._size(columns, rows)

    def _columns(self, width_px: int, ratio: float, most: int) -> int:
        columns = 1
        while columns * math.ceil(columns / ratio) <= most:
            columns += 1
        columns -= 1
        if self.fill is not None:
            columns = min(math.ceil(width_px * self.fill / self.tile_px), columns)
        return columns

    def _rows(self, resized_px: int, width_px: int, height_px: int) -> int:
        if resized_px < 1:
            raise MediaError(
                f"{width_px}x{height_px} pixels: so narrow that nothing is left of it after "
                "resizing; XComposer's own code refuses it"
            )
        return math.ceil(resized_px / self.tile_px)

    def _size(self, columns: int, rows: int) -> VisualSize:
        side = self._tile_side
        tokens = (rows * columns + 1) * side**2 + 1 + (rows + 1) * side
        return VisualSize(tokens, columns * self.tile_px, rows * self.tile_px)

    @override
    def video(
        self,
        width_px: int,
        height_px: int,
        n_frames: int,
        *,
        frame_times_s: tuple[float, ...] | None = None,
    ) -> VisualSize | None:
        """See ``VisualTokens.video``: the frames are pasted into one picture, under captions."""
        if self.fill is None:
            return None
        require_size(width_px, height_px)
        shape, edge = width_px / height_px, self.tile_px * 2
        if width_px > height_px:
            width = edge
            height = n_frames * (int(edge / shape) + _LINE_PX + _CAPTION_PX)
        else:
            width = n_frames * (int(edge * shape) + _LINE_PX)
            height = edge + _CAPTION_PX
        is_upright = width < height
        longer, shorter = max(width, height), min(width, height)
        tiles = self._rows(int(self.tile_px * (longer / shorter)), width_px, height_px)
        size = self._size(1, tiles) if is_upright else self._size(tiles, 1)
        return VisualSize(size.tokens, size.width_px, size.height_px, n_frames)

    @override
    def sample_frames(self, duration_s: float, fps: float, n_frames: int) -> int | None:
        """See ``VisualTokens.sample_frames``: one a second, and at most 32."""
        if self.fill is None:
            return None
        stride = max(1, round(fps))
        return min(math.ceil(n_frames / stride), _VIDEO_FRAMES)


XCOMPOSER2 = XComposer2Tokens(224)
XCOMPOSER2_VL = XComposer2Tokens(490)
XCOMPOSER2_4KHD = XComposerHDTokens(336, hd_num=25)
"""Inference by lmdeploy."""

XCOMPOSER2_4KHD_TRAINING = XComposerHDTokens(336, hd_num=16)
XCOMPOSER2_4KHD_SWIFT = XComposerHDTokens(336, hd_num=55)
"""Training by ms-swift."""

XCOMPOSER2_5 = XComposerHDTokens(
    560, hd_num=24, fill=1.0, hd_num_of_several=_TILES_OF_SEVERAL_IMAGES
)
"""Inference by ``model.chat``, and training by ms-swift."""

XCOMPOSER2_5_TRAINING = XComposerHDTokens(560, hd_num=18, fill=1.5)
