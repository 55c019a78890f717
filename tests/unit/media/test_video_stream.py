"""Streams for OpenCV; what may end a process runs in one of its own."""

import io
import subprocess
import sys

import pytest

from vlmserve.media.video_stream import VideoStream

_DAMAGED_AVI = """
import tempfile
from pathlib import Path
import cv2, numpy as np
from vlmserve.config.media import MediaConfig
from vlmserve.errors import MediaError
from vlmserve.media import limits

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "a.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5, (64, 48))
    for number in range(12):
        writer.write(np.full((48, 64, 3), 20 * number, np.uint8))
    writer.release()
    whole = path.read_bytes()
# The size of the first header, little-endian: what follows it is looked for at a negative place.
damaged = bytearray(whole)
damaged[whole.index(b"avih") + 7] = 190
try:
    limits.check_video(bytes(damaged), MediaConfig())
except MediaError:
    pass
print("alive")
"""


def test_reads_and_seeks_like_a_stream() -> None:
    stream = VideoStream(b"0123456789")

    assert stream.seek(0, io.SEEK_END) == 10
    assert stream.seek(-3, io.SEEK_END) == 7
    assert stream.read(2) == b"78"
    assert stream.seek(-1, io.SEEK_CUR) == 8


@pytest.mark.parametrize("place", [(-1, io.SEEK_SET), (2**70, io.SEEK_SET), (0, 7)])
def test_bad_places_are_no_exception_and_no_move(place: tuple[int, int]) -> None:
    stream = VideoStream(b"0123456789")
    stream.seek(4)

    assert stream.seek(*place) == -1
    assert stream.tell() == 4


def test_broken_index_does_not_end_the_process() -> None:
    pytest.importorskip("cv2")

    done = subprocess.run(
        [sys.executable, "-c", _DAMAGED_AVI], check=False, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == "alive\n"
