"""Tables as people keep them: xlsx, TSV, CSV, JSON records and JSON Lines."""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlmserve.errors import ConfigError

Row = dict[str, Any]


def read_table(path: Path) -> list[Row]:
    """Read a table's rows; cells without a value are ``None``.

    Raises:
        ConfigError: There is no such file, it is damaged or of another kind, or openpyxl is
            missing.
    """
    readers = {
        ".xlsx": _read_xlsx,
        ".tsv": _read_tsv,
        ".csv": _read_csv,
        ".json": _read_json,
        ".jsonl": _read_jsonl,
    }
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"{path}: not one of {', '.join(readers)}")
    try:
        rows = list(reader(path))
    except (OSError, ValueError, csv.Error, KeyError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    return [{name: _present(value) for name, value in row.items()} for row in rows]


def _present(value: Any) -> Any:
    is_nan = isinstance(value, float) and math.isnan(value)
    return None if is_nan or value == "" else value


def _read_tsv(path: Path) -> Iterator[Row]:
    return _read_separated(path, "\t")


def _read_csv(path: Path) -> Iterator[Row]:
    return _read_separated(path, ",")


def _read_separated(path: Path, separator: str) -> Iterator[Row]:
    # Images in base64 are longer than the 128 KiB that csv takes for a cell.
    before = csv.field_size_limit(2**31 - 1)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.DictReader(file, delimiter=separator), start=2):
                if None in row or None in row.values():
                    raise ConfigError(f"{path}: row {number} has not as many cells as the header")
                yield row
    finally:
        csv.field_size_limit(before)


def _read_json(path: Path) -> Iterator[Row]:
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise ConfigError(f"{path}: a list of objects is expected")
    yield from value


def _read_jsonl(path: Path) -> Iterator[Row]:
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ConfigError(f"{path}:{number}: an object is expected")
            yield row


def _read_xlsx(path: Path) -> Iterator[Row]:
    try:
        from openpyxl import load_workbook
        from openpyxl.utils.exceptions import InvalidFileException
    except ImportError as error:
        raise ConfigError(
            f"{path}: openpyxl is not installed, which reads xlsx",
            hint="pip install openpyxl; or let VLMEvalKit write TSV: PRED_FORMAT=tsv",
        ) from error
    from zipfile import BadZipFile

    try:
        book = load_workbook(path, read_only=True, data_only=True)
    except (BadZipFile, InvalidFileException) as error:
        raise ConfigError(f"{path}: is no xlsx file: {error}") from error
    try:
        rows = book.worksheets[0].iter_rows(values_only=True)
        header = [str(name) for name in next(rows, ())]
        for row in rows:
            if any(cell is not None for cell in row):
                yield dict(zip(header, row, strict=False))
    finally:
        book.close()
