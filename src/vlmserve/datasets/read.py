"""Reading data sets of conversations in the format in which a model was trained."""

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

from vlmserve.datasets.conversation import Conversation
from vlmserve.datasets.fields import Row, RowError, shorten
from vlmserve.datasets.llama_factory import Columns, read_llama_factory
from vlmserve.datasets.llava import read_llava
from vlmserve.datasets.location import Location, find_data
from vlmserve.datasets.media import MediaReader
from vlmserve.datasets.messages import read_ms_swift, read_openai
from vlmserve.datasets.rows import RawRow, read_rows
from vlmserve.datasets.sample import BadSample, Dataset, Medium, Sample
from vlmserve.datasets.shape import FORMATS, Format, possible_formats
from vlmserve.datasets.vlmevalkit import VlmevalkitReader
from vlmserve.errors import ConfigError

_PROBED_ROWS = 1000
_PROBED_MEDIA = 32

_Reader = Callable[[Row, MediaReader], Conversation]


def load_dataset(
    path: Path | str,
    *,
    media_root: Path | None = None,
    format: Format | None = None,  # noqa: A002 - the word that everybody uses
    limit: int | None = None,
) -> Dataset:
    """Read a data set in the format in which a model was trained.

    A row with one image costs some 1 KB and 25 microseconds; media are not opened, and what a
    Parquet file embeds stays there until it is used.

    Args:
        path: A ``.jsonl``, ``.json``, ``.csv``, ``.tsv`` or ``.parquet`` file; a directory of such
            files, or ``DIRECTORY:SPLIT`` of it; a directory with LLaMA-Factory's
            ``dataset_info.json``, as ``DIRECTORY:NAME`` where that lists several data sets.
        media_root: What relative paths of media count from (LLaVA's ``--image_folder``,
            LLaMA-Factory's ``media_dir``, ms-swift's ``ROOT_IMAGE_DIR``). Without it: the data
            file's directory, or where none of the first media lies there, the data set's directory
            or the working directory.
        format: How rows are written; by default told from their shape.
        limit: Read this many rows and leave the others.

    Returns:
        All rows, in order; those that are no samples as ``BadSample``.

    Raises:
        ConfigError: There is no such file, it is broken (with its line), its rows are of no known
            format or of several, or all of them are bad.
    """
    location = find_data(path)
    if format is None and all(file.suffix.lower() == ".tsv" for file in location.files):
        format = "vlmevalkit"  # noqa: A001 - as above
    root = media_root
    if root is None:
        probed = islice(_read(location, _Detector(format, location.columns), None), limit)
        root = _choose_root(location, islice(probed, _PROBED_ROWS))
    detector = _Detector(format, location.columns)
    with _paused_collector():
        rows = tuple(islice(_read(location, detector, root), limit))
    if not rows:
        raise ConfigError(f"{path}: no samples in it")
    bad = [row for row in rows if isinstance(row, BadSample)]
    if len(bad) == len(rows):
        raise ConfigError(
            f"{bad[0].where}: {bad[0].reason}; none of the {len(rows)} rows is a sample",
            hint=f"known formats are {', '.join(FORMATS)}",
        )
    return Dataset(path=location.path, format=detector.format, rows=rows)


@contextmanager
def _paused_collector() -> Iterator[None]:
    """Keep Python from searching millions of new objects for cycles, which takes half the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Detector:
    """Knows which format the rows so far are of."""

    def __init__(self, given: Format | None, columns: Columns | None) -> None:
        self._columns = columns
        if columns is not None:
            given = "alpaca" if columns.formatting == "alpaca" else "sharegpt"
        self._tables = VlmevalkitReader()
        if given is not None and given not in FORMATS:
            raise ConfigError(f"{given} is no known format of data; {', '.join(FORMATS)} are")
        self._is_given = given is not None
        self._possible = frozenset(FORMATS if given is None else (given,))
        self._since = ""

    @property
    def format(self) -> Format:
        """The first that fits all rows so far."""
        return next(name for name in FORMATS if name in self._possible)

    def narrow(self, value: object, where: str) -> None:
        """Take a row's shape into account.

        Raises:
            RowError: It has the shape of no sample.
            ConfigError: Its format is none that the rows before it can have.
        """
        if not isinstance(value, dict):
            raise RowError(f"an object is expected, not {shorten(value)}")
        if self._is_given:
            return
        possible = possible_formats(value)
        if not possible:
            raise RowError(f"neither messages, conversations nor query in {shorten(list(value))}")
        if not possible & self._possible:
            raise ConfigError(
                f"{where}: this row is {_either(possible)}, but {self._since} is "
                f"{_either(self._possible)}",
                hint="split the file, one for each format",
            )
        if not self._possible <= possible:
            self._possible &= possible
            self._since = where

    def reader(self) -> _Reader:
        """What reads rows of the format."""
        columns = self._columns
        if columns is not None:
            return lambda row, media: read_llama_factory(row, media, columns)
        return self._tables.read if self.format == "vlmevalkit" else _READERS[self.format]


def _either(formats: Iterable[Format]) -> str:
    return " or ".join(name for name in FORMATS if name in formats)


def _read(
    location: Location, detector: _Detector, root: Path | None
) -> Iterator[Sample | BadSample]:
    for file in location.files:
        media = MediaReader(file.parent if root is None else root)
        for raw in read_rows(file):
            yield _read_row(file, raw, detector, media)


def _read_row(
    file: Path, raw: RawRow, detector: _Detector, media: MediaReader
) -> Sample | BadSample:
    try:
        detector.narrow(raw.value, f"{file}:{raw.row}")
        return detector.reader()(raw.value, media).create_sample(file, raw.row)
    except RowError as error:
        return BadSample(file=file, row=raw.row, reason=str(error))


def _choose_root(location: Location, rows: Iterable[Sample | BadSample]) -> Path | None:
    """The first root under which any of the first media lies; ``None`` is the file's directory."""
    media = (medium for row in rows if isinstance(row, Sample) for medium in row.media)
    files = (medium.frames[0] if medium.frames else medium for medium in media)
    first = list(islice((file for file in files if file.path is not None), _PROBED_MEDIA))
    for root in (None, location.directory, Path.cwd()):
        if any(_exists(file if root is None else replace(file, root=root)) for file in first):
            return root
    return None


def _exists(medium: Medium) -> bool:
    try:
        return medium.path is not None and medium.path.exists()
    except OSError:  # a name that is too long
        return False


_READERS: dict[Format, _Reader] = {
    "openai": read_openai,
    "ms-swift": read_ms_swift,
    "sharegpt": lambda row, media: read_llama_factory(row, media, Columns()),
    "alpaca": lambda row, media: read_llama_factory(row, media, Columns(formatting="alpaca")),
    "llava": read_llava,
}
