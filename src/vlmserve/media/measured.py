"""What an image or a video is like by its header, before any of it is decoded."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Measured:
    """One medium of a request."""

    kind: Literal["image", "video"]
    width_px: int
    height_px: int
    """As shown: after the orientation that a camera recorded is applied."""

    frame_indices: tuple[int, ...] = ()
    """The frames of a video that are sampled, ``(n_sampled,)``."""

    frames_per_second: float | None = None
    n_frames: int | None = None
    """Frames of the video's file, sampled or not."""

    @property
    def frame_times_s(self) -> tuple[float, ...] | None:
        """When each sampled frame is shown, ``(n_sampled,)``; ``None`` without a frame rate."""
        rate = self.frames_per_second
        if not rate or rate <= 0:
            return None
        return tuple(index / rate for index in self.frame_indices)


Watch = Callable[[Measured], None]
"""Told of each medium before it is decoded; raises ``NotDecodedError`` to spare that."""


class NotDecodedError(Exception):
    """A medium is not decoded because its request is going to be refused.

    Args:
        measured: What is known of it.
    """

    def __init__(self, measured: Measured) -> None:
        super().__init__("not decoded: its request does not fit")
        self.measured = measured


@dataclass(frozen=True, slots=True)
class Undecoded:
    """Stands for a medium that was not decoded, until its request is refused."""

    measured: Measured
