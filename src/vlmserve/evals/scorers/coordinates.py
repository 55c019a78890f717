"""What the numbers of a box count, and how they are carried over."""

from typing import Literal

from vlmserve.checkpoint.visual_tokens.qwen import smart_resize

Coordinates = Literal["pixels", "0-1", "0-1000", "resized"]
"""Pixels of the original image, its fractions, its thousandths, or pixels of the image as Qwen-VL's
processor resized it (Qwen2.5-VL answers in these)."""

Size = tuple[int, int]
"""Width and height in pixels."""

Corners = tuple[float, float, float, float]


class Resize:
    """Qwen-VL's resizing of images.

    Args:
        factor: What sides are multiples of: patch size times merge size.
        min_pixels: Smallest area.
        max_pixels: Largest area.
    """

    def __init__(self, factor: int, min_pixels: int, max_pixels: int) -> None:
        self._factor = factor
        self._min_pixels = min_pixels
        self._max_pixels = max_pixels

    def apply(self, size: Size) -> Size:
        """The size that an image gets.

        Raises:
            MediaError: The processor refuses it.
        """
        return smart_resize(
            *size,
            factor=self._factor,
            min_pixels=self._min_pixels,
            max_pixels=self._max_pixels,
        )


def to_fractions(
    corners: Corners, coordinates: Coordinates, size: Size, resize: Resize | None
) -> Corners:
    """Turn a box into fractions of its image.

    Args:
        corners: Left, top, right, bottom.
        coordinates: What they count.
        size: Of the original image.
        resize: How it was resized; needed for ``resized``.

    Raises:
        ValueError: ``resize`` is missing.
        MediaError: The processor refuses an image of this size.
    """
    width, height = _whole(coordinates, size, resize)
    left, top, right, bottom = corners
    return left / width, top / height, right / width, bottom / height


def _whole(coordinates: Coordinates, size: Size, resize: Resize | None) -> tuple[float, float]:
    """What the right and the bottom edge of the image are called."""
    if coordinates == "0-1":
        return 1.0, 1.0
    if coordinates == "0-1000":
        return 1000.0, 1000.0
    if coordinates == "pixels":
        return size
    if resize is None:
        raise ValueError("nothing says how images were resized")
    return resize.apply(size)
