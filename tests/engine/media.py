"""Small images and videos in the formats that requests carry."""

import base64
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

RED, BLUE = (220, 40, 40), (50, 80, 225)


def png(size: tuple[int, int], color: tuple[int, int, int], *, format: str = "PNG") -> bytes:  # noqa: A002
    """A plain image of ``size`` (width, height) in pixels."""
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, format)
    return buffer.getvalue()


def mp4(n_frames: int, *, side: int = 56, fps: float = 2.0) -> bytes:
    """A video of a red dot that moves to the right."""
    import cv2

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "dot.mp4"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (side, side))
        for frame in range(n_frames):
            picture = np.zeros((side, side, 3), np.uint8)
            x = 10 + (side - 20) * frame // max(n_frames - 1, 1)
            cv2.circle(picture, (x, side // 2), 6, (40, 40, 220), -1)
            writer.write(picture)
        writer.release()
        return path.read_bytes()


def data_url(data: bytes, content_type: str = "image/png") -> str:
    return f"data:{content_type};base64,{base64.b64encode(data).decode()}"


def image(data: bytes | str, **more: Any) -> dict[str, Any]:
    """An image part, from a file's bytes or a URL."""
    url = data if isinstance(data, str) else data_url(data)
    return {"type": "image_url", "image_url": {"url": url}, **more}


def video(data: bytes | str, content_type: str = "video/mp4") -> dict[str, Any]:
    """A video part, from a file's bytes or a URL."""
    url = data if isinstance(data, str) else data_url(data, content_type)
    return {"type": "video_url", "video_url": {"url": url}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}
