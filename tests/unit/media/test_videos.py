"""Containers of videos."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vlmserve.errors import MediaError
from vlmserve.media.videos import is_video_reader_installed, read_video_header

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("cv2") is None, reason="OpenCV comes with vLLM"
)


def write_video(path: Path, n_frames: int = 12, rate: float = 6.0) -> Path:
    assert is_video_reader_installed()  # quietens OpenCV before it is loaded
    import cv2

    fourcc = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(path), fourcc, rate, (64, 48))
    for number in range(n_frames):
        writer.write(np.full((48, 64, 3), number * 10, np.uint8))
    writer.release()
    return path


def test_facts_of_a_file_and_of_its_bytes(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")

    for source in (path, path.read_bytes(), path.read_bytes):
        header = read_video_header(source)
        assert (header.width_px, header.height_px, header.n_frames) == (64, 48, 12)
        assert header.frames_per_second == pytest.approx(6.0)
        assert header.duration_s == pytest.approx(2.0)


def test_files_that_are_no_videos(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    (tmp_path / "cut.mp4").write_bytes(path.read_bytes()[:300])
    (tmp_path / "page.mp4").write_text("<html>")

    for name, said in (("gone", "no such file"), ("cut", "OpenCV"), ("page", "OpenCV")):
        with pytest.raises(MediaError, match=rf"{name}\.mp4: .*{said}"):
            read_video_header(tmp_path / f"{name}.mp4")


def test_opencv_itself_says_nothing(tmp_path: Path) -> None:
    # In a process of its own: what loads OpenCV first decides how much it says.
    (tmp_path / "page.mp4").write_text("<html>")
    script = (
        "import sys; from pathlib import Path; from vlmserve.media import videos\n"
        "try: videos.read_video_header(Path(sys.argv[1]))\n"
        "except videos.MediaError: pass"
    )

    command = [sys.executable, "-c", script, str(tmp_path / "page.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert (done.stdout, done.stderr) == ("", "")
