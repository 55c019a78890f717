"""What crosses between the server and a decoder, with vLLM's own loaders."""

import base64
import io
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from vlmserve.config.media import MediaConfig
from vlmserve.engine.decoding_task import (
    DecodingTask,
    carry_out,
    decode_task,
    needs_this_process,
    unpack,
)
from vlmserve.engine.guarded_decode import FrameList
from vlmserve.media.limits import RequestTotals
from vlmserve.media.normalise import VLLM, Normalisation

if TYPE_CHECKING:
    from vlmserve.media.measured import Measured

pytestmark = pytest.mark.engine

PLAIN = Normalisation("a framework", rotates=False, fills_white=False)
CONFIG = MediaConfig()


def image_io(**settings: Any) -> Any:
    from vllm.multimodal.media import ImageMediaIO

    return ImageMediaIO(**settings)


def video_io(**settings: Any) -> Any:
    from vllm.multimodal.media import VideoMediaIO

    return VideoMediaIO(image_io(), **settings)


def file(image: Image.Image, format: str = "PNG", **more: Any) -> bytes:  # noqa: A002
    buffer = io.BytesIO()
    image.save(buffer, format, **more)
    return buffer.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return file(Image.new("RGB", (30, 20), (200, 0, 0)), "JPEG", exif=exif)


def both_ways(task: DecodingTask, data: bytes) -> tuple[Any, Any]:
    """In this process, and as parts that have crossed between two."""
    here = decode_task(task, data, RequestTotals(CONFIG))
    about, pieces = carry_out(task, data, RequestTotals(CONFIG))
    content = bytearray().join(pieces)
    assert about["n_bytes"] == len(content)
    there, _ = unpack(about, content, task, data)
    return here, there


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("wanted", ["RGB", None])
@pytest.mark.parametrize("how", [VLLM, PLAIN])
def test_images_cross_unchanged(mode: str, wanted: str | None, how: Normalisation) -> None:
    data = file(Image.new(mode, (33, 7)), "TIFF" if mode == "CMYK" else "PNG")
    task = DecodingTask(image_io(image_mode=wanted), CONFIG, how)

    here, there = both_ways(task, data)

    assert there.media.mode == here.media.mode
    assert there.media.size == here.media.size
    assert there.media.tobytes() == here.media.tobytes()
    assert there.media.getpalette() == here.media.getpalette()
    assert there.io_config == here.io_config
    assert there.original_bytes == data


def test_policy_decides_which_way_is_up() -> None:
    seen: list[Measured] = []
    totals = RequestTotals(CONFIG, seen.append)

    upright = decode_task(DecodingTask(image_io(), CONFIG, VLLM), turned(), totals)
    stored = decode_task(DecodingTask(image_io(), CONFIG, PLAIN), turned(), totals)

    assert upright.media.size == (20, 30)
    assert stored.media.size == (30, 20)
    # The token budget reckons with what the processor is going to get.
    assert [(each.width_px, each.height_px) for each in seen] == [(20, 30), (30, 20)]
    # vLLM's caches tell them apart.
    assert upright.io_config != stored.io_config


@pytest.mark.parametrize("how", [VLLM, PLAIN])
@pytest.mark.parametrize("rate", [None, 2.0])
def test_frame_lists_cross_unchanged(how: Normalisation, rate: float | None) -> None:
    frame = base64.b64encode(turned()).decode()
    task = DecodingTask(video_io(), CONFIG, how, FrameList("", rate))

    here, there = both_ways(task, f"{frame},{frame}".encode())

    assert there.media[0].shape == here.media[0].shape
    assert (there.media[0] == here.media[0]).all()
    assert there.media[0].shape[1:3] == ((30, 20) if how.rotates else (20, 30))
    assert there.media[1] == here.media[1]
    assert there.io_config == here.io_config == (None if rate is None else {"fps": rate})


@pytest.mark.parametrize(
    "change",
    [
        {"size": [10**6, 10**6]},
        {"size": [0, 0]},
        {"size": [-5, -5]},
        {"size": [33, 8]},
        {"size": "large"},
        {"mode": "nonsense"},
        {"mode": 5},
    ],
)
def test_descriptions_that_do_not_fit(change: dict[str, Any]) -> None:
    task = DecodingTask(image_io(), CONFIG, VLLM)
    about, pieces = carry_out(task, file(Image.new("RGB", (33, 7))), RequestTotals(CONFIG))

    with pytest.raises((KeyError, TypeError, ValueError)):
        unpack({**about, **change}, bytearray().join(pieces), task, b"")


def test_what_an_accelerator_decodes_stays() -> None:
    assert not needs_this_process(image_io())
    assert not needs_this_process(video_io())
    assert needs_this_process(video_io(backend="pynvvideocodec"))
    assert needs_this_process(video_io(backend="torchcodec", device="cuda"))
    assert needs_this_process(video_io(video_backend="pynvvideocodec"))
