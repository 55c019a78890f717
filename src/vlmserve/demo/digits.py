"""Real handwritten digits: the 1,797 scans of scikit-learn's ``load_digits``, split by image."""

from functools import cache

import numpy as np

from vlmserve.demo.drawing import Pixels
from vlmserve.demo.splits import Split, split_of


@cache
def load_digits(split: Split) -> dict[int, tuple[Pixels, ...]]:
    """Return the scans of one split by the digit they show.

    The source has 17 levels of ink; here they are spread over 0 to 255.

    Returns:
        For each digit 0 to 9 its scans, each of shape ``(8, 8)``, in the order of the source. Equal
        scans fall into the same split, because their pixels decide it.
    """
    # Only the one who makes new samples needs scikit-learn.
    from sklearn.datasets import load_digits as load_source

    source = load_source()
    scans: dict[int, list[Pixels]] = {digit: [] for digit in range(10)}
    for ink, digit in zip(source.images, source.target, strict=True):
        scan = np.rint(ink * (255 / 16)).astype(np.uint8)
        if split_of(scan.tobytes()) == split:
            scans[int(digit)].append(scan)
    return {digit: tuple(found) for digit, found in scans.items()}
