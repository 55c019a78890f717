import io
from typing import Any

import pytest
from PIL import Image

from vlmserve.media.normalise import Normalisation, load_rgb

PLAIN = Normalisation("a framework", rotates=False, fills_white=False)
TURNING = Normalisation("a framework", rotates=True, fills_white=False)
WHITE = Normalisation("a framework", rotates=False, fills_white=True)


def file(image: Image.Image, format: str = "PNG", **more: Any) -> bytes:  # noqa: A002
    buffer = io.BytesIO()
    image.save(buffer, format, **more)
    return buffer.getvalue()


def test_orientation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = file(Image.new("RGB", (30, 20)), "JPEG", exif=exif)

    assert load_rgb(data, PLAIN).size == (30, 20)
    assert load_rgb(data, TURNING).size == (20, 30)


def test_transparency() -> None:
    data = file(Image.new("RGBA", (4, 4), (10, 20, 30, 0)))

    assert load_rgb(data, PLAIN).getpixel((0, 0)) == (10, 20, 30)
    assert load_rgb(data, WHITE).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("how", [PLAIN, TURNING, WHITE])
def test_every_mode_becomes_rgb(mode: str, how: Normalisation) -> None:
    image = Image.new(mode, (5, 4))
    data = file(image, "TIFF" if mode == "CMYK" else "PNG")

    decoded = load_rgb(data, how)

    assert decoded.mode == "RGB"
    assert decoded.size == (5, 4)
