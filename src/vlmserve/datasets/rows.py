"""The rows of a data file before anyone says what they mean: JSONL, JSON, tables and Parquet."""

import ast
import csv
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from vlmserve.errors import ConfigError

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""The files that both ms-swift and LLaMA-Factory take, and VLMEvalKit's tables."""

_CUT_SHORT = "it ends too early; was the file cut short?"
_SPACE = (" ", "\n", "\r", "\t")
_BOM = b"\xef\xbb\xbf"
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff")
# Columns of a CSV file that hold lists; both frameworks parse them (ms-swift with literal_eval).
_LIST_COLUMNS = ("messages", "conversations", "conversation", "history", "images", "videos")


class RawRow(NamedTuple):
    """A row as it stands in its file."""

    row: int
    """Line of a JSONL file, else place in the list or table; counted from 1."""

    value: Any
    """Mostly a dictionary."""


def read_rows(path: Path) -> Iterator[RawRow]:
    """Read a data file row by row.

    One row at a time is held, beside the text of a JSON file as a whole.

    Raises:
        ConfigError: There is no such file, it is of no known kind, or it is broken; with the line.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(
            f"{path}: unknown kind of data file",
            hint=f"files ending in {', '.join(SUFFIXES)} are read",
        )
    try:
        yield from reader(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        ConfigError: It cannot be read, is broken, or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8: {error.reason}") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: an object is expected, not {type(value).__name__}")
    return value


def _read_jsonl(path: Path) -> Iterator[RawRow]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            text = line
            if number == 1:
                _refuse_wide(path, line)
                text = line.removeprefix(_BOM)
            text = text.strip()
            if text:
                yield RawRow(number, _parse(path, number, text))


def _parse(path: Path, number: int, line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _not_utf8(path, number, error) from error
    except RecursionError:
        raise ConfigError(f"{path}:{number}: nested too deeply") from None
    except json.JSONDecodeError as error:
        hint = _CUT_SHORT if error.pos >= len(line) else None
        raise ConfigError(
            f"{path}:{number}: not JSON: {error.msg} at column {error.colno}", hint=hint
        ) from error


def _read_json(path: Path) -> Iterator[RawRow]:
    with path.open("rb") as file:
        head = file.read(4096)
    _refuse_wide(path, head)
    start = head.removeprefix(_BOM).lstrip()
    if not start:
        raise ConfigError(f"{path}: the file is empty")
    if start.startswith(b"{"):
        # Many a .json file is JSONL; the loaders of both frameworks read it as such.
        yield from _read_jsonl_or_explain(path)
        return
    if not start.startswith(b"["):
        raise ConfigError(f"{path}:1: a list of samples is expected")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, data.count(b"\n", 0, error.start) + 1, error) from error
    del data
    yield from _read_list(path, text)


def _read_jsonl_or_explain(path: Path) -> Iterator[RawRow]:
    n_rows = 0
    try:
        for row in _read_jsonl(path):
            n_rows += 1
            yield row
    except ConfigError:
        if n_rows:
            raise
        raise ConfigError(
            f"{path}:1: an object, where a list of samples or one object a line is expected"
        ) from None


def _read_list(path: Path, text: str) -> Iterator[RawRow]:
    """Decode a list's items one at a time: all at once takes several times the file's size."""
    decoder = json.JSONDecoder()
    place = _skip_space(text, text.index("[") + 1)
    is_open = text[place : place + 1] != "]"
    row = 0
    while is_open:
        row += 1
        try:
            value, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            raise ConfigError(
                f"{path}:{error.lineno}: not JSON: {error.msg} at column {error.colno}, in sample "
                f"{row}",
                hint=_CUT_SHORT if error.pos >= len(text.rstrip()) else None,
            ) from error
        except RecursionError:
            raise ConfigError(f"{path}: sample {row}: nested too deeply") from None
        yield RawRow(row, value)
        place = _skip_space(text, place)
        mark = text[place : place + 1]
        if mark not in {",", "]"}:
            raise ConfigError(
                f"{path}:{_line(text, place)}: neither a comma nor ] behind sample {row}",
                hint=None if mark else _CUT_SHORT,
            )
        is_open = mark == ","
        if is_open:
            place = _skip_space(text, place + 1)
    rest = _skip_space(text, place + 1)
    if rest < len(text):
        raise ConfigError(f"{path}:{_line(text, rest)}: text behind the end of the list")


def _skip_space(text: str, place: int) -> int:
    while text[place : place + 1] in _SPACE:
        place += 1
    return place


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1


def _read_tsv(path: Path) -> Iterator[RawRow]:
    return _read_table(path, "\t")


def _read_csv(path: Path) -> Iterator[RawRow]:
    return _read_table(path, ",")


def _read_table(path: Path, delimiter: str) -> Iterator[RawRow]:
    # The largest that C holds; conversations are longer than the module's 128 KiB.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, strict=True, delimiter=delimiter)
            for row, cells in enumerate(table, start=1):
                if None in cells or None in cells.values():
                    raise ConfigError(
                        f"{path}:{table.line_num}: {len(table.fieldnames or ())} columns are "
                        "expected as in the first line"
                    )
                yield RawRow(row, {name: _cell(name, cell) for name, cell in cells.items()})
    except UnicodeDecodeError as error:
        line = path.read_bytes().count(b"\n", 0, error.start) + 1
        raise _not_utf8(path, line, error) from error
    except csv.Error as error:
        raise ConfigError(f"{path}: not a table: {error}") from error


def _cell(name: str, cell: str) -> Any:
    if name not in _LIST_COLUMNS:
        return cell
    if not cell.strip():
        return None
    if cell.lstrip()[:1] not in {"[", "{"}:
        return cell
    try:
        return json.loads(cell)
    except json.JSONDecodeError:
        pass
    try:
        return ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return cell


def _read_parquet(path: Path) -> Iterator[RawRow]:
    # pyarrow is loaded only where there is such a file.
    from vlmserve.datasets.parquet import read_parquet

    for row, value in enumerate(read_parquet(path), start=1):
        yield RawRow(row, value)


def _refuse_wide(path: Path, head: bytes) -> None:
    if head.startswith(_WIDE_BOMS):
        raise ConfigError(f"{path}:1: UTF-16; save it as UTF-8")


def _not_utf8(path: Path, line: int, error: UnicodeDecodeError) -> ConfigError:
    byte = error.object[error.start]
    return ConfigError(f"{path}:{line}: not UTF-8: byte 0x{byte:02x}", hint="save it as UTF-8")


_READERS: dict[str, Callable[[Path], Iterator[RawRow]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
}
