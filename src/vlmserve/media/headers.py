"""What an image's file says of it, without decoding: size, mode, orientation, and whether it ends.

Pillow opens lazily, so that a header costs some 100 microseconds where its file is in memory.
"""

import io
import os
import re
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vlmserve.errors import MediaError
from vlmserve.media.sniff import sniff_content_type

if TYPE_CHECKING:
    from PIL import Image

ImageSource = Path | bytes | Callable[[], bytes]
"""An image's file, what is in it, or what reads that."""

HeaderProgress = Callable[[int, int], None]
"""Told how many of how many headers have been read."""

_BATCH = 64
_BUFFER_BYTES = 64 * 1024
# Pillow's work holds the GIL, so that threads help only where a disk or a network makes them wait:
# with the files in memory 8 threads on two cores read half as many headers a second as one.
_WAITING_S = 0.001
_N_THREADS = 16
_BATCHES_IN_THREADS = 32

_ORIENTATION_TAG = 0x0112
# EXIF orientations that swap width and height (EXIF 2.32, tag 0x0112).
_TURNED = (5, 6, 7, 8)

_ANIMATED_FORMATS = ("GIF", "PNG", "WEBP", "AVIF")
_MODE_BITS = {"1": 1, "I": 32, "F": 32}
_TAIL_BYTES = 4096


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What a file says of the image in it."""

    width_px: int
    height_px: int
    """As stored, before the EXIF orientation is applied."""

    format: str
    """Pillow's name: ``JPEG``, ``PNG``, ``MPO``, ``WEBP``, ..."""

    mode: str
    """Pillow's mode: ``RGB``, ``RGBA``, ``P``, ``CMYK``, ``I;16``, ..."""

    exif_orientation: int
    """1 to 8; 1 where there is none, or none that Pillow can read."""

    has_alpha: bool
    """An alpha channel, or a colour that stands for transparency. Whether any pixel is really
    transparent, the header does not tell."""

    bits: int
    """Bits a channel as stored; 16 too where Pillow keeps 8 of them."""

    is_animated: bool
    """More than one frame; Pillow loads the first."""

    is_truncated: bool
    """The file stops before the image does: a download or a copy that was cut short. Known for
    JPEG, PNG and GIF."""

    @property
    def upright_size_px(self) -> tuple[int, int]:
        """Width and height after the EXIF orientation is applied."""
        if self.exif_orientation in _TURNED:
            return self.height_px, self.width_px
        return self.width_px, self.height_px


