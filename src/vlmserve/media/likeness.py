"""Which images are the same: the same file, or the same picture encoded or scaled anew.

A picture is known by a thumbnail of 16 x 16 pixels. Encoding photographs anew (JPEG down to quality
20, WebP) and scaling them (by 2 down to a tenth) moves a thumbnail's values by 13 of 255 at most,
by 1 in the mean, and JPEG moves those of drawings of 56 pixels by 22; another object, word or
number moves some of them by far more. Hashes of 64 bits (dHash, pHash) keep too little to tell
drawings on plain ground or pages of text apart.
"""

import hashlib
import io
import itertools
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmserve.errors import MediaError
from vlmserve.media.headers import ImageSource

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

_SIDE_PX = 16
_MOST_DIFFERENCE = 24
_MOST_MEAN_DIFFERENCE = 3.0
_MOST_ASPECT_DIFFERENCE = 0.02
# Below this spread of brightness a picture is as good as empty, and all of those are alike.
_LEAST_SPREAD = 6.0
# Pictures that are alike differ by this much at most in the mean brightness of each of 2 x 4 parts.
_MOST_PART_DIFFERENCE = 3.0
_PARTS = (2, 4)
_CELL = 12.0
_STRIDE = 23  # prime to the thumbnail's sides, so that the few values lie all over it

_N_THREADS = 4
_BATCH = 64
_DRAFT_PX = 4 * _SIDE_PX


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What an image is known by."""

    digest: bytes
    """SHA-256 of the file."""

    thumbnail: "Array | None"
    """Shape ``(16, 16, 3)``, RGB in ``[0, 255]``; ``None`` for a picture that is as good as empty,
    and for a file that cannot be decoded."""

    aspect: float
    """Width by height; 0 where the file cannot be decoded."""


def take_fingerprint(source: ImageSource) -> Fingerprint:
    """Read a file and decode it, a JPEG at a fraction of its size.

    Args:
        source: The file, its bytes, or what reads them; a file of any kind has a digest.

    Raises:
        MediaError: There is no such file, or it cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _take(source)


def take_fingerprints(
    sources: Sequence[ImageSource], progress: Callable[[int, int], None] | None = None
) -> list[Fingerprint | MediaError]:
    """Take many at once, in threads: decoding lets go of the GIL.

    Args:
        sources: Files, their bytes, or what reads these.
        progress: Told now and then, from this thread, how many are done.

    Returns:
        Shape ``(len(sources),)``: each fingerprint, or why there is none.
    """
    results: list[Fingerprint | MediaError] = []
    # Filters are of the whole process, so they are set once and not in each thread.
    with warnings.catch_warnings(), ThreadPoolExecutor(_N_THREADS) as threads:
        warnings.simplefilter("ignore")
        for start in range(0, len(sources), _BATCH):
            results += threads.map(_take_or_error, sources[start : start + _BATCH])
            if progress is not None:
                progress(len(results), len(sources))
    return results


