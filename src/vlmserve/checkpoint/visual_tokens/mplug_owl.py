"""mPLUG-Owl2 and mPLUG-Owl3.

Read from X-PLUG/mPLUG-Owl, mPLUG-Owl2/mplug_owl2/model/visual_encoder.py; and for Owl3, whose code
lies in its checkpoints, from PaddlePaddle/PaddleMIX, paddlemix/processors/mplugowl3_processing.py.
"""

from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from vlmserve.checkpoint.visual_tokens.base import VisualSize, VisualTokens, require_size

# Rows and columns, in the order in which equals win: grid_squ_6.
_GRIDS = ((2, 2), (1, 3), (1, 4), (3, 1), (4, 1), (2, 3), (3, 2))
_EPSILON = 1e-5
_SHAPE_WEIGHT = 100


@dataclass(frozen=True, slots=True)
class MPlugOwl2Tokens(VisualTokens):
    """mPLUG-Owl2: as many features as the abstractor has queries, and an end token."""

    image_px: int = 448
    n_queries: int = 64

    @override
    def image(self, width_px: int, height_px: int, *, n_images: int = 1) -> VisualSize:
        require_size(width_px, height_px)
        return VisualSize(self.n_queries + 1, self.image_px, self.image_px)


@dataclass(frozen=True, slots=True)
class MPlugOwl3Tokens(VisualTokens):
    """mPLUG-Owl3: one token a crop in the prompt, whose features are attended to from elsewhere.

    ``tokens`` is what fills the prompt; the visual keys and values beside it are
    ``visual_features`` of every crop, in the layers that attend to images alone.
    """

    crop_px: int = 384
    """384 for 240728, 378 for 241101."""

    patch_px: int = 14
    is_cut: bool = True
    """Whether an image is cut into crops beside its overview; videos never are."""

    @property
    def visual_features(self) -> int:
        """Features of one crop, which take no place in the prompt."""
        return (self.crop_px // self.patch_px) ** 2

    @override
    def image(self, width_px: int, height_px: int, *, n_images: int = 1) -> VisualSize:
        require_size(width_px, height_px)
        if not self.is_cut:
            return VisualSize(1, self.crop_px, self.crop_px)
        rows, columns = self._grid(width_px, height_px)
        return VisualSize(
            rows * columns + 1,
            columns * self.crop_px,
            rows * self.crop_px,
            inserted_texts=_cut_texts(rows, columns),
        )

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
        return VisualSize(n_frames, self.crop_px, self.crop_px, n_frames)

    def _grid(self, width_px: int, height_px: int) -> tuple[int, int]:
        """The grid that overlaps most with the image: in shape first, then in size.

        The original computes in whole pixels and in single precision, and so does this.
        """
        import numpy as np

        rows = np.array([grid[0] for grid in _GRIDS], dtype=np.int64) * self.crop_px
        columns = np.array([grid[1] for grid in _GRIDS], dtype=np.int64) * self.crop_px
        same_width = (height_px / width_px * columns).astype(np.int64)

        def overlap(width: Any, height: Any) -> Any:
            shared = np.minimum(columns, width) * np.minimum(rows, height)
            union = columns * rows + width * height - shared
            return shared.astype(np.float32) / (union.astype(np.float32) + np.float32(_EPSILON))

        size = overlap(np.full_like(rows, width_px), np.full_like(rows, height_px))
        shape = overlap(columns, same_width)
        return _GRIDS[int(np.argmax(shape * np.float32(_SHAPE_WEIGHT) + size))]


def _cut_texts(rows: int, columns: int) -> tuple[str, ...]:
    """The text around the crops' tokens: ``<|start_cut|>2*3``, then rows, then the overview."""
    row = (" ",) * (columns - 1)
    between = (*row, "\n") * rows
    return (f"<|start_cut|>{rows}*{columns}\n", *between, "<|end_cut|>")