def read_image_header(source: ImageSource) -> ImageHeader:
    """Read what an image's file says of it.

    Args:
        source: The file, its bytes, or what reads them.

    Raises:
        MediaError: There is no such file, it cannot be read, or it is no image that Pillow knows.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _read(source)


def read_image_headers(
    sources: Sequence[ImageSource], progress: HeaderProgress | None = None
) -> list[ImageHeader | MediaError]:
    """Read many headers at once.

    Args:
        sources: Files, their bytes, or what reads these.
        progress: Told now and then, from this thread, how many are done.

    Returns:
        Shape ``(len(sources),)``: each header, or why there is none.
    """
    results: list[ImageHeader | MediaError] = []
    # Filters are of the whole process, so they are set once and not in each thread.
    with warnings.catch_warnings(), ThreadPoolExecutor(_N_THREADS) as threads:
        warnings.simplefilter("ignore")
        waiting = False
        while len(results) < len(sources):
            n_next = _BATCH * _BATCHES_IN_THREADS if waiting else _BATCH
            batch = sources[len(results) : len(results) + n_next]
            started_s = time.perf_counter()
            results += (
                threads.map(_header_or_error, batch) if waiting else map(_header_or_error, batch)
            )
            waiting = (time.perf_counter() - started_s) / len(batch) > _WAITING_S
            if progress is not None:
                progress(len(results), len(sources))
    return results


def _header_or_error(source: ImageSource) -> ImageHeader | MediaError:
    try:
        return _read(source)
    except MediaError as error:
        return error


def _read(source: ImageSource) -> ImageHeader:
    if not isinstance(source, Path):
        data = source if isinstance(source, bytes) else source()
        return _read_stream(io.BytesIO(data), data[-_TAIL_BYTES:], "the embedded image")
    try:
        with source.open("rb", buffering=_BUFFER_BYTES) as stream:
            # Not through the buffer, which holds the header.
            file = stream.fileno()
            tail = os.pread(file, _TAIL_BYTES, max(0, os.fstat(file).st_size - _TAIL_BYTES))
            return _read_stream(stream, tail, str(source))
    except FileNotFoundError:
        raise MediaError(f"{source}: no such file") from None
    except OSError as error:
        raise MediaError(f"{source}: {error.strerror or error}") from error


def _read_stream(stream: IO[bytes], tail: bytes, name: str) -> ImageHeader:
    from PIL import Image, UnidentifiedImageError

    if not tail:
        raise MediaError(f"{name}: the file is empty")
    try:
        with Image.open(stream) as image:
            return ImageHeader(
                width_px=image.width,
                height_px=image.height,
                format=image.format or "",
                mode=image.mode,
                exif_orientation=_orientation(image, tail),
                has_alpha=image.has_transparency_data,
                bits=_bits(image),
                is_animated=image.format in _ANIMATED_FORMATS
                and bool(getattr(image, "is_animated", False)),
                is_truncated=_lacks_end(image.format, tail) and not _decodes(stream),
            )
    except Image.DecompressionBombError as error:
        raise MediaError(f"{name}: too large for Pillow: {error}") from error
    except UnidentifiedImageError as error:
        raise MediaError(f"{name}: {_what_it_is(stream)}") from error
    except Exception as error:
        # Each of Pillow's readers has its own ways to fail at a malformed file.
        raise MediaError(f"{name}: its header cannot be read: {error}") from error


def _orientation(image: "Image.Image", tail: bytes) -> int:
    from PIL import Image

    try:
        # Pillow decodes a whole PNG to look for EXIF behind the pixels; that is needed only where
        # there is some.
        is_early = image.format != "PNG" or "exif" in image.info or b"eXIf" not in tail
        exif = Image.Image.getexif(image) if is_early else image.getexif()
        orientation = exif.get(_ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001 - whoever applies the orientation ignores broken EXIF, too
        return 1
    return orientation if orientation in range(1, 9) else 1


def _bits(image: "Image.Image") -> int:
    # Pillow opens a 16-bit RGB file as RGB; only the decoder's arguments tell.
    for tile in getattr(image, "tile", ()):
        match = re.search(r";(16|32)", str(tile[3]))
        if match is not None:
            return int(match[1])
    return 16 if image.mode.startswith("I;16") else _MODE_BITS.get(image.mode, 8)


def _lacks_end(image_format: str | None, tail: bytes) -> bool:
    """Whether the mark is missing that ends a whole file; some whole files have more behind it."""
    if image_format in {"JPEG", "MPO"}:
        return not tail.rstrip(b"\0\r\n").endswith(b"\xff\xd9")
    if image_format == "PNG":
        return b"IEND" not in tail[-16:]
    if image_format == "GIF":
        return not tail.rstrip(b"\0").endswith(b";")
    return False


def _decodes(stream: IO[bytes]) -> bool:
    from PIL import Image

    stream.seek(0)
    try:
        with Image.open(stream) as image:
            # A JPEG is read to its end at an eighth of its size, which is much faster.
            image.draft(image.mode, (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
    except Exception:  # noqa: BLE001 - each decoder has its own ways to fail
        return False
    return True


def _what_it_is(stream: IO[bytes]) -> str:
    stream.seek(0)
    head = stream.read(128)
    content_type = sniff_content_type(head)
    if content_type is not None:
        return f"Pillow cannot open it; it looks like {content_type}"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the image; run `git lfs pull`"
    if head.lstrip()[:1] == b"<":
        return "a web page or XML, not an image"
    return f"not an image; it begins with {head[:16]!r}"
