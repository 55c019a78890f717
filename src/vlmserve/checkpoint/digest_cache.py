"""Remembers digests of large files between runs, by what the file system says of them.

A file counts as unchanged while its path, size, inode, and times of change are the same. The time
of the last change of the inode (``ctime``) cannot be set back by copying tools, so that a file that
was replaced under its old date is noticed.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmserve.errors import CheckpointError

_FILE = "digests.json"
_SETTLED_S = 5.0
"""A file that changed more recently could change again within the clock's resolution."""

_MAX_ENTRIES = 10_000


class DigestCache:
    """Digests of files, kept in one small file.

    Args:
        path: Where they are kept; ``None`` keeps them nowhere. A file that is broken or cannot be
            written costs time and nothing else.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._entries = _read(path)

    @classmethod
    def of_user(cls, environ: Mapping[str, str] | None = None) -> "DigestCache":
        """The cache in the user's cache directory."""
        environ = os.environ if environ is None else environ
        home = environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
        return cls(Path(home) / "vlmserve" / _FILE)

    def sha256(self, path: Path) -> str:
        """Digest a file's content, or recall its digest.

        Returns:
            64 hexadecimal digits.

        Raises:
            CheckpointError: The file cannot be read.
        """
        try:
            status = path.stat()
            identity = _identity(status)
            name = str(path.resolve())
            known = self._entries.get(name)
            if known is not None and known[:-1] == identity:
                return str(known[-1])
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror or error}") from error
        if time.time() - max(status.st_mtime, status.st_ctime) > _SETTLED_S:
            self._entries[name] = [*identity, digest]
        return digest

    def save(self) -> None:
        """Write the digests down; another process's are replaced by the newest file."""
        if self._path is None:
            return
        entries = dict(list(self._entries.items())[-_MAX_ENTRIES:])
        part = self._path.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(entries))
            part.replace(self._path)


def _identity(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]


def _read(path: Path | None) -> dict[str, list[Any]]:
    if path is None:
        return {}
    try:
        entries = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(entries, dict):
        return {}
    return {name: entry for name, entry in entries.items() if isinstance(entry, list) and entry}
