"""Decodes media with vLLM 0.32's loaders once their headers were found to be within limits.

How many frames of a video are decoded is up to its loader, one for each family of models. The
loader says so before it decodes, and is stopped there when a request's pixels become too many.
"""

import binascii
import copy
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from vlmserve.errors import MediaError
from vlmserve.media.headers import read_image_header
from vlmserve.media.limits import (
    Totals,
    check_frame,
    check_image,
    check_n_frames,
    check_size,
    check_video,
)
from vlmserve.media.measured import Measured
from vlmserve.media.sniff import sniff_content_type
from vlmserve.media.videos import VideoHeader

if TYPE_CHECKING:
    from vlmserve.config.media import MediaConfig
    from vlmserve.media.kind import MediaKind

_FRAME_LIST = "video/jpeg"
_UNSURE_FRAMES = 2
# MP4 and MOV can hide frames that are there (edit lists), and a GIF's last frame may be shown for
# long; here a file that ends early is one that was cut.
_WHOLE_OR_BROKEN = frozenset({"video/webm", "video/x-matroska", "video/x-msvideo"})
_FRAME_LIST_FPS = 1.0


@dataclass(frozen=True, slots=True)
class FrameList:
    """A video as a list of pictures."""

    text: str
    """The pictures in base64, with commas between."""

    rate: float | None = None
    """How many of them were taken in a second, if that was said."""

    @property
    def io_config(self) -> dict[str, Any] | None:
        """What vLLM's caches must know: the same pictures at another rate are another video."""
        return None if self.rate is None else {"fps": self.rate}


def kind_of(media_io: Any) -> "MediaKind":
    """Tell what vLLM's loader is for."""
    name = type(media_io).__name__.lower()
    if name.startswith("image"):
        return "image"
    return "video" if name.startswith("video") else "audio"


def decode(data: bytes, media_io: Any, config: "MediaConfig", totals: Totals) -> Any:
    """Decode a file.

    Args:
        data: The file.
        media_io: vLLM's loader.
        config: The limits.
        totals: What the request's media amount to so far; this one is added.

    Returns:
        What the loader gives.

    Raises:
        MediaError: The file is over a limit, or its header is none.
        NotDecodedError: The request's watch saw enough.
        Exception: Whatever a decoder raises at broken content.
    """
    count_file(data, kind_of(media_io), config, totals)
    return decode_counted(data, media_io, config, totals)


def count_file(data: bytes, kind: "MediaKind", config: "MediaConfig", totals: Totals) -> None:
    """Hold a file's size against the limits, and add it to the request's.

    Raises:
        MediaError: It is over one.
    """
    check_size(len(data), kind, config)
    totals.add_bytes(len(data))


def decode_counted(data: bytes, media_io: Any, config: "MediaConfig", totals: Totals) -> Any:
    """Decode a file whose size was counted; else as ``decode``."""
    kind = kind_of(media_io)
    if kind == "image":
        totals.add_pixels(check_image(data, config), measure_image(data, media_io))
        return media_io.load_bytes(data)
    if kind == "video":
        return _decode_video(data, media_io, config, totals)
    return media_io.load_bytes(data)


def decode_data_url(url: str, media_io: Any, config: "MediaConfig", totals: Totals) -> Any:
    """Decode a data URL, as ``decode`` does a file.

    A list of pictures, ``data:video/jpeg;base64,A,B,C``, is a video to vLLM. How many of them were
    taken in a second can be said as ``data:video/jpeg;fps=2;base64,...``.
    """
    data = read_data_url(url, kind_of(media_io), config)
    if isinstance(data, FrameList):
        return decode_frame_list(data, media_io, config, totals)
    return decode(data, media_io, config, totals)


