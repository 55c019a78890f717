"""How an image file becomes RGB: which way up, and what lies under its transparent pixels."""

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, slots=True)
class Normalisation:
    """What one piece of software makes of an image file.

    Palettes, grey, CMYK and more than 8 bits become RGB as Pillow's ``convert`` has it, which clips
    16 bits at 255 and uses no colour profile; vLLM and all training code known here do the same.
    """

    reader: str
    """Whose way this is, for messages and records: ``vllm``, ``ms-swift``, ..."""

    rotates: bool
    """The EXIF orientation is applied."""

    fills_white: bool
    """Transparent pixels of RGBA become white; else the colour that lies under them is kept."""


VLLM = Normalisation("vllm", rotates=True, fills_white=True)
"""vLLM 0.32 multimodal/image.py; it does this itself, for palettes with transparency as well."""


def load_rgb(data: bytes, how: Normalisation) -> "Image.Image":
    """Decode an image the way some training code does.

    Args:
        data: The file, which was found to be within limits.
        how: Whose way.

    Returns:
        The image in mode ``RGB``; an animation's first frame.

    Raises:
        OSError: The file is broken.
    """
    from PIL import Image, ImageOps

    image: Image.Image = Image.open(io.BytesIO(data))
    image.load()
    if how.rotates:
        image = ImageOps.exif_transpose(image)
    if how.fills_white and image.mode == "RGBA":
        # qwen-vl-utils vision_process.py to_rgb
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")
