"""A first question to a freshly loaded model: does it compute finite numbers?

Weights that hold NaN load without a word and answer with empty texts, and a server over them calls
itself healthy. One image and one generated token with its log-probability tell.
"""

import math
import struct
import zlib

from vlmserve.chat import ImagePart, Message, Part, TextPart
from vlmserve.errors import CheckpointError

_SIDE_PX = 56
"""Large enough for one patch group of every supported family."""


def probe_messages(*, with_image: bool) -> tuple[Message, ...]:
    """A short conversation with, where the model takes one, an image."""
    parts: list[Part] = [TextPart(text="What is this?")]
    if with_image:
        parts.insert(0, ImagePart(data=_checkered_png(), content_type="image/png"))
    return (Message(role="user", parts=tuple(parts)),)


def check_logprob(logprob: float | None, model: str) -> None:
    """Judge the probe's answer.

    Args:
        logprob: Log-probability (nats) of the token that ``model`` generated.
        model: The served name, for the message.

    Raises:
        CheckpointError: It is missing or not finite.
    """
    if logprob is None or not math.isfinite(logprob):
        raise CheckpointError(
            f"{model}: the model answers a first question with log-probability {logprob}: its "
            "weights hold NaN or infinite values, or overflow in this dtype",
            hint="serve it with --set engine.dtype=float32, or look for the last sound checkpoint",
        )


def _checkered_png() -> bytes:
    """A grey PNG with some structure, made without an imaging library."""
    rows = b"".join(
        b"\0" + bytes(96 + 64 * ((x // 14 + y // 14) % 2) for x in range(_SIDE_PX))
        for y in range(_SIDE_PX)
    )
    header = struct.pack(">IIBBBBB", _SIDE_PX, _SIDE_PX, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum
