"""Thumbnails of a sample's media: small pictures as data URLs, one medium in memory at a time."""

import base64
import io
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmserve.media.videos import is_video_reader_installed, read_video_frames

if TYPE_CHECKING:
    from collections.abc import Iterable

    from PIL import Image

    from vlmserve.evals.eval_task import EvalTask
    from vlmserve.evals.medium import Medium

MAX_SIDE_PX = 256
"""Longest side of a thumbnail."""

N_FRAMES = 4
"""Frames shown of a video, evenly spread."""

_WEBP_QUALITY = 70
# Of 16-bit greys, which Pillow clips when it converts them.
_HALF_WORD = 256


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small picture."""

    url: str
    """``data:image/webp;base64,...``"""

    width_px: int
    height_px: int
    label: str
    """When a video's frame is shown, such as ``1.5 s``; empty for an image."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What can be shown of a medium."""

    thumbnails: tuple[Thumbnail, ...]
    size: str
    """Of the original, width by height in pixels; empty where it is not known."""

    missing: str
    """Why there is no thumbnail; empty where there is one."""

    @property
    def n_bytes(self) -> int:
        """What the thumbnails take in a file."""
        return sum(len(thumbnail.url) for thumbnail in self.thumbnails)


def collect_media(tasks: "Iterable[EvalTask]") -> "dict[str, Medium]":
    """Find the media of tasks by their digest; no file is read."""
    return {
        medium.sha256: medium
        for task in tasks
        for sample in task.samples
        for medium in sample.media
    }


def create_preview(medium: "Medium") -> Preview:
    """Make thumbnails of a medium; what cannot be shown says why and never raises.

    A file that has changed since it was asked about is not shown.
    """
    try:
        if medium.frames:
            return _frames(medium)
        data = medium.data()
        return _video(data) if medium.kind == "video" else _image(data)
    # The bytes are anybody's, and Pillow raises many kinds of errors over broken ones.
    except Exception as error:  # noqa: BLE001
        return Preview((), "", f"cannot be shown: {type(error).__name__}: {error}")


def _image(data: bytes) -> Preview:
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        # Above 89 million pixels Pillow warns, above twice that it refuses.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(data)) as image:
            size = _size(image)
            # JPEG can be decoded at a fraction of its size.
            image.draft("RGB", (2 * MAX_SIDE_PX, 2 * MAX_SIDE_PX))
            upright = ImageOps.exif_transpose(image)
            return Preview((_thumbnail(upright, ""),), size, "")


def _frames(medium: "Medium") -> Preview:
    n = len(medium.frames)
    shown = sorted({round(place * (n - 1) / (N_FRAMES - 1)) for place in range(N_FRAMES)})
    previews = [_image(medium.frames[index].data()) for index in shown]
    rate = medium.frames_per_second
    labels = [f"frame {index + 1}" if rate is None else f"{index / rate:.1f} s" for index in shown]
    return Preview(
        tuple(
            replace(preview.thumbnails[0], label=label)
            for preview, label in zip(previews, labels, strict=True)
        ),
        previews[0].size,
        "",
    )


def _video(data: bytes) -> Preview:
    from PIL import Image

    if not is_video_reader_installed():
        return Preview((), "", "frames of videos need OpenCV, which is not installed")
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        frames = read_video_frames(Path(file.name), N_FRAMES)
    pictures = [Image.fromarray(frame.rgb) for frame in frames]
    return Preview(
        tuple(
            _thumbnail(picture, f"{frame.time_s:.1f} s")
            for picture, frame in zip(pictures, frames, strict=True)
        ),
        _size(pictures[0]),
        "",
    )


def _size(image: "Image.Image") -> str:
    return f"{image.width} \N{MULTIPLICATION SIGN} {image.height}"


def _thumbnail(image: "Image.Image", label: str) -> Thumbnail:
    small = _eight_bits(image)
    small.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=_WEBP_QUALITY)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Thumbnail(f"data:image/webp;base64,{text}", small.width, small.height, label)


def _eight_bits(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if image.mode.startswith("I;16"):
        import numpy as np

        values: Any = np.asarray(image) // _HALF_WORD
        return Image.fromarray(values.astype(np.uint8))
    transparent = "A" in image.mode or "transparency" in image.info
    return image.convert("RGBA" if transparent else "RGB")
