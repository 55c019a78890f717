"""Files that a command is asked to write: whether it can, before anything is paid for."""

import contextlib
import errno
import os
from pathlib import Path

from vlmserve.errors import ConfigError


def require_writable(option: str, path: Path, *, makes_directories: bool = True) -> None:
    """Refuse a file that cannot be written.

    It is tried, since permissions alone do not tell: nothing can be made under ``/proc``, whoever
    asks. What was made by trying is taken away again; a file that is there stays as it is.

    Args:
        option: What named it, without dashes.
        path: The file.
        makes_directories: Whether directories that are missing will be made.

    Raises:
        ConfigError: It cannot be written; the message names option, file and reason.
    """
    parents = path.absolute().parents
    missing = [folder for folder in parents if not os.path.lexists(folder)]
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a directory; a file is expected")
        if missing and not makes_directories:
            raise FileNotFoundError(errno.ENOENT, f"no such directory as {path.parent}")
        _try(path)
    except OSError as error:
        raise ConfigError(
            f"--{option} {path}: cannot be written: {error.strerror or error}"
        ) from error
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _try(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, f"{path.parent} is no directory") from error
    if path.is_file():
        with path.open("ab"):
            return
    if os.path.lexists(path):
        # A pipe or a device: to open one and close it again may be all that its reader waits for.
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return
    with path.open("xb"):
        path.unlink()
