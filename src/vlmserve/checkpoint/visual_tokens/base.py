"""What every family's formula answers: tokens of an image or a video of a given size."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from vlmserve.errors import MediaError


@dataclass(frozen=True, slots=True)
class VisualSize:
    """What becomes of one image or video on its way into a prompt."""

    tokens: int
    """Tokens that the processor puts in the place of one placeholder: features, and with them the
    separators and frames that it inserts by itself (newline tokens, ``<img>`` and ``</img>``). What
    the chat template writes around the placeholder is text and not counted."""

    width_px: int
    """Width after resizing; of a tiled image, that of all tiles together without the overview."""

    height_px: int
    """Height after resizing, in the same way."""

    n_frames: int = 1
    """Frames of a video after padding."""

    inserted_texts: tuple[str, ...] = ()
    """Text that the processor writes between the tokens, such as a frame's time; each piece is
    tokenized by itself, with the checkpoint's own tokenizer, and is **not** in ``tokens``."""


class VisualTokens(ABC):
    """The token formula of one model family with the settings of one processor.

    Formulas are exact: they give what the processor gives, without an image. Sizes are those of the
    decoded image in pixels, at least 1.
    """

    @abstractmethod
    def image(self, width_px: int, height_px: int, *, n_images: int = 1) -> VisualSize:
        """The size of one image in the prompt.

        Args:
            width_px: Width before resizing.
            height_px: Height before resizing.
            n_images: Images in the whole sample; some families shrink all of them where there are
                several.

        Raises:
            MediaError: The processor refuses an image of this size.
        """

    def video(
        self,
        width_px: int,
        height_px: int,
        n_frames: int,
        *,
        frame_times_s: tuple[float, ...] | None = None,
    ) -> VisualSize | None:
        """The size of one video in the prompt, or ``None`` where the family has no video.

        Args:
            width_px: Width of a frame before resizing.
            height_px: Height of a frame before resizing.
            n_frames: Frames after sampling (``sample_frames``), at least 1.
            frame_times_s: When each sampled frame is shown, ``(n_frames,)``; only families that
                write times into the prompt use them. By default what the processor takes for a
                video of unknown frame rate: 24 frames a second.

        Raises:
            MediaError: The processor refuses a video of this size.
        """
        del width_px, height_px, n_frames, frame_times_s
        return None

    def sample_frames(self, duration_s: float, fps: float, n_frames: int) -> int | None:
        """How many frames the processor takes from a video.

        Args:
            duration_s: Length of the video.
            fps: Its frames per second.
            n_frames: Its frames in all.

        Returns:
            The number, or ``None`` where the processor takes what it is given and another program
            does the sampling.
        """
        del duration_s, fps, n_frames
        return None

    def with_max_pixels(self, max_pixels: int) -> "VisualTokens | None":
        """The formula with a lower limit for images, or ``None`` where the processor has none.

        Args:
            max_pixels: Width times height after resizing, at most.
        """
        del max_pixels
        return None


def require_size(width_px: int, height_px: int) -> None:
    """Refuse what is no size.

    Raises:
        MediaError: A side is shorter than a pixel.
    """
    if width_px < 1 or height_px < 1:
        raise MediaError(f"{width_px}x{height_px} pixels: no image is that small")
