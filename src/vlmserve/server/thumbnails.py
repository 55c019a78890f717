"""Small pictures of the frames that were really sampled from a video."""

import base64
import io
from typing import Any

_SIDE_PX = 160
_MAX_FRAMES = 64
"""More are not told apart in a strip; the others are left without a picture."""


def frame_thumbnails(frames: Any) -> dict[int, str]:
    """Shrink a video's frames.

    Args:
        frames: ``uint8`` array ``(n_frames, height, width, 3)``, RGB.

    Returns:
        JPEG data URLs by position in ``frames``; evenly spread ones where there are many.
    """
    import numpy as np
    from PIL import Image

    n_frames = len(frames)
    shown = np.linspace(0, n_frames - 1, min(n_frames, _MAX_FRAMES)).round().astype(int)
    pictures = {}
    for position in dict.fromkeys(shown.tolist()):
        picture = Image.fromarray(np.asarray(frames[position]))
        picture.thumbnail((_SIDE_PX, _SIDE_PX))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=80)
        encoded = base64.b64encode(buffer.getvalue()).decode()
        pictures[position] = f"data:image/jpeg;base64,{encoded}"
    return pictures
