"""In which order samples are asked, where that is free."""

import math
from collections.abc import Sequence
from pathlib import Path

from vlmserve.evals.medium import Medium
from vlmserve.evals.samples import Sample

# A pixel file of this many bytes weighs as much as a character of text. It need not be right: what
# matters is that videos come before pictures, and large pictures before small ones.
_BYTES_PER_CHAR = 100


def order_samples(samples: Sequence[Sample]) -> list[Sample]:
    """Put samples that share media next to each other, and what takes long first.

    An engine's caches of prefixes and of processed media are small beside a data set: what was
    asked about the same image a moment ago is still there. And a long request that starts last
    keeps a whole engine waiting for itself alone.

    Returns:
        The same samples; those about the same media, and those of like weight, in their order.
    """
    groups: dict[tuple[str, ...], list[Sample]] = {}
    for index, sample in enumerate(samples):
        media = tuple(dict.fromkeys(medium.sha256 for medium in sample.media))
        # Without media there is nothing to share but a text, and every sample is its own group.
        groups.setdefault(media or (f"text {index}",), []).append(sample)
    heaviest = sorted(groups.values(), key=lambda group: max(map(_class, group)), reverse=True)
    return [sample for group in heaviest for sample in group]


def _class(sample: Sample) -> int:
    """How many times a sample's weight doubles 1: what differs by less keeps its order."""
    return int(math.log2(_weight(sample)))


def _weight(sample: Sample) -> float:
    chars = sum(len(part) for turn in sample.turns for part in turn.parts if isinstance(part, str))
    media = sum(_n_bytes(medium) for medium in sample.media)
    return sample.params.max_tokens + chars + media / _BYTES_PER_CHAR


def _n_bytes(medium: Medium) -> int:
    source = medium.source
    if isinstance(source, Path):
        # A file that has gone is its sample's failure, later.
        return source.stat().st_size if source.is_file() else 0
    return 0 if source is None else len(source)
