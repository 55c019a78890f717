"""Keeps broken videos from ending a process of vLLM 0.32.

Its OpenCV decoder reads from ``io.BytesIO`` (``vllm/multimodal/video_decoders/opencv.py``), whose
``seek`` raises where a broken index leads; OpenCV turns that into a segmentation fault.
"""

from typing import Any

from vlmserve.media.video_stream import VideoStream


def install() -> None:
    """Replace the stream that videos are read from; safe to call again."""
    from vllm.multimodal.video_decoders import opencv

    decoder: Any = opencv
    decoder.BytesIO = VideoStream
