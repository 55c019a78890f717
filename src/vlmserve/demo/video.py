"""MP4 files of a few frames: MPEG-4 part 2 ("mp4v") at 2 frames a second, by OpenCV's FFmpeg.

vLLM's loader for Qwen2-VL decodes with OpenCV and samples 2 frames a second, so that it hands on
every frame of these files unchanged (vllm 0.32.0, ``multimodal/video.py``,
``Qwen2VLVideoBackend``). The codec loses detail; the model is trained on what comes out again.
"""

import tempfile
from pathlib import Path

import cv2
import numpy as np

from vlmserve.demo.drawing import Pixels
from vlmserve.errors import ConfigError, MediaError

CODEC = "mp4v"
FPS = 2


def encode_mp4(frames: Pixels) -> bytes:
    """Write frames of shape ``(t, h, w, 3)`` as an MP4 file.

    Raises:
        ConfigError: This build of OpenCV cannot write the codec.
    """
    _, height, width, _ = frames.shape
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "0.mp4"
        code = cv2.VideoWriter.fourcc(*CODEC)
        writer = cv2.VideoWriter(str(path), code, FPS, (width, height))
        if not writer.isOpened():
            raise ConfigError(f"this build of OpenCV cannot write MP4 files with codec {CODEC}")
        for frame in frames:
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        writer.release()
        return path.read_bytes()


def decode_mp4(data: bytes) -> Pixels:
    """Return all frames of an MP4 file, shape ``(t, h, w, 3)``, RGB.

    Raises:
        MediaError: The bytes are not a video that OpenCV can read.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "0.mp4"
        path.write_bytes(data)
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        frames = []
        while True:
            found, frame = capture.read()
            if not found:
                break
            frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        capture.release()
    if not frames:
        raise MediaError("the video has no frame that OpenCV can read")
    return np.stack(frames).astype(np.uint8, copy=False)
