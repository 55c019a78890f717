"""How large media may be, found out before they are decoded.

Sizes are read from headers: a file of some kilobytes can state an image that decodes to gigabytes.
"""

import io
import os
import threading
from typing import TYPE_CHECKING, Any, Protocol

from vlmserve.errors import MediaError
from vlmserve.media.kind import MediaKind, check_kind
from vlmserve.media.measured import Measured, Watch
from vlmserve.media.video_stream import VideoStream
from vlmserve.media.videos import VideoHeader

if TYPE_CHECKING:
    from vlmserve.config.media import MediaConfig

# Pillow's readers of the formats that are let through.
_PILLOW_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_MIN_FRAMES = 2


class Totals(Protocol):
    """Whoever is told of what is going to be decoded, and may refuse it."""

    def add_bytes(self, n_bytes: int) -> None:
        """Count a file."""

    def add_pixels(self, n_pixels: int, measured: Measured | None = None) -> None:
        """Count pixels that are going to be decoded, of a medium that has been measured by then."""


class RequestTotals:
    """What the media of one request amount to so far; safe to use from several threads.

    Args:
        config: The limits.
        watch: Told of each medium before it is decoded.
        of: Totals to go on with, where the watch is of a part of a request.
    """

    def __init__(
        self,
        config: "MediaConfig",
        watch: Watch | None = None,
        *,
        of: "RequestTotals | None" = None,
    ) -> None:
        self._config = config
        self._watch = watch
        self._sums: _Sums = _Sums() if of is None else of._sums

    def add_bytes(self, n_bytes: int) -> None:
        """Count a file.

        Raises:
            MediaError: The request's files are too large together.
        """
        limit = self._config.max_request_bytes
        with self._sums.lock:
            self._sums.n_bytes += n_bytes
            over = self._sums.n_bytes > limit
        if over:
            raise MediaError(
                f"with it the files of this request are larger than {limit} bytes; send fewer, or "
                "let the operator raise media.max_request_bytes"
            )

    def add_pixels(self, n_pixels: int, measured: Measured | None = None) -> None:
        """Count pixels that are going to be decoded.

        Args:
            n_pixels: How many.
            measured: What they are of, for the watch.

        Raises:
            MediaError: The request's images and sampled frames have too many pixels together.
            NotDecodedError: The watch saw enough.
        """
        limit = self._config.max_request_pixels
        with self._sums.lock:
            self._sums.n_pixels += n_pixels
            total = self._sums.n_pixels
        if total > limit:
            raise MediaError(
                f"with it this request has {total} pixels to decode, in images and sampled frames, "
                f"and {limit} are allowed; send fewer or smaller ones, or let the operator raise "
                "media.max_request_pixels"
            )
        if measured is not None and self._watch is not None:
            self._watch(measured)


