"""What a video's container says of it: size, frames and rate; and some of its frames."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmserve.errors import MediaError
from vlmserve.media.headers import ImageSource


@dataclass(frozen=True, slots=True)
class VideoHeader:
    """What a container says of the video in it."""

    width_px: int
    height_px: int
    """As decoded: OpenCV applies the rotation that phones record."""

    n_frames: int
    """As the container counts them; streams without an index can be off by a few."""

    frames_per_second: float

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.n_frames / self.frames_per_second


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """One decoded frame."""

    time_s: float
    """When it is shown, from the video's beginning."""

    rgb: Any
    """``uint8`` array ``(height, width, 3)``."""


def is_video_reader_installed() -> bool:
    """Whether videos can be opened: OpenCV comes with vLLM, not with vlmserve itself."""
    try:
        _load_opencv()
    except ImportError:
        return False
    return True


def read_video_header(source: ImageSource) -> VideoHeader:
    """Read what a video's container says; nothing but its first frame is decoded.

    Args:
        source: The file, its bytes, or what reads them.

    Raises:
        MediaError: There is no such file, it is no video that OpenCV can open, or it has no frames.
        ImportError: OpenCV is not installed; see ``is_video_reader_installed``.
    """
    if isinstance(source, Path):
        if not source.is_file():
            raise MediaError(f"{source}: no such file")
        return _read(source, str(source))
    with tempfile.NamedTemporaryFile() as file:
        file.write(source if isinstance(source, bytes) else source())
        file.flush()
        return _read(Path(file.name), "the embedded video")


def read_video_frames(path: Path, count: int) -> list[VideoFrame]:
    """Decode frames at evenly spread places, the middles of ``count`` equal parts.

    Args:
        path: The video's file.
        count: How many frames; a video of fewer gives each of its own once.

    Returns:
        At least one frame. What cannot be decoded is left out.

    Raises:
        MediaError: There is no such file, or it is no video with a readable frame.
        ImportError: OpenCV is not installed; see ``is_video_reader_installed``.
    """
    header = read_video_header(path)
    cv2 = _load_opencv()
    wanted = sorted({(2 * n + 1) * header.n_frames // (2 * count) for n in range(count)})
    frames = []
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        for number in wanted:
            capture.set(cv2.CAP_PROP_POS_FRAMES, number)
            decoded, frame = capture.read()
            if decoded:
                rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                frames.append(VideoFrame(number / header.frames_per_second, rgb))
    finally:
        capture.release()
    if not frames:
        raise MediaError(f"{path}: no frame of the video could be decoded")
    return frames


def _load_opencv() -> Any:
    # What FFmpeg says of broken files would go to the terminal; it looks here once. -8 is quiet.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    import cv2

    return cv2


def _read(path: Path, name: str) -> VideoHeader:
    cv2 = _load_opencv()
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise MediaError(f"{name}: not a video that OpenCV can open")
        has_frame, _ = capture.read()
        header = VideoHeader(
            width_px=int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            height_px=int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
            n_frames=int(capture.get(cv2.CAP_PROP_FRAME_COUNT)),
            frames_per_second=float(capture.get(cv2.CAP_PROP_FPS)),
        )
    finally:
        capture.release()
    if not has_frame or header.n_frames <= 0 or not header.frames_per_second > 0:
        raise MediaError(f"{name}: a video without a readable frame")
    return header
