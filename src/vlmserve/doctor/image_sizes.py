"""The image sizes that checks compare training and serving on: some usual ones, or a data set's."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vlmserve.datasets.images import read_dataset_headers
from vlmserve.doctor.examination import Examination
from vlmserve.media.headers import ImageHeader

_STANDARD = ((224, 224), (640, 480), (1024, 768), (1920, 1080), (3000, 2000))


@dataclass(frozen=True, slots=True)
class ImageSizes:
    """Sizes of images, and how to show what becomes of them."""

    sizes_px: tuple[tuple[int, int], ...]
    """Width and height of each image, at least one."""

    origin: str
    """What evidence names as the file."""

    is_data: bool

    def rows(self) -> Iterator[tuple[str, Sequence[tuple[int, int]]]]:
        """What to show: each size for itself, or a data set's as a whole; with a label."""
        if self.is_data:
            yield f"{len(self.sizes_px)} images", self.sizes_px
        else:
            yield from ((f"{width}x{height}", [(width, height)]) for width, height in self.sizes_px)

    def summarise(self, tokens: Sequence[int | None]) -> str:
        """Say a row's tokens: its number, or median and 95th percentile."""
        known = sorted(count for count in tokens if count is not None)
        if not known:
            return "refused"
        if not self.is_data:
            return f"{known[0]} tokens"
        return f"median {_percentile(known, 50)}, p95 {_percentile(known, 95)} tokens"


def standard_sizes() -> ImageSizes:
    """Sizes that people send: a thumbnail, old and new screens, a camera."""
    return ImageSizes(_STANDARD, "tokens", is_data=False)


def data_sizes(exam: Examination) -> ImageSizes | None:
    """The sizes of the images of the data set, as stored; frames of videos are not among them.

    Returns:
        The sizes, or ``None`` without a data set or where none of its images can be read.
    """
    if exam.data is None or exam.fast:
        return None
    sizes = [
        (use.header.width_px, use.header.height_px)
        for use in read_dataset_headers(exam.data)
        if isinstance(use.header, ImageHeader) and use.medium in use.sample.media
    ]
    return ImageSizes(tuple(sizes), str(exam.data.path), is_data=True) if sizes else None


def _percentile(ordered: Sequence[int], percent: int) -> int:
    """Nearest rank."""
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]
