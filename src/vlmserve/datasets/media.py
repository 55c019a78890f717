"""A row's images and videos: every spelling that the training frameworks take."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlmserve.datasets.fields import Row, RowError, shorten
from vlmserve.datasets.sample import URL_SCHEMES, MediaKind, Medium

# ms-swift 4 template/vision_utils.py _check_path: a longer reference is base64, not a path.
_LONGEST_PATH = 2000


# vLLM's spelling of a video as a list of pictures; the rate is vlmserve's addition.
_FRAME_LIST = "data:video/jpeg"
_RATE = re.compile(r";fps=([0-9.]+)(?=;)")


def _read_frame_list(reference: str, field: str) -> Medium:
    """Read ``data:video/jpeg;base64,A,B,C``, or with ``;fps=2`` in front of ``;base64``."""
    head, _, body = reference.partition(",")
    if not head.lower().endswith(";base64") or not body:
        raise RowError(f"{field}: a list of frames without ;base64,")
    rate = _RATE.search(head.lower())
    try:
        frames_per_second = None if rate is None else float(rate[1])
    except ValueError:
        raise RowError(f"{field}: fps={rate[1] if rate else ''} is no rate of frames") from None
    frames = tuple(Medium("image", f"data:image/jpeg;base64,{one}") for one in body.split(","))
    return Medium(
        kind="video",
        reference=frames[0].reference,
        frames=frames,
        frames_per_second=frames_per_second or None,
    )


@dataclass(frozen=True, slots=True)
class MediaReader:
    """Makes media of what rows say."""

    root: Path
    """What relative paths count from."""

    def read_images(self, value: Any, field: str) -> list[Medium]:
        """Read an ``images`` column: nothing, one image, or a list of them.

        Raises:
            RowError: It is something else.
        """
        items = value if isinstance(value, list) else [value]
        return [
            self.read_one("image", item, f"{field}[{index}]")
            for index, item in enumerate(items)
            if item is not None and item != ""
        ]

    def read_videos(self, value: Any, field: str) -> list[Medium]:
        """Read a ``videos`` column: nothing, one video, or a list of them.

        A list within the list is the frames of one video (LLaMA-Factory, ms-swift).

        Raises:
            RowError: It is something else.
        """
        items = value if isinstance(value, list) else [value]
        return [
            self.read_video(item, f"{field}[{index}]", None)
            for index, item in enumerate(items)
            if item is not None and item != ""
        ]

    def read_video(self, value: Any, field: str, frames_per_second: float | None) -> Medium:
        """Read one video: a file, or a list of frames."""
        if not isinstance(value, list):
            video = self.read_one("video", value, field)
            rate = frames_per_second or video.frames_per_second
            return replace(video, frames_per_second=rate)
        frames = tuple(
            self.read_one("image", frame, f"{field}[{index}]") for index, frame in enumerate(value)
        )
        if not frames:
            raise RowError(f"{field}: a video without frames")
        return Medium(
            kind="video",
            reference=frames[0].reference,
            frames=frames,
            frames_per_second=frames_per_second,
        )

    def read_one(self, kind: MediaKind, value: Any, field: str) -> Medium:
        """Read one image, or one video that is a file."""
        if isinstance(value, str):
            return self._by_reference(kind, value.strip(), field)
        if callable(value):
            return Medium(kind, field, embedded=value)
        if isinstance(value, dict):
            return self._by_struct(kind, value, field)
        raise RowError(f"{field}: a path, URL or embedded file is expected, not {shorten(value)}")

    def _by_reference(self, kind: MediaKind, reference: str, field: str) -> Medium:
        if not reference:
            raise RowError(f"{field}: empty")
        if kind == "video" and reference[: len(_FRAME_LIST)].lower() == _FRAME_LIST:
            return _read_frame_list(reference, field)
        if reference.startswith(("data:", *URL_SCHEMES)):
            return Medium(kind, reference)
        if len(reference) > _LONGEST_PATH:
            return Medium(kind, f"data:;base64,{reference}")
        if reference.startswith("~"):
            reference = str(Path(reference).expanduser())
        return Medium(kind, reference, root=self.root)

    def _by_struct(self, kind: MediaKind, value: Row, field: str) -> Medium:
        # The ``datasets`` library's Image and Video features; OpenAI's ``{"url": ...}``.
        data = value.get("bytes")
        path = value.get("path")
        if data is not None:
            if not callable(data):
                raise RowError(f"{field}.bytes: bytes are expected, not {shorten(data)}")
            return Medium(kind, path if isinstance(path, str) and path else field, embedded=data)
        reference = next((value[key] for key in ("path", "url") if value.get(key)), None)
        if not isinstance(reference, str):
            raise RowError(f"{field}: neither path, url nor bytes")
        return self._by_reference(kind, reference.strip(), field)
