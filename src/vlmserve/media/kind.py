"""Whether a file is what a request calls it: an image or a video of a format that is known."""

from typing import Literal

from vlmserve.errors import MediaError
from vlmserve.media.sniff import sniff_content_type

MediaKind = Literal["image", "video", "audio"]

# FFmpeg, below OpenCV, opens playlists as well, which name further files and addresses; Pillow
# opens some forty formats. Only these are let through, known by how their files begin.
_FORMATS = {
    "image": {
        "image/png": "PNG",
        "image/jpeg": "JPEG",
        "image/webp": "WebP",
        "image/gif": "GIF",
        "image/bmp": "BMP",
        "image/tiff": "TIFF",
        "image/avif": "AVIF",
    },
    "video": {
        "video/mp4": "MP4",
        "video/quicktime": "MOV",
        "video/webm": "WebM",
        "video/x-matroska": "Matroska",
        "video/x-msvideo": "AVI",
        "image/gif": "GIF",
    },
}

# What servers say of files they know nothing about.
_UNTYPED = frozenset({"", "application/octet-stream", "binary/octet-stream"})


def check_kind(head: bytes, kind: MediaKind) -> None:
    """Refuse what begins like no file of a kind.

    Args:
        head: The file, or at least its first 64 bytes.
        kind: What it must be. Audio is not looked at: no model served here takes it.

    Raises:
        MediaError: It is something else, or of a format that is not known.
    """
    if kind == "audio":
        return
    allowed = _FORMATS[kind]
    names = ", ".join(allowed.values())
    found = sniff_content_type(head)
    if found in allowed:
        return
    a_kind = "an image" if kind == "image" else "a video"
    if not head:
        raise MediaError(f"it is empty, not {a_kind} file")
    if found is None:
        raise MediaError(f"it is not {a_kind} file of a known format ({names})")
    raise MediaError(f"it is {found}, not {a_kind} file of a known format ({names})")


def check_declared_type(content_type: str, kind: MediaKind) -> None:
    """Refuse a response that says of itself that it is something else.

    Subtypes are not compared: many servers guess them from a name.

    Args:
        content_type: The ``Content-Type`` header; empty where there is none.
        kind: What was asked for.

    Raises:
        MediaError: It is declared as something else, such as ``text/html``.
    """
    declared = content_type.partition(";")[0].strip().lower()
    if declared in _UNTYPED or declared.startswith(f"{kind}/"):
        return
    if kind == "video" and declared == "image/gif":
        return
    raise MediaError(f"its address answers with {declared[:80]!r} where {kind}/* is expected")
