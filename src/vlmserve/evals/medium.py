"""Media of samples: the files that they are, known by content and never re-encoded."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vlmserve.chat import FramesPart, ImagePart, VideoPart
from vlmserve.errors import MediaError
from vlmserve.evals.digests import content_digest
from vlmserve.media.headers import read_image_header
from vlmserve.media.sniff import sniff_content_type

MediumKind = Literal["image", "video"]


@dataclass(frozen=True, slots=True)
class Medium:
    """One image or video of a sample, as the file it was found in."""

    kind: MediumKind
    content_type: str
    sha256: str
    """Of the file's bytes, in hex."""

    source: bytes | Path | None
    """``None`` for a medium of a kept run, whose bytes are not at hand; empty for a video that is
    given as frames."""

    size_px: tuple[int, int] | None = None
    """Width and height, as far as a kept run knows them."""

    frames: tuple["Medium", ...] = ()
    """The pictures of a video that is given as such, in order."""

    frames_per_second: float | None = None
    """How densely ``frames`` were taken, where the data say."""

    @classmethod
    def load(cls, value: Any, folder: Path) -> "Medium":
        """Make a medium of what a data set holds, without re-encoding it where it is a file.

        Args:
            value: Bytes, a path, a ``{"bytes": ..., "path": ...}`` mapping as in ``datasets``, or a
                PIL image. An image that has left its file behind becomes a PNG.
            folder: What relative paths are relative to.

        Raises:
            MediaError: There is nothing there, or it is no image or video that is known here.
        """
        source = _source(value, folder)
        data = source if isinstance(source, bytes) else _read(source)
        content_type = sniff_content_type(data)
        if content_type is None:
            raise MediaError(f"{_name(source)} begins like no image or video ({len(data)} bytes)")
        kind = content_type.partition("/")[0]
        return cls(
            kind="video" if kind == "video" else "image",
            content_type=content_type,
            sha256=hashlib.sha256(data).hexdigest(),
            source=source,
        )

    @classmethod
    def of_frames(
        cls, frames: Sequence["Medium"], frames_per_second: float | None = None
    ) -> "Medium":
        """Make a video of pictures, which are sent as they are.

        Raises:
            MediaError: They differ in size, so that no model takes them for one video.
        """
        sizes = {read_image_header(frame.data()).upright_size_px for frame in frames}
        if len(sizes) > 1:
            listed = ", ".join(f"{width} x {height}" for width, height in sorted(sizes))
            raise MediaError(f"the frames of one video are of several sizes: {listed} pixels")
        return cls(
            kind="video",
            content_type="video/jpeg",
            sha256=content_digest([[frame.sha256 for frame in frames], frames_per_second]),
            source=b"",
            frames=tuple(frames),
            frames_per_second=frames_per_second,
        )

    def data(self) -> bytes:
        """Read the file, which a video of frames has not.

        Raises:
            MediaError: The file has gone or has changed since it was loaded.
        """
        source = self.source
        if source is None:
            raise MediaError("the medium is not at hand: it is known from a kept run alone")
        data = source if isinstance(source, bytes) else _read(source)
        if isinstance(source, Path) and hashlib.sha256(data).hexdigest() != self.sha256:
            raise MediaError(f"{source} has changed since the run began")
        return data

    def part(self) -> ImagePart | VideoPart | FramesPart:
        """Read the file, or the frames, into a message part.

        Raises:
            MediaError: A file has gone or has changed since it was loaded.
        """
        if self.frames:
            return FramesPart(
                frames=tuple(frame.data() for frame in self.frames),
                frames_per_second=self.frames_per_second,
            )
        data = self.data()
        part = VideoPart if self.kind == "video" else ImagePart
        return part(data=data, content_type=self.content_type)

    def upright_size_px(self) -> tuple[int, int] | None:
        """Width and height of an image as it is to be looked at.

        Raises:
            MediaError: The file has gone, or is no image that is known here.
        """
        if self.source is None or self.kind != "image":
            return self.size_px
        return read_image_header(self.source).upright_size_px


def _source(value: Any, folder: Path) -> bytes | Path:
    if isinstance(value, Mapping):
        return _mapping_source(value, folder)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, Path):
        return folder / value
    if isinstance(value, str):
        if "://" in value:
            raise MediaError(f"{value}: held-out media must be files, not addresses")
        return folder / value
    if value is None:
        raise MediaError("the medium is missing (null)")
    from PIL import Image

    if isinstance(value, Image.Image):
        return _image_source(value)
    raise MediaError(
        f"a {type(value).__name__} is no medium: bytes, a path, a mapping of bytes and path, or a "
        "PIL image is expected"
    )


def _mapping_source(value: Mapping[str, Any], folder: Path) -> bytes | Path:
    data, path = value.get("bytes"), value.get("path")
    if data:
        return bytes(data)
    if path:
        return _source(str(path), folder)
    raise MediaError("the medium is empty: it has neither bytes nor a path")


def _image_source(image: Any) -> bytes | Path:
    from PIL import Image

    path = Path(getattr(image, "filename", "") or "")
    if path.is_file():
        # The file is the original only while nobody has drawn on the image or scaled it in place.
        with Image.open(path) as original:
            if original.mode == image.mode and original.tobytes() == image.tobytes():
                return path
    buffer = io.BytesIO()
    try:
        image.save(buffer, format="PNG")
    except OSError as error:
        raise MediaError(
            f"an image of mode {image.mode} cannot be written as PNG; let doc_to_image name the "
            "column, so that the original file is sent"
        ) from error
    return buffer.getvalue()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MediaError(f"{path}: {error.strerror or error}") from error


def _name(source: bytes | Path) -> str:
    return "the medium" if isinstance(source, bytes) else str(source)
