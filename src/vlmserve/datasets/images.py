"""The image headers of a whole data set, each file read once."""

from collections.abc import Callable, Hashable
from typing import NamedTuple

from vlmserve.datasets.sample import Dataset, Medium, Sample
from vlmserve.errors import MediaError
from vlmserve.media.headers import ImageHeader, ImageSource, read_image_headers


class ImageUse(NamedTuple):
    """An image where a sample uses it."""

    sample: Sample
    medium: Medium
    """An image, or a frame of a video that is given as images."""

    header: ImageHeader | MediaError
    """What its file says, or why it cannot be read."""


def read_dataset_headers(
    dataset: Dataset, progress: Callable[[int, int], None] | None = None
) -> list[ImageUse]:
    """Read the headers of all images of a data set.

    A file that many samples use is read once, and what was read before of the same data set is not
    read again. Images on other machines are left out.

    Args:
        dataset: The data set; it keeps the headers.
        progress: Told now and then how many files of those that are left have been read.

    Returns:
        Every use of an image, in the order of the samples.
    """
    known = dataset.headers
    wanted: dict[Hashable, ImageSource] = {}
    uses = []
    for sample in dataset.samples:
        for medium in sample.media:
            images = medium.frames or ((medium,) if medium.kind == "image" else ())
            for image in images:
                source = image.source
                if source is None:
                    continue
                key = identify(image)
                uses.append((sample, image, key))
                if key not in known:
                    wanted[key] = source
    headers = read_image_headers(list(wanted.values()), progress)
    known.update(zip(wanted, headers, strict=True))
    return [ImageUse(sample, image, known[key]) for sample, image, key in uses]


def identify(medium: Medium) -> Hashable:
    """Something that is the same for media that are the same file."""
    return medium.embedded or (medium.root, medium.reference)