class LikenessIndex:
    """Finds the pictures that are like one, without looking at all of them.

    Pictures are sorted into cells by the mean brightness of eight parts, and only those in the
    cells within reach are compared; so nothing that is alike by ``are_alike`` is missed.
    """

    def __init__(self, fingerprints: Sequence[Fingerprint]) -> None:
        import numpy as np

        self._numbers = [
            number for number, one in enumerate(fingerprints) if one.thumbnail is not None
        ]
        thumbnails = [fingerprints[number].thumbnail for number in self._numbers]
        flat = [thumbnail.reshape(-1) for thumbnail in thumbnails if thumbnail is not None]
        self._values = np.stack(flat) if flat else np.zeros((0, 3 * _SIDE_PX**2), np.uint8)
        self._few = np.ascontiguousarray(self._values[:, ::_STRIDE])
        self._parts = _parts(self._values)
        self._aspects = np.array([fingerprints[number].aspect for number in self._numbers])
        self._cells: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for place, cell in enumerate((self._parts // _CELL).astype(int).tolist()):
            self._cells[tuple(cell)].append(place)

    def find(self, fingerprint: Fingerprint) -> list[int]:
        """Numbers of the pictures that are like this one, in order."""
        import numpy as np

        if fingerprint.thumbnail is None:
            return []
        values = fingerprint.thumbnail.reshape(-1)
        (parts,) = _parts(values[None])
        near = np.array(sorted(self._near(parts)), dtype=int)
        # Cheap differences first: a million blank forms lie in one cell.
        near = near[
            np.abs(self._parts[near] - parts).max(axis=1, initial=0) <= _MOST_PART_DIFFERENCE
        ]
        few = _differences(self._few[near], values[::_STRIDE])
        near = near[few.max(axis=1, initial=0) <= _MOST_DIFFERENCE]
        difference = _differences(self._values[near], values)
        aspects = self._aspects[near]
        alike = (
            (difference.max(axis=1, initial=0) <= _MOST_DIFFERENCE)
            & (difference.mean(axis=1) <= _MOST_MEAN_DIFFERENCE)
            & (np.abs(aspects - fingerprint.aspect) <= _MOST_ASPECT_DIFFERENCE * aspects)
        )
        return [self._numbers[place] for place in near[alike]]

    def _near(self, parts: "Array") -> Iterator[int]:
        reach = [
            sorted(
                {
                    int((part + side) // _CELL)
                    for side in (-_MOST_PART_DIFFERENCE, _MOST_PART_DIFFERENCE)
                }
            )
            for part in parts
        ]
        for cell in itertools.product(*reach):
            yield from self._cells.get(cell, ())


def _differences(values: "Array", one: "Array") -> "Array":
    import numpy as np

    return np.abs(values.astype(np.int16) - one.astype(np.int16))


def _parts(values: "Array") -> "Array":
    """Mean brightness of 2 x 4 parts, shape ``(n, 8)``, of thumbnails ``(n, 768)``."""
    rows, columns = _PARTS
    shape = (-1, rows, _SIDE_PX // rows, columns, _SIDE_PX // columns, 3)
    parts: Array = values.reshape(shape).mean(axis=(2, 4, 5)).reshape(-1, rows * columns)
    return parts


def _take_or_error(source: ImageSource) -> Fingerprint | MediaError:
    try:
        return _take(source)
    except MediaError as error:
        return error


def _take(source: ImageSource) -> Fingerprint:
    data = _read(source)
    digest = hashlib.sha256(data).digest()
    thumbnail, aspect = _draw(data)
    return Fingerprint(digest, thumbnail, aspect)


def _read(source: ImageSource) -> bytes:
    if isinstance(source, bytes):
        return source
    if not isinstance(source, Path):
        return source()
    try:
        return source.read_bytes()
    except FileNotFoundError:
        raise MediaError(f"{source}: no such file") from None
    except OSError as error:
        raise MediaError(f"{source}: {error.strerror or error}") from error


def _draw(data: bytes) -> tuple["Array | None", float]:
    import numpy as np
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            aspect = image.width / image.height
            image.draft("RGB", (_DRAFT_PX, _DRAFT_PX))
            # Transparent pixels may be anything; on white they are what vLLM shows.
            # Hamming weights by position, other than Box, which rounds to whole pixels.
            small = _on_white(image).resize((_SIDE_PX, _SIDE_PX), Image.Resampling.HAMMING)
    except Exception:  # noqa: BLE001 - each decoder has its own ways to fail; the digest remains
        return None, 0.0
    thumbnail = np.asarray(small)
    is_plain = thumbnail.mean(axis=2).std() < _LEAST_SPREAD
    return (None if is_plain else thumbnail), aspect


def _on_white(image: Any) -> Any:
    from PIL import Image

    if not image.has_transparency_data:
        return image.convert("RGB")
    drawn = image.convert("RGBA")
    ground = Image.new("RGBA", drawn.size, "white")
    return Image.alpha_composite(ground, drawn).convert("RGB")
