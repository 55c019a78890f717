"""Decodes media with vLLM 0.32's loaders once their headers were found to be within limits.

How many frames of a video are decoded is up to its loader, one for each family of models. The
loader says so before it decodes, and is stopped there when a request's pixels become too many.
"""

import binascii
import copy
import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar

from vlmserve.errors import MediaError
from vlmserve.media.headers import read_image_header
from vlmserve.media.limits import (
    RequestTotals,
    check_frame,
    check_image,
    check_n_frames,
    check_size,
    check_video,
)
from vlmserve.media.videos import VideoHeader

if TYPE_CHECKING:
    from vlmserve.config.serve import MediaConfig
    from vlmserve.media.kind import MediaKind

_FRAME_LIST = "video/jpeg"
_UNSURE_FRAMES = 2
_FRAME_LIST_FPS = 1.0


def kind_of(media_io: Any) -> "MediaKind":
    """Tell what vLLM's loader is for."""
    name = type(media_io).__name__.lower()
    if name.startswith("image"):
        return "image"
    return "video" if name.startswith("video") else "audio"


def decode(data: bytes, media_io: Any, config: "MediaConfig", totals: RequestTotals) -> Any:
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
    kind = kind_of(media_io)
    check_size(len(data), kind, config)
    totals.add_bytes(len(data))
    if kind == "image":
        totals.add_pixels(check_image(data, config))
        totals.show_image(data)
        return media_io.load_bytes(data)
    if kind == "video":
        return _decode_video(data, media_io, config, totals)
    return media_io.load_bytes(data)


def decode_data_url(url: str, media_io: Any, config: "MediaConfig", totals: RequestTotals) -> Any:
    """Decode a data URL, as ``decode`` does a file.

    A list of pictures, ``data:video/jpeg;base64,A,B,C``, is a video to vLLM. How many of them were
    taken in a second can be said as ``data:video/jpeg;fps=2;base64,...``.
    """
    about, comma, content = url[len("data:") :].partition(",")
    if not comma:
        raise MediaError("its data URL has no comma, and so no content")
    content_type, separator, encoding = about.rpartition(";")
    if not separator or encoding != "base64":
        raise MediaError("only base64 data URLs are accepted: data:image/png;base64,...")
    content_type, _, parameters = content_type.lower().partition(";")
    kind = kind_of(media_io)
    check_size(len(content) * 3 // 4, kind, config)
    if kind == "video" and content_type == _FRAME_LIST:
        rate = _stated_rate(parameters)
        own_io = media_io if rate is None else _with_rate(media_io, rate)
        video = _decode_frame_list(content, content_type, own_io, config, totals)
        if rate is not None:
            # The same pictures at another rate are another video to vLLM's caches.
            video.io_config = {"fps": rate}
        return video
    return decode(_decode_base64(content), media_io, config, totals)


def _decode_base64(text: str) -> bytes:
    # It comes with vLLM, and is several times faster than the standard library.
    import pybase64

    try:
        data: bytes = pybase64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MediaError("its base64 is malformed") from None
    return data


def _decode_frame_list(
    content: str, content_type: str, media_io: Any, config: "MediaConfig", totals: RequestTotals
) -> Any:
    n_frames = content.count(",") + 1
    # vLLM keeps the first ``num_frames`` pictures and drops the others silently.
    limit = getattr(media_io, "num_frames", -1)
    if 0 < limit < n_frames:
        raise MediaError(
            f"{n_frames} frames are given and {limit} would be used; send fewer, or let the "
            "operator raise engine.media_io_kwargs.video.num_frames"
        )
    check_n_frames(n_frames, config)
    data = b""
    for number, text in enumerate(content.split(",")):
        try:
            data = _decode_base64(text)
            totals.add_bytes(len(data))
            totals.add_pixels(check_frame(data, config))
        except MediaError as error:
            raise MediaError(f"frame {number}: {error.message}") from error.__cause__
    # Frames of several sizes are refused by the loader.
    size = read_image_header(data).upright_size_px
    totals.show_video(VideoHeader(*size, n_frames, _FRAME_LIST_FPS), range(n_frames))
    return media_io.load_base64(content_type, content)


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


def _decode_video(data: bytes, media_io: Any, config: "MediaConfig", totals: RequestTotals) -> Any:
    header = check_video(data, config)
    frame_pixels = header.width_px * header.height_px
    counted = _counting(media_io.video_loader, header, totals)
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


def _counting(loader: Any, header: VideoHeader, totals: RequestTotals) -> Any:
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
                cls.sampled = list(indices)
                totals.add_pixels(len(indices) * frame_pixels)
                totals.show_video(header, indices)
            return indices

    return CountingLoader()
