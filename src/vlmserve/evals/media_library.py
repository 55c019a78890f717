"""The media of a task's rows as files that can be sent: read once, or fetched once."""

from collections.abc import Hashable, Iterable
from pathlib import Path

from vlmserve.config.media import MediaConfig
from vlmserve.datasets.images import identify
from vlmserve.datasets.sample import BadSample
from vlmserve.datasets.sample import Medium as DataMedium
from vlmserve.datasets.sample import Sample as DataSample
from vlmserve.errors import MediaError
from vlmserve.evals.medium import Medium
from vlmserve.media.cache import MediaCache, default_media_cache

_FETCHED = ("http://", "https://")


class MediaLibrary:
    """Finds media, each once, however many questions ask about it.

    Args:
        config: Which hosts media may be fetched from; none unless it says so.
        cache: Where fetched files are kept; the user's cache directory when ``None``.
    """

    def __init__(self, config: MediaConfig, cache: Path | None = None) -> None:
        self._cache = MediaCache(cache or default_media_cache(), config)
        self._known: dict[Hashable, Medium] = {}
        self._fetched: dict[str, Path | MediaError] = {}
        self.n_rated_files = 0
        """Videos so far that are files and say how densely frames are to be taken from them."""

    def fetch(self, rows: Iterable[DataSample | BadSample]) -> None:
        """Fetch what lies on other machines, many files at once.

        What cannot be fetched is told when it is asked for.
        """
        wanted = {
            (one.reference, one.kind)
            for row in rows
            if isinstance(row, DataSample)
            for medium in row.media
            for one in (medium.frames or (medium,))
            if one.reference.startswith(_FETCHED) and one.reference not in self._fetched
        }
        self._fetched |= self._cache.fetch_all(sorted(wanted))

    def medium(self, medium: DataMedium) -> Medium:
        """Find a medium as a data set names it.

        Raises:
            MediaError: It is not there, cannot be fetched, or is of another kind.
        """
        if medium.frames:
            return Medium.of_frames(
                [self.medium(frame) for frame in medium.frames], medium.frames_per_second
            )
        self.n_rated_files += medium.frames_per_second is not None
        key = identify(medium)
        if key not in self._known:
            self._known[key] = Medium.load(self._source(medium), Path())
        found = self._known[key]
        if found.kind != medium.kind:
            raise MediaError(
                f"{medium.shown}: {found.content_type} stands where a {medium.kind} is due"
            )
        return found

    def _source(self, medium: DataMedium) -> Path | bytes | None:
        if not medium.is_url:
            return medium.path or medium.data
        found = self._fetched.get(medium.reference)
        if found is None:
            raise MediaError(f"{medium.shown}: only http and https addresses are fetched")
        if isinstance(found, MediaError):
            raise MediaError(f"{medium.shown}: {found.message}") from found
        return found
