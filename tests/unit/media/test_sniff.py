import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlmserve.demo.video import encode_mp4
from vlmserve.media.sniff import sniff_content_type

IMAGE_FORMATS = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "GIF": "image/gif",
    "WEBP": "image/webp",
    "TIFF": "image/tiff",
    "BMP": "image/bmp",
    "AVIF": "image/avif",
}


@pytest.mark.parametrize(("name", "content_type"), IMAGE_FORMATS.items())
def test_images_that_pillow_writes_are_known(name: str, content_type: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, name)

    assert sniff_content_type(buffer.getvalue()) == content_type
    assert sniff_content_type(buffer.getvalue()[:64]) == content_type


def test_videos_that_opencv_writes_are_known(tmp_path: Path) -> None:
    import cv2

    frames = np.zeros((4, 32, 32, 3), np.uint8)
    assert sniff_content_type(encode_mp4(frames)) == "video/mp4"
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 4, (32, 32))
    for frame in frames:
        writer.write(frame)
    writer.release()
    assert sniff_content_type(path.read_bytes()) == "video/x-msvideo"


@pytest.mark.parametrize(
    ("head", "content_type"),
    [
        (b"\x00\x00\x00\x14ftypqt  ", "video/quicktime"),
        (b"\x00\x00\x00\x18ftypheic", "image/heic"),
        (b"\x00\x00\x00\x18ftypM4V ", "video/mp4"),
        (b"\x00\x00\x00\x18ftypM4A ", None),
        (b"\x1aE\xdf\xa3\x93B\x82\x84webm", "video/webm"),
        (b"\x1aE\xdf\xa3\x93B\x82\x88matroska", "video/x-matroska"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", None),
        (b"<html><body>", None),
        (b"%PDF-1.7", None),
        (b"", None),
    ],
)
def test_heads_of_files(head: bytes, content_type: str | None) -> None:
    assert sniff_content_type(head) == content_type