def read_data_url(url: str, kind: "MediaKind", config: "MediaConfig") -> "bytes | FrameList":
    """Take the content out of a data URL.

    Returns:
        The file, or a list of pictures.

    Raises:
        MediaError: The URL is malformed, or its content too large.
    """
    about, comma, content = url[len("data:") :].partition(",")
    if not comma:
        raise MediaError("its data URL has no comma, and so no content")
    content_type, separator, encoding = about.rpartition(";")
    if not separator or encoding != "base64":
        raise MediaError("only base64 data URLs are accepted: data:image/png;base64,...")
    if not content.isascii():
        raise MediaError("its base64 is malformed")
    content_type, _, parameters = content_type.lower().partition(";")
    check_size(len(content) * 3 // 4, kind, config)
    if kind == "video" and content_type == _FRAME_LIST:
        return FrameList(content, _stated_rate(parameters))
    return _decode_base64(content)


def _decode_base64(text: str) -> bytes:
    # It comes with vLLM, and is several times faster than the standard library.
    import pybase64

    try:
        data: bytes = pybase64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MediaError("its base64 is malformed") from None
    return data


def decode_frame_list(
    frames: FrameList, media_io: Any, config: "MediaConfig", totals: Totals
) -> Any:
    """Decode a list of pictures as a video.

    Raises:
        MediaError: There are too many, or one of them is over a limit or no picture.
    """
    n_frames = frames.text.count(",") + 1
    # vLLM keeps the first ``num_frames`` pictures and drops the others silently.
    limit = getattr(media_io, "num_frames", -1)
    if 0 < limit < n_frames:
        raise MediaError(
            f"{n_frames} frames are given and {limit} would be used; send fewer, or let the "
            "operator raise engine.media_io_kwargs.video.num_frames"
        )
    check_n_frames(n_frames, config)
    data = b""
    for number, text in enumerate(frames.text.split(",")):
        try:
            data = _decode_base64(text)
            totals.add_bytes(len(data))
            totals.add_pixels(check_frame(data, config))
        except MediaError as error:
            raise MediaError(f"frame {number}: {error.message}") from error.__cause__
    # Frames of several sizes are refused by the loader.
    size = read_image_header(data).upright_size_px
    header = VideoHeader(*size, n_frames, frames.rate or _FRAME_LIST_FPS)
    totals.add_pixels(0, _measure_video(header, range(n_frames)))
    if frames.rate is None:
        return media_io.load_base64(_FRAME_LIST, frames.text)
    video = _with_rate(media_io, frames.rate).load_base64(_FRAME_LIST, frames.text)
    video.io_config = frames.io_config
    return video


def _stated_rate(parameters: str) -> float | None:
    """How many frames of a list were taken in a second, if its data URL says so."""
    given = dict(part.partition("=")[::2] for part in parameters.split(";"))
    if "fps" not in given:
        return None
    try:
        rate = float(given["fps"])
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise MediaError(f"fps={given['fps'][:20]} in its data URL is no rate of frames")
    return rate


def _with_rate(media_io: Any, rate: float) -> Any:
    """A loader for frames that were taken at a rate."""
    # vLLM uses one loader for several files at times.
    own_io = copy.copy(media_io)
    own_io.kwargs = {**media_io.kwargs, "fps": rate}
    return own_io


def measure_image(data: bytes, media_io: Any) -> Measured:
    """Say how large an image is going to be, by its header.

    Args:
        data: The file, whose header was found sound.
        media_io: The loader that it is for.
    """
    header = read_image_header(data)
    turned = getattr(media_io, "rotates", True)
    size = header.upright_size_px if turned else (header.width_px, header.height_px)
    return Measured("image", *size)


def _measure_video(header: VideoHeader, indices: Sequence[int]) -> Measured:
    return Measured(
        "video",
        header.width_px,
        header.height_px,
        tuple(int(index) for index in indices),
        header.frames_per_second,
        header.n_frames,
    )


def _decode_video(data: bytes, media_io: Any, config: "MediaConfig", totals: Totals) -> Any:
    header = check_video(data, config)
    frame_pixels = header.width_px * header.height_px
    trimmed = sniff_content_type(data) not in _WHOLE_OR_BROKEN
    counted = _counting(media_io.video_loader, header, totals, may_be_trimmed=trimmed)
    # vLLM uses one loader for several files at times.
    own_io = copy.copy(media_io)
    own_io.video_loader = counted
    video = own_io.load_bytes(data)
    if not counted.sampled:
        # A loader that chooses frames by itself: known too late, but known.
        totals.add_pixels(len(video[0]) * frame_pixels)
    _refuse_lost_frames(counted.sampled, video[1].get("frames_indices"), header.n_frames)
    return video


def _refuse_lost_frames(
    sampled: Collection[int], decoded: Collection[int] | None, n_frames: int
) -> None:
    """Refuse a video of which vLLM would show the model only what could be decoded."""
    if decoded is None:
        return
    lost = set(sampled) - set(decoded)
    # Containers count a frame or two at the end that no player shows.
    if not decoded or any(index < n_frames - _UNSURE_FRAMES for index in lost):
        raise MediaError(
            f"{len(lost)} of {len(sampled)} sampled frames cannot be decoded: the video is "
            "truncated or corrupt"
        )


def _refuse_early_end(source: Any, header: VideoHeader) -> None:
    """Refuse a video that ends before its container says; vLLM would sample what is there."""
    n_there = getattr(source, "total_frames_num", header.n_frames)
    if n_there < header.n_frames - _UNSURE_FRAMES:
        raise MediaError(
            f"it ends after {n_there} of {header.n_frames} frames: the video is truncated or "
            "corrupt"
        )


def _counting(loader: Any, header: VideoHeader, totals: Totals, *, may_be_trimmed: bool) -> Any:
    """Derive a loader that counts the frames it is going to decode."""
    from typing_extensions import override

    frame_pixels = header.width_px * header.height_px

    class CountingLoader(type(loader)):  # type: ignore[misc]
        """Counts once; some loaders sample again to describe what they decoded."""

        sampled: ClassVar[list[int]] = []

        @classmethod
        @override
        def compute_frames_index_to_sample(cls, *args: Any, **kw: Any) -> Any:
            indices = super().compute_frames_index_to_sample(*args, **kw)
            if not cls.sampled:
                if not may_be_trimmed:
                    _refuse_early_end(kw.get("source"), header)
                cls.sampled = list(indices)
                n_pixels = len(indices) * frame_pixels
                totals.add_pixels(n_pixels, _measure_video(header, indices))
            return indices

    return CountingLoader()
