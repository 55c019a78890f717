"""Reads ``file://`` media from the directories that they may come from."""

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vlmserve.errors import ConfigError, MediaError

_NOT_THERE = "there is no such file under a directory that media may come from"


def resolve_roots(roots: Iterable[str]) -> tuple[Path, ...]:
    """Resolve ``media.allowed_roots``.

    Raises:
        ConfigError: One of them is not a directory.
    """
    resolved = []
    for root in roots:
        path = Path(root)
        if not path.is_dir():
            raise ConfigError(f"media.allowed_roots: {root} is not a directory")
        resolved.append(path.resolve(strict=True))
    return tuple(resolved)


def read_local_file(url: str, roots: Sequence[Path], *, max_bytes: int) -> bytes:
    """Read a file of this machine.

    Args:
        url: A ``file://`` URL with an absolute path.
        roots: What ``resolve_roots`` gave; empty: no local files.
        max_bytes: The largest file that is read.

    Returns:
        The file.

    Raises:
        MediaError: It is not there, lies outside all of them once links are resolved, is no regular
            file or too large. All but the last read the same, so that nobody can ask which files
            this machine has.
    """
    if not roots:
        raise MediaError(
            "local files are not allowed; the operator can allow a directory with "
            "media.allowed_roots, or send the file as a data URL"
        )
    try:
        parts = urlsplit(url)
        if parts.netloc.lower() not in ("", "localhost"):
            raise MediaError("its URL names a host; write file:///path")
        # A name may hold the signs that end a path in a URL.
        path = Path(unquote(url[url.index("/", len("file://")) :])).resolve(strict=True)
        if not any(path.is_relative_to(root) for root in roots):
            raise MediaError(_NOT_THERE)
        # The path is resolved: what has become a link since is none that was looked at.
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError, RuntimeError):
        raise MediaError(_NOT_THERE) from None
    about = os.fstat(file)
    # A pipe would keep its reader waiting, and a device may never end.
    if not stat.S_ISREG(about.st_mode):
        os.close(file)
        raise MediaError(_NOT_THERE)
    with os.fdopen(file, "rb") as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise MediaError(
            f"its file has {about.st_size} bytes, and {max_bytes} are allowed; the operator can "
            "raise media.max_image_bytes or media.max_video_bytes"
        )
    return data
