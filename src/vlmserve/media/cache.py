"""Files that were fetched once, kept by their content, so that a later run sends the same bytes."""

import asyncio
import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlmserve.errors import ConfigError, MediaError
from vlmserve.media.fetch import MediaFetcher

if TYPE_CHECKING:
    from vlmserve.config.media import MediaConfig
    from vlmserve.media.kind import MediaKind

_SHA256_HEX_DIGITS = 64


def default_media_cache(environ: Mapping[str, str] | None = None) -> Path:
    """Return where fetched files are kept.

    Args:
        environ: The environment; the process's own when ``None``.
    """
    environ = os.environ if environ is None else environ
    home = environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(home) / "vlmserve" / "media"


class MediaCache:
    """Fetches each URL once, ever; what is behind it later does not matter.

    Args:
        folder: Where files are kept: each under the digest of its content, and for each URL a note
            of that digest. Deleting it has everything fetched anew.
        config: Which hosts may be asked, and how large files may be.
    """

    def __init__(self, folder: Path, config: "MediaConfig") -> None:
        self._folder = folder
        self._config = config
        self._fetcher = MediaFetcher(config)

    def fetch_all(
        self,
        wanted: Sequence[tuple[str, "MediaKind"]],
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, Path | MediaError]:
        """Fetch what is not there yet, several files at once.

        Args:
            wanted: URLs, and what each must be.
            progress: Told how many of how many files have been fetched.

        Returns:
            By URL the kept file, or why there is none.

        Raises:
            ConfigError: Files cannot be kept.
        """
        found: dict[str, Path | MediaError] = {}
        missing: dict[str, MediaKind] = {}
        for url, kind in wanted:
            known = self._find(url)
            if known is None:
                missing[url] = kind
            else:
                found[url] = known
        if missing:
            found |= asyncio.run(self._fetch(missing, progress))
        return found

    def _find(self, url: str) -> Path | None:
        """The kept file of a URL, as far as its content is still what it was."""
        try:
            digest = self._note(url).read_text(encoding="ascii").strip()
            path = self._file(digest)
            is_whole = hashlib.sha256(path.read_bytes()).hexdigest() == digest
        except (OSError, ValueError):
            return None
        return path if is_whole else None

    async def _fetch(
        self, missing: "Mapping[str, MediaKind]", progress: Callable[[int, int], None] | None
    ) -> dict[str, Path | MediaError]:
        from vlmserve.media.limits import max_bytes

        done = 0

        async def fetch(url: str, kind: "MediaKind") -> Path | MediaError:
            nonlocal done
            try:
                data = await self._fetcher.fetch(url, kind, max_bytes=max_bytes(kind, self._config))
            except MediaError as error:
                outcome: Path | MediaError = error
            else:
                outcome = self._keep(url, data)
            done += 1
            if progress is not None:
                progress(done, len(missing))
            return outcome

        outcomes = await asyncio.gather(*(fetch(url, kind) for url, kind in missing.items()))
        return dict(zip(missing, outcomes, strict=True))

    def _keep(self, url: str, data: bytes) -> Path:
        digest = hashlib.sha256(data).hexdigest()
        path = self._file(digest)
        try:
            _write(path, data)
            # Last: a note without its file would be one of nothing.
            _write(self._note(url), digest.encode("ascii"))
        except OSError as error:
            raise ConfigError(
                f"{self._folder}: fetched media cannot be kept: {error.strerror or error}"
            ) from error
        return path

    def _file(self, digest: str) -> Path:
        if len(digest) != _SHA256_HEX_DIGITS or not digest.isalnum():
            raise ValueError("not a digest")
        return self._folder / "files" / digest[:2] / digest

    def _note(self, url: str) -> Path:
        return self._folder / "urls" / hashlib.sha256(url.encode()).hexdigest()


def _write(path: Path, data: bytes) -> None:
    """Write a file so that it is whole or absent, whoever else writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
