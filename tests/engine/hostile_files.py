"""Loads many damaged files through the connector that vLLM uses, and prints what came of them.

A program of its own, so that decoder processes are forked from what imported vLLM and nothing else:
``python -m tests.engine.hostile_files N SEED`` prints a JSON object by format. Whole files are
loaded in this process as well; what decoder processes make of them must be the same.
"""

import asyncio
import base64
import io
import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_HEADER_BYTES = 300


def files() -> dict[str, tuple[str, bytes]]:
    """One whole file of each format: its kind and its bytes, by name."""
    noise = np.random.default_rng(1).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    picture = Image.fromarray(noise.repeat(2, 0))
    images: dict[str, dict[str, Any]] = {
        "PNG": {},
        "JPEG": {},
        "WEBP": {},
        "WEBP lossless": {"lossless": True},
        "GIF": {},
        "BMP": {},
        "TIFF": {},
        "TIFF LZW": {"compression": "tiff_lzw"},
        "TIFF JPEG": {"compression": "jpeg"},
        "AVIF": {},
        "PNG grey": {"mode": "L"},
        "PNG palette": {"mode": "P"},
        "PNG RGBA": {"mode": "RGBA"},
        "TIFF CMYK": {"mode": "CMYK"},
        "GIF still": {"mode": "P"},
    }
    made = {name: ("image", _picture(picture, name, more)) for name, more in images.items()}
    videos = {"mp4": "mp4v", "mov": "mp4v", "avi": "MJPG", "mkv": "mp4v", "webm": "VP80"}
    made |= {name: ("video", make_video(codec, name)) for name, codec in videos.items()}
    made["animated GIF"] = ("video", _animation())
    return made


def _picture(picture: Image.Image, name: str, more: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    mode = more.pop("mode", "RGB")
    picture.convert(mode).save(buffer, name.partition(" ")[0], **more)
    return buffer.getvalue()


def make_video(codec: str, suffix: str) -> bytes:
    import cv2

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{suffix}"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 5, (64, 48))
        for number in range(12):
            writer.write(np.full((48, 64, 3), 20 * number, np.uint8))
        writer.release()
        return path.read_bytes()


def _animation() -> bytes:
    buffer = io.BytesIO()
    first, *others = (Image.new("L", (56, 56), 20 * number) for number in range(6))
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=100)
    return buffer.getvalue()


def damage(whole: bytes, chance: random.Random) -> bytes:
    """Cut a file, or change 1 to 32 of its bytes, often in its header."""
    how = chance.random()
    if how < 0.25:
        return whole[: chance.randrange(1, len(whole))]
    damaged = bytearray(whole)
    reach = len(whole) if how < 0.7 else min(len(whole), _HEADER_BYTES)
    for _ in range(chance.choice([1, 4, 32])):
        place = chance.randrange(reach)
        if chance.random() < 0.5:
            damaged[place] = chance.randrange(256)
        else:
            damaged[place] ^= 1 << chance.randrange(8)
    return bytes(damaged)


async def load(n_files: int, seed: int) -> dict[str, Counter[str]]:
    """Load each format whole, then ``n_files`` damaged ones; count the outcomes."""
    from vllm.exceptions import VLLMValidationError
    from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY

    from vlmserve.engine.media_connector import decoder_processes

    connector = MEDIA_CONNECTOR_REGISTRY.load("vlmserve", media_io_kwargs={})
    chance = random.Random(seed)  # noqa: S311 - repeatable on purpose
    outcomes: dict[str, Counter[str]] = {}
    whole_files = {name: (kind, url_of(data)) for name, (kind, data) in files().items()}
    here = {name: await fetch(connector, *whole) for name, whole in whole_files.items()}
    with decoder_processes() as pool:
        assert pool is not None
        for name, whole in whole_files.items():
            outcomes[name] = counts = Counter(same=0, loaded=0, refused=0)
            counts["same"] += is_same(here[name], await fetch(connector, *whole))
            for _ in range(n_files):
                url = url_of(damage(files_of(whole[1]), chance))
                try:
                    await fetch(connector, whole[0], url)
                    counts["loaded"] += 1
                except VLLMValidationError:
                    counts["refused"] += 1
    return outcomes


def url_of(data: bytes) -> str:
    return f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"


def files_of(url: str) -> bytes:
    return base64.b64decode(url.partition(",")[2])


async def fetch(connector: Any, kind: str, url: str) -> Any:
    load = connector.fetch_video_async if kind == "video" else connector.fetch_image_async
    return await load(url)


def is_same(one: Any, other: Any) -> bool:
    """Whether two results of vLLM's loaders are one for whoever uses them."""
    if one.original_bytes != other.original_bytes or one.io_config != other.io_config:
        return False
    if isinstance(one.media, Image.Image):
        a, b = one.media, other.media
        return bool(a.mode == b.mode and a.size == b.size and a.tobytes() == b.tobytes())
    (frames, about), (other_frames, other_about) = one.media, other.media
    return bool(
        about == other_about
        and frames.dtype == other_frames.dtype
        and np.array_equal(frames, other_frames)
    )


if __name__ == "__main__":
    from vlmserve.engine.environment import prepare_vllm

    prepare_vllm()
    from vlmserve.engine.plugin import register

    register()
    sys.stdout.write(json.dumps(asyncio.run(load(int(sys.argv[1]), int(sys.argv[2])))) + "\n")
