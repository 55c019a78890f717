"""Headers of images: what they say, and what is said of files that are none."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlmserve.errors import MediaError
from vlmserve.media.headers import ImageHeader, read_image_header, read_image_headers

ORIENTATION = 0x0112


def noise(width: int = 90, height: int = 60, channels: int = 3) -> Image.Image:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8))


def encode(image: Image.Image, file_format: str, **kw: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **kw)
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_orientation_and_upright_size_are_pillows(file_format: str, orientation: int) -> None:
    from PIL import ImageOps

    data = encode(noise(), file_format, exif=exif(orientation))

    header = read_image_header(data)

    assert (header.width_px, header.height_px) == (90, 60)
    assert header.exif_orientation == orientation
    assert header.upright_size_px == ImageOps.exif_transpose(Image.open(io.BytesIO(data))).size


def test_exif_behind_the_pixels_of_a_png_counts() -> None:
    data = encode(noise(), "PNG", exif=exif(6))
    start = data.index(b"eXIf") - 4
    length = 12 + int.from_bytes(data[start : start + 4], "big")
    chunk, end = data[start : start + length], data.index(b"IEND") - 4
    moved = data[:start] + data[start + length : end] + chunk + data[end:]

    assert read_image_header(moved).exif_orientation == 6


def test_broken_exif_is_no_orientation() -> None:
    data = encode(noise(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")

    assert read_image_header(data).exif_orientation == 1


def palette_with_transparency() -> bytes:
    return encode(noise().quantize(8), "PNG", transparency=0)


@pytest.mark.parametrize(
    ("make", "mode", "has_alpha", "bits"),
    [
        (lambda: encode(noise(), "PNG"), "RGB", False, 8),
        (lambda: encode(noise(channels=4), "PNG"), "RGBA", True, 8),
        (lambda: encode(noise().convert("LA"), "PNG"), "LA", True, 8),
        (lambda: encode(noise().quantize(8), "PNG"), "P", False, 8),
        (palette_with_transparency, "P", True, 8),
        (lambda: encode(noise(), "PNG", transparency=(1, 2, 3)), "RGB", True, 8),
        (lambda: encode(noise().convert("CMYK"), "JPEG"), "CMYK", False, 8),
        (lambda: encode(noise(channels=1), "JPEG"), "L", False, 8),
        (
            lambda: encode(Image.fromarray(np.zeros((4, 4), np.uint16)), "PNG"),
            "I;16",
            False,
            16,
        ),
        (lambda: encode(noise().convert("1"), "PNG"), "1", False, 1),
    ],
)
def test_modes(make: Callable[[], bytes], mode: str, has_alpha: bool, bits: int) -> None:
    header = read_image_header(make())

    assert (header.mode, header.has_alpha, header.bits) == (mode, has_alpha, bits)
    assert not header.is_truncated
    assert not header.is_animated


def test_sixteen_bits_of_colour_count_though_pillow_keeps_eight() -> None:
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    pixels = zlib.compress((b"\0" + bytes(2 * 6)) * 2)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", pixels)
        + chunk(b"IEND", b"")
    )

    header = read_image_header(data)

    assert (header.mode, header.bits) == ("RGB", 16)


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP"])
def test_animations(file_format: str) -> None:
    frames = [noise(), noise().rotate(180)]

    data = encode(frames[0], file_format, save_all=True, append_images=frames[1:])

    assert read_image_header(data).is_animated


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_files_that_are_cut_short(file_format: str, share: float) -> None:
    data = encode(noise(300, 200), file_format)

    assert not read_image_header(data).is_truncated
    assert read_image_header(data[: int(len(data) * share)]).is_truncated


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_what_follows_a_whole_image_is_no_cut(file_format: str) -> None:
    # Phones append films and depth maps.
    data = encode(noise(), file_format) + b"trailer" * 2000

    assert not read_image_header(data).is_truncated


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>not found</html>", "a web page or XML"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "looks like video/mp4"),
        (b"hello", "not an image; it begins with b'hello'"),
        (b"\xff\xd8\xff\xe0", "Pillow cannot open it; it looks like image/jpeg"),
    ],
)
def test_files_that_are_no_images(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)

    with pytest.raises(MediaError, match=r"a\.jpg") as caught:
        read_image_header(path)

    assert said in caught.value.message


def test_absent_files_and_directories(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no such file"):
        read_image_header(tmp_path / "gone.png")
    with pytest.raises(MediaError, match="directory"):
        read_image_header(tmp_path)


def test_images_that_pillow_refuses_for_their_size() -> None:
    data = bytearray(encode(noise(1, 1), "PNG"))
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")

    with pytest.raises(MediaError, match="too large for Pillow"):
        read_image_header(bytes(data))


def test_many_headers_come_in_order_with_errors_in_their_places(tmp_path: Path) -> None:
    sources: list[Path | bytes | Callable[[], bytes]] = []
    for number in range(200):
        path = tmp_path / f"{number}.png"
        path.write_bytes(encode(noise(number + 1, 3), "PNG"))
        sources.append(path)
    sources[7] = tmp_path / "gone.png"
    sources[8] = (tmp_path / "8.png").read_bytes()
    sources[9] = (tmp_path / "9.png").read_bytes
    told: list[tuple[int, int]] = []

    headers = read_image_headers(sources, lambda done, total: told.append((done, total)))

    assert isinstance(headers[7], MediaError)
    widths = [header.width_px for header in headers if isinstance(header, ImageHeader)]
    assert widths == [number + 1 for number in range(200) if number != 7]
    assert told[-1] == (200, 200)


def test_slow_sources_are_read_at_once() -> None:
    import threading

    data = encode(noise(), "PNG")
    threads = set()

    def read() -> bytes:
        threads.add(threading.get_ident())
        threading.Event().wait(0.002)
        return data

    headers = read_image_headers([read] * 300)

    assert len(headers) == 300
    assert len(threads) > 2


def test_one_slow_source_of_few() -> None:
    assert read_image_headers([]) == []