class _Sums:
    """Counted from several threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.n_bytes = 0
        self.n_pixels = 0


def check_size(n_bytes: int, kind: MediaKind, config: "MediaConfig") -> None:
    """Refuse a file that is too large.

    Raises:
        MediaError: It is.
    """
    limit = max_bytes(kind, config)
    if n_bytes > limit:
        setting = "max_image_bytes" if kind == "image" else "max_video_bytes"
        raise MediaError(
            f"its file has {n_bytes} bytes, and {limit} are allowed; the operator can raise "
            f"media.{setting}"
        )


def max_bytes(kind: MediaKind, config: "MediaConfig") -> int:
    """Give the size that a file may have; audio may be as large as a video."""
    return config.max_image_bytes if kind == "image" else config.max_video_bytes


def check_image(data: bytes, config: "MediaConfig") -> int:
    """Check an image's file by its header.

    Args:
        data: The file.
        config: The limits.

    Returns:
        Its number of pixels.

    Raises:
        MediaError: It is no image, its header cannot be read, or it is too large.
    """
    from PIL import Image, UnidentifiedImageError

    check_kind(data, "image")
    try:
        with Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        raise MediaError(
            f"it has more pixels than any limit allows (media.max_image_pixels: "
            f"{config.max_image_pixels})"
        ) from None
    except UnidentifiedImageError:
        raise MediaError("it is not an image file that can be read: its header is broken") from None
    except Exception as error:
        # Each of Pillow's readers has its own ways to fail at a malformed file.
        raise MediaError(f"its header is broken: {_first_line(error)}") from error
    n_pixels = width * height
    size = f"it is {width} x {height} pixels"
    if n_pixels > config.max_image_pixels:
        raise MediaError(
            f"{size}, and {config.max_image_pixels} in all are allowed; the operator can raise "
            "media.max_image_pixels"
        )
    if max(width, height) > config.max_image_side_px:
        raise MediaError(
            f"{size}, and {config.max_image_side_px} a side are allowed; the operator can raise "
            "media.max_image_side_px"
        )
    return n_pixels


def check_frame(data: bytes, config: "MediaConfig") -> int:
    """Check one picture of a video that is given as a list of pictures.

    Args:
        data: The picture's file.
        config: The limits.

    Returns:
        Its number of pixels.

    Raises:
        MediaError: It is no image, its header cannot be read, or it is too large for a frame.
    """
    n_pixels = check_image(data, config)
    if n_pixels > config.max_video_pixels:
        raise MediaError(
            f"a frame has {n_pixels} pixels, and {config.max_video_pixels} are allowed; the "
            "operator can raise media.max_video_pixels"
        )
    return n_pixels


def check_n_frames(n_frames: int, config: "MediaConfig") -> None:
    """Refuse a video of too many frames.

    Raises:
        MediaError: It is one.
    """
    if n_frames > config.max_video_frames:
        raise MediaError(
            f"it has {n_frames} frames, and {config.max_video_frames} are allowed; the operator "
            "can raise media.max_video_frames"
        )


def check_video(data: bytes, config: "MediaConfig") -> VideoHeader:
    """Check a video's file by its container.

    Args:
        data: The file.
        config: The limits.

    Returns:
        What the container says.

    Raises:
        MediaError: It is no video, cannot be opened, states no length or rate, or is too large.
    """
    check_kind(data, "video")
    header = _read_container(data)
    _check_rate(header, config)
    n_pixels = header.width_px * header.height_px
    if n_pixels > config.max_video_pixels:
        raise MediaError(
            f"its frames are {header.width_px} x {header.height_px} pixels, and "
            f"{config.max_video_pixels} in all are allowed; the operator can raise "
            "media.max_video_pixels"
        )
    check_n_frames(header.n_frames, config)
    if header.n_frames * n_pixels > config.max_video_stream_pixels:
        raise MediaError(
            f"its {header.n_frames} frames of {header.width_px} x {header.height_px} pixels are "
            f"more than {config.max_video_stream_pixels} pixels to decode; the operator can raise "
            "media.max_video_stream_pixels"
        )
    if header.duration_s > config.max_video_duration_s:
        raise MediaError(
            f"it takes {header.duration_s:.0f} s, and {config.max_video_duration_s:g} are allowed; "
            "the operator can raise media.max_video_duration_s"
        )
    return header


def _check_rate(header: VideoHeader, config: "MediaConfig") -> None:
    if header.width_px <= 0 or header.height_px <= 0:
        raise MediaError("its container states no frame size")
    if 0 <= header.n_frames < _MIN_FRAMES:
        raise MediaError(
            f"it has too few frames: {header.n_frames}, and a video needs at least {_MIN_FRAMES}; "
            "send one frame as an image"
        )
    if header.n_frames < 0:
        raise MediaError("its container states no number of frames; a player's remux adds it")
    # Not a number is no rate either.
    if not header.frames_per_second > 0:
        raise MediaError("its container states no frame rate")
    if header.frames_per_second > config.max_video_fps:
        raise MediaError(
            f"its container states {header.frames_per_second:g} frames per second, and "
            f"{config.max_video_fps:g} are allowed; the operator can raise media.max_video_fps"
        )


def _read_container(data: bytes) -> VideoHeader:
    """Open a video as vLLM does, from memory, and decode nothing."""
    # What FFmpeg says of broken files would go to the log; it looks here once. -8 is quiet.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    import cv2

    stream: Any = VideoStream(data)
    try:
        # Never ``release()``: OpenCV 5.0 then drops the Python stream without holding the GIL,
        # which crashes the process. It is safe when the capture itself is collected.
        capture = cv2.VideoCapture(stream, cv2.CAP_FFMPEG, [])
        if not capture.isOpened():
            raise MediaError("it cannot be opened: the video is truncated or corrupt")
        return VideoHeader(
            width_px=int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            height_px=int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
            n_frames=int(capture.get(cv2.CAP_PROP_FRAME_COUNT)),
            frames_per_second=float(capture.get(cv2.CAP_PROP_FPS)),
        )
    except (cv2.error, ValueError, OverflowError) as error:
        raise MediaError("it cannot be opened: the video is corrupt") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200] or type(error).__name__
