"""One file to decode: how, in which process, and how the result travels.

The result is what vLLM 0.32's loaders give, ``MediaWithBytes`` around an image or around frames and
their description; only its parts cross between processes.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vlmserve.engine.guarded_decode import (
    FrameList,
    decode_counted,
    decode_frame_list,
    kind_of,
)
from vlmserve.media.normalise import VLLM, Normalisation, load_rgb

if TYPE_CHECKING:
    from PIL import Image

    from vlmserve.config.media import MediaConfig
    from vlmserve.media.limits import Totals

_STRIP_BYTES = 128 * 1024
_MAX_DIMENSIONS = 4
_MOST_PIXELS_A_BYTE = 8


@dataclass(frozen=True, slots=True)
class DecodingTask:
    """How a file is decoded."""

    media_io: Any
    """vLLM's loader, which knows the model's way to sample frames."""

    config: "MediaConfig"
    normalisation: Normalisation
    frames: FrameList | None = None
    """A list of pictures, whose text comes as the file and is left out here."""


def carry_out(
    task: DecodingTask, data: bytes, totals: "Totals"
) -> tuple[dict[str, Any], Iterable[Any]]:
    """Decode a file in a decoder process.

    Returns:
        A description in JSON's types, and the bytes that it describes, in pieces.
    """
    return _pack(decode_task(task, data, totals))


def decode_task(task: DecodingTask, data: bytes, totals: "Totals") -> Any:
    """Decode a file in this process.

    Args:
        task: How.
        data: The file; its size was counted, unless it is a list of pictures.
        totals: Told of what is going to be decoded.

    Raises:
        MediaError: It is over a limit.
        Exception: Whatever a decoder raises at broken content.
    """
    media_io = _with_policy(task.media_io, task.normalisation)
    if task.frames is not None:
        frames = replace(task.frames, text=data.decode("ascii"))
        return decode_frame_list(frames, media_io, task.config, totals)
    return decode_counted(data, media_io, task.config, totals)


def needs_this_process(media_io: Any) -> bool:
    """Whether a loader decodes on an accelerator, which belongs to one process."""
    if kind_of(media_io) != "video":
        return False
    from vllm.multimodal.media import VIDEO_LOADER_REGISTRY

    kwargs = media_io.kwargs
    backend = str(kwargs.get("backend", "opencv"))
    loader = next(
        (
            name
            for name, class_ in VIDEO_LOADER_REGISTRY.name2class.items()
            if isinstance(media_io.video_loader, class_)
            and VIDEO_LOADER_REGISTRY.backend_requires_gpu(name)
        ),
        None,
    )
    on_device = str(kwargs.get("device", "cpu")) != "cpu"
    return on_device or loader is not None or VIDEO_LOADER_REGISTRY.backend_requires_gpu(backend)


def unpack(
    about: Mapping[str, Any], content: Any, task: DecodingTask, data: bytes
) -> tuple[Any, Any]:
    """Make of a decoder's answer what vLLM's loader would have given.

    Args:
        about: The answer's description.
        content: Its bytes.
        task: What was asked for.
        data: The file.

    Returns:
        The result, and the object that is freed when the result is no longer used.

    Raises:
        KeyError, TypeError, ValueError: The answer does not fit itself.
    """
    if kind_of(task.media_io) == "image":
        from vllm.multimodal.media import MediaWithBytes

        image = _unpack_image(about, content)
        config = None
        if about.get("converted"):
            config = _io_config(task.media_io, task.normalisation)
        return MediaWithBytes(image, data, config), image
    array = _unpack_array(about, content)
    if kind_of(task.media_io) == "audio":
        return (array, about["rate"]), content
    from vllm.multimodal.media import MediaWithBytes

    config = None if task.frames is None else task.frames.io_config
    return MediaWithBytes((array, about["video"]), data, config), content


def _pack(media: Any) -> tuple[dict[str, Any], Iterable[Any]]:
    from PIL import Image

    if isinstance(media, tuple):
        samples, rate = media
        return {**_about_array(samples), "rate": rate}, [_contiguous(samples)]
    if isinstance(media.media, Image.Image):
        image = media.media
        about = {
            "mode": image.mode,
            "size": image.size,
            "converted": media.io_config is not None,
            # Pillow has a layout of its own.
            "is_copied": True,
        }
        if image.palette is not None:
            palette_mode = image.palette.mode
            about["palette"] = [palette_mode, image.getpalette(palette_mode)]
        n_row_bytes = len(image.crop((0, 0, image.width, 1)).tobytes())
        about["n_bytes"] = n_row_bytes * image.height
        return about, _strips(image, max(1, _STRIP_BYTES // n_row_bytes))
    frames, description = media.media
    return {**_about_array(frames), "video": dict(description)}, [_contiguous(frames)]


def _strips(image: "Image.Image", n_rows: int) -> Iterator[bytes]:
    # All of it at once would be copied twice, into memory that is new each time.
    for top in range(0, image.height, n_rows):
        yield image.crop((0, top, image.width, min(top + n_rows, image.height))).tobytes()


def _about_array(array: Any) -> dict[str, Any]:
    return {"shape": list(array.shape), "dtype": str(array.dtype), "n_bytes": array.nbytes}


def _contiguous(array: Any) -> Any:
    import numpy as np

    return np.ascontiguousarray(array)


def _unpack_image(about: Mapping[str, Any], data: Any) -> Any:
    from PIL import Image

    width, height = (int(side) for side in about["size"])
    if min(width, height) < 1 or width * height > memoryview(data).nbytes * _MOST_PIXELS_A_BYTE:
        raise ValueError("a decoder sent fewer pixels than it says")
    # This copies.
    image = Image.frombytes(str(about["mode"]), (width, height), data)
    if "palette" in about:
        mode, colors = about["palette"]
        image.putpalette(bytes(colors), str(mode))
    return image


def _unpack_array(about: Mapping[str, Any], data: Any) -> Any:
    import numpy as np

    dtype = np.dtype(str(about["dtype"]))
    shape = tuple(int(length) for length in about["shape"])
    if dtype.kind not in "uif" or len(shape) > _MAX_DIMENSIONS or min(shape, default=0) < 0:
        raise ValueError("a decoder sent something else than numbers")
    return np.frombuffer(data, dtype).reshape(shape)


def _with_policy(media_io: Any, normalisation: Normalisation) -> Any:
    """Let the images of a loader be read as the training read them."""
    kind = kind_of(media_io)
    if normalisation == VLLM or kind == "audio":
        return media_io
    image_io = media_io if kind == "image" else media_io.image_io
    if image_io.image_mode != "RGB":
        return media_io  # a model that wants something else than RGB
    as_trained = ImageAsTrained(normalisation)
    if kind == "image":
        return as_trained
    changed = copy.copy(media_io)
    changed.image_io = as_trained
    return changed


def _io_config(media_io: Any, normalisation: Normalisation) -> dict[str, Any]:
    if normalisation != VLLM and media_io.image_mode == "RGB":
        return ImageAsTrained(normalisation).io_config
    return {
        "image_mode": media_io.image_mode,
        "rgba_background_color": media_io.rgba_background_color,
    }


class ImageAsTrained:
    """Stands in for vLLM's image loader."""

    def __init__(self, normalisation: Normalisation) -> None:
        self._how = normalisation

    @property
    def rotates(self) -> bool:
        """Whether images are turned as their files say."""
        return self._how.rotates

    @property
    def io_config(self) -> dict[str, Any]:
        """What vLLM's caches tell images apart by, beside their bytes."""
        how = self._how
        return {"rotates": int(how.rotates), "fills_white": int(how.fills_white)}

    def load_bytes(self, data: bytes) -> Any:
        """Decode a file."""
        from vllm.multimodal.media import MediaWithBytes

        return MediaWithBytes(load_rgb(data, self._how), data, self.io_config)

    def load_base64(self, _: str, text: str) -> Any:
        """Decode one picture of a list."""
        import pybase64

        return self.load_bytes(pybase64.b64decode(text, validate=True))
