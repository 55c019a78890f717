"""The image sizes that checks compare training and serving on: some usual ones, or a data set's."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vlmserve.doctor.examination import Examination
from vlmserve.media.headers import ImageHeader, ImageSource, read_image_headers

_STANDARD = ((224, 224), (640, 480), (1024, 768), (1920, 1080), (3000, 2000))

# Enough for a median and a 95th percentile; data.budget reads them all.
_MOST_HEADERS = 2000


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
    """The sizes of the images of the data set, as stored.

    At most 2,000 headers are read, evenly over the data set.

    Returns:
        The sizes, or ``None`` without a data set or where none of its images can be read.
    """
    if exam.data is None or exam.fast:
        return None
    sources: list[ImageSource] = []
    for sample in exam.data.samples:
        for medium in sample.media:
            source = medium.data if medium.data is not None else medium.path
            if medium.kind == "image" and source is not None:
                sources.append(source)
    step = max(1, math.ceil(len(sources) / _MOST_HEADERS))
    headers = read_image_headers(sources[::step])
    sizes = [
        (header.width_px, header.height_px) for header in headers if isinstance(header, ImageHeader)
    ]
    return ImageSizes(tuple(sizes), str(exam.data.path), is_data=True) if sizes else None


def _percentile(ordered: Sequence[int], percent: int) -> int:
    """Nearest rank."""
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]
