import io
import struct
import threading
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlmserve.config.media import MediaConfig
from vlmserve.errors import MediaError
from vlmserve.media.limits import (
    RequestTotals,
    check_frame,
    check_image,
    check_n_frames,
    check_size,
    check_video,
)


def config(**settings: Any) -> MediaConfig:
    return MediaConfig.model_validate(settings)


def encoded(format: str, size: tuple[int, int] = (40, 30)) -> bytes:  # noqa: A002
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(buffer, format)
    return buffer.getvalue()


def png_that_states(width: int, height: int) -> bytes:
    """A PNG of some dozen bytes whose header states any size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_images_of_every_known_format_pass(format: str) -> None:  # noqa: A002
    assert check_image(encoded(format), config()) == 1200


@pytest.mark.parametrize("format", ["PPM", "TGA", "ICO", "JPEG2000", "EPS", "PCX", "SGI", "PDF"])
def test_other_formats_are_refused(format: str) -> None:  # noqa: A002
    with pytest.raises(MediaError, match="not an image file of a known format"):
        check_image(encoded(format), config())


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (8001, 8000, "8001 x 8000 pixels, and 64000000 in all are allowed"),
        (20_000, 20_000, "more pixels than any limit allows"),
        (60_000, 60_000, "more pixels than any limit allows"),
        (2**31 - 1, 2**31 - 1, "more pixels than any limit allows"),
        (40_000, 10, "32768 a side are allowed"),
        (1, 40_000, "32768 a side are allowed"),
    ],
)
def test_stated_size_is_refused_before_decoding(width: int, height: int, reason: str) -> None:
    with pytest.raises(MediaError, match=reason):
        check_image(png_that_states(width, height), config())


def test_largest_photographs_pass() -> None:
    assert check_image(png_that_states(8160, 6144), config()) == 50_135_040
    assert check_image(png_that_states(9504, 6336), config()) == 60_217_344


def test_limits_of_images_are_settings() -> None:
    with pytest.raises(MediaError, match=r"media\.max_image_pixels"):
        check_image(encoded("PNG"), config(max_image_pixels=1199))
    with pytest.raises(MediaError, match=r"media\.max_image_side_px"):
        check_image(encoded("PNG"), config(max_image_side_px=39))
    with pytest.raises(MediaError, match=r"a frame has 1200 pixels.*media\.max_video_pixels"):
        check_frame(encoded("JPEG"), config(max_video_pixels=1199))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_nothing_but_a_media_error_comes_of_damaged_headers(format: str) -> None:  # noqa: A002
    whole = encoded(format)
    random = np.random.default_rng(7)
    n_refused = 0
    for _ in range(300):
        damaged = bytearray(whole[: random.integers(1, min(len(whole), 200))] + whole[200:])
        for place in random.integers(0, min(len(damaged), 100), size=4):
            damaged[place] ^= 1 << int(random.integers(8))
        try:
            check_image(bytes(damaged), config())
        except MediaError:
            n_refused += 1

    assert n_refused > 20


def test_size_of_files() -> None:
    check_size(50 * 2**20, "image", config())
    check_size(200 * 2**20, "video", config())

    with pytest.raises(MediaError, match=r"media\.max_image_bytes"):
        check_size(50 * 2**20 + 1, "image", config())
    with pytest.raises(MediaError, match=r"media\.max_video_bytes"):
        check_size(200 * 2**20 + 1, "video", config())


def test_totals_of_a_request() -> None:
    totals = RequestTotals(config(max_request_bytes=100, max_request_pixels=1000))

    totals.add_bytes(60)
    totals.add_bytes(40)
    totals.add_pixels(1000)

    with pytest.raises(MediaError, match=r"media\.max_request_bytes"):
        totals.add_bytes(1)
    with pytest.raises(MediaError, match=r"1001 pixels to decode.*media\.max_request_pixels"):
        totals.add_pixels(1)


def test_totals_count_across_threads() -> None:
    totals = RequestTotals(config(max_request_pixels=8000))

    def count() -> None:
        for _ in range(1000):
            totals.add_pixels(1)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with pytest.raises(MediaError, match="8001"):
        totals.add_pixels(1)


class TestVideos:
    @pytest.fixture(autouse=True)
    def _needs_opencv(self) -> None:
        pytest.importorskip("cv2")

    def mp4(self, n_frames: int, *, fps: float = 10.0, size: tuple[int, int] = (64, 48)) -> bytes:
        import tempfile
        from pathlib import Path

        import cv2

        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "a.mp4"
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
            for number in range(n_frames):
                writer.write(np.full((size[1], size[0], 3), number % 255, np.uint8))
            writer.release()
            return path.read_bytes()

    def gif(self, n_frames: int) -> bytes:
        buffer = io.BytesIO()
        first, *others = (Image.new("L", (20, 20), 10 * n) for n in range(n_frames))
        first.save(buffer, "GIF", save_all=True, append_images=others, duration=100)
        return buffer.getvalue()

    def test_header(self) -> None:
        header = check_video(self.mp4(20), config())

        assert (header.width_px, header.height_px, header.n_frames) == (64, 48, 20)
        assert header.duration_s == pytest.approx(2.0)

    def test_animated_gif_is_a_video(self) -> None:
        assert check_video(self.gif(5), config()).n_frames == 5

    def test_one_frame_is_none(self) -> None:
        for data in (self.mp4(1), self.gif(1)):
            with pytest.raises(MediaError, match="too few frames: 1"):
                check_video(data, config())

    @pytest.mark.parametrize(
        ("settings", "reason"),
        [
            ({"max_video_frames": 19}, r"20 frames.*media\.max_video_frames"),
            ({"max_video_duration_s": 1.9}, r"takes 2 s.*media\.max_video_duration_s"),
            ({"max_video_fps": 9}, r"10 frames per second.*media\.max_video_fps"),
            ({"max_video_stream_pixels": 20 * 3072 - 1}, r"media\.max_video_stream_pixels"),
            ({"max_video_pixels": 3071}, r"64 x 48 pixels.*media\.max_video_pixels"),
        ],
    )
    def test_limits(self, settings: dict[str, Any], reason: str) -> None:
        with pytest.raises(MediaError, match=reason):
            check_video(self.mp4(20), config(**settings))

    def test_what_is_no_video(self) -> None:
        for data in (b"", b"hello", b"#EXTM3U\nfile:///etc/passwd\n", encoded("PNG")):
            with pytest.raises(MediaError, match="not a video file"):
                check_video(data, config())

    def test_truncated_video(self) -> None:
        with pytest.raises(MediaError, match="truncated or corrupt"):
            check_video(self.mp4(20)[:-400], config())

    def test_nothing_but_a_media_error_comes_of_damaged_containers(self) -> None:
        random = np.random.default_rng(7)
        n_refused = 0
        for whole in (self.mp4(20), self.gif(5)):
            for _ in range(150):
                damaged = bytearray(whole)
                for place in random.integers(0, len(damaged), size=8):
                    damaged[place] = int(random.integers(256))
                try:
                    check_video(bytes(damaged), config())
                except MediaError:
                    n_refused += 1

        assert n_refused > 20

    def test_number_of_listed_frames(self) -> None:
        check_n_frames(36_000, config())
        with pytest.raises(MediaError, match=r"media\.max_video_frames"):
            check_n_frames(36_001, config())
