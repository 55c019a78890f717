"""Images that were decoded lately, kept by their files' content.

Every turn of a conversation sends its images again, and so do the questions that are asked of one
image; decoding a photo takes longer than all else that a server does for it.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlmserve.media.measured import Measured

if TYPE_CHECKING:
    from PIL.Image import Image

Key = tuple[bytes, Hashable]
"""Digest of a file, and how it becomes pixels."""


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image, and what is counted for it."""

    image: "Image"
    config: tuple[tuple[str, Any], ...] | None
    """``io_config`` of vLLM's ``MediaWithBytes``."""

    n_pixels: int
    measured: Measured | None

    @property
    def n_bytes(self) -> int:
        """Memory of its pixels."""
        return self.image.width * self.image.height * 4

    def share(self) -> "Image":
        """An image of its own over the same pixels; Pillow copies them before it changes any."""
        shared = self.image._new(self.image.im)
        shared.readonly = 1
        return shared


class DecodedImages:
    """The images used last, up to a number of bytes; safe in many threads.

    Args:
        capacity_bytes: Memory for their pixels, beside what the requests in flight hold.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[Key, DecodedImage] = OrderedDict()
        self._n_bytes = 0

    @property
    def n_bytes(self) -> int:
        """What is kept now."""
        return self._n_bytes

    def key(self, data: bytes, how: Hashable) -> Key | None:
        """Name a file's pixels.

        Args:
            data: The file.
            how: Whatever else the pixels depend on.

        Returns:
            ``None`` where nothing is kept.
        """
        return (hashlib.sha256(data).digest(), how) if self._capacity else None

    def find(self, key: Key | None) -> DecodedImage | None:
        """Look for an image."""
        if key is None:
            return None
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def keep(self, key: Key | None, decoded: DecodedImage) -> None:
        """Keep an image, and let those go that were not used for the longest time.

        Nothing may change its pixels but what was given by ``share``.
        """
        if key is None or decoded.image.mode != "RGB" or decoded.n_bytes > self._capacity:
            return
        with self._lock:
            before = self._kept.pop(key, None)
            self._n_bytes += decoded.n_bytes - (0 if before is None else before.n_bytes)
            self._kept[key] = decoded
            while self._n_bytes > self._capacity:
                _, oldest = self._kept.popitem(last=False)
                self._n_bytes -= oldest.n_bytes
