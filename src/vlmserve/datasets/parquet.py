"""Parquet tables as the ``datasets`` library writes them: rows, with embedded files left behind."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmserve.errors import ConfigError, MediaError

_ROWS_AT_ONCE = 64


class _RowGroups:
    """Reads columns of a table; the last one read is kept, because media are used in order."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._key: tuple[int, str] | None = None
        self._column: Any = None

    def read(self, group: int, row: int, column: str) -> Any:
        """One cell.

        Raises:
            MediaError: The file cannot be read any more.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        with self._lock:
            if self._key != (group, column):
                try:
                    with pq.ParquetFile(self._path, page_checksum_verification=True) as file:
                        table = file.read_row_group(group, columns=[column])
                except (OSError, pa.ArrowException) as error:
                    raise MediaError(f"{self._path}: {error}") from error
                self._key, self._column = (group, column), table.column(column)
            return self._column[row].as_py()


@dataclass(frozen=True, slots=True)
class EmbeddedFile:
    """Where in a table a file is embedded; calling it reads the file."""

    groups: _RowGroups
    group: int
    row: int
    """Within the row group, from 0."""

    place: tuple[str | int, ...]
    """Column, then keys and indices."""

    def __call__(self) -> bytes:
        """Read the encoded file."""
        value = self.groups.read(self.group, self.row, str(self.place[0]))
        for key in self.place[1:]:
            value = value[key]
        return bytes(value)


def read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    """Read a table row by row; bytes in it become ``EmbeddedFile``.

    Raises:
        ConfigError: The file is broken, or pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ConfigError(
            f"{path}: reading Parquet needs pyarrow", hint="pip install pyarrow"
        ) from None
    groups = _RowGroups(path)
    try:
        # Files without checksums are read as well.
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                row = 0
                for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[group]):
                    for value in batch.to_pylist():
                        at = EmbeddedFile(groups, group, row, ())
                        yield {name: _embed(cell, at, (name,)) for name, cell in value.items()}
                        row += 1
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path}: not a Parquet file that can be read: {error}") from error


def _embed(value: Any, at: EmbeddedFile, place: tuple[str | int, ...]) -> Any:
    if isinstance(value, bytes):
        return EmbeddedFile(at.groups, at.group, at.row, place)
    if isinstance(value, dict):
        return {key: _embed(item, at, (*place, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_embed(item, at, (*place, index)) for index, item in enumerate(value)]
    return value
