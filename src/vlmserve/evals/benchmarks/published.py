"""Reads a benchmark as it was published: from the hub, or from a local copy of the same files.

A local copy is a directory of the benchmark's name under the one that ``VLMSERVE_BENCHMARKS``
names: parquet files as on the hub, or VLMEvalKit's table with images in base64.
"""

import ast
import base64
import binascii
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmserve.datasets.rows import read_rows
from vlmserve.errors import ConfigError
from vlmserve.evals.media_columns import keep_files

_LOG = logging.getLogger(__name__)

LOCAL_COPIES = "VLMSERVE_BENCHMARKS"
"""The environment variable that names the directory of local copies."""

# VLMEvalKit's tables put the row of the same picture where a picture is repeated; no picture's
# base64 is as short.
_LONGEST_REFERENCE = 64


def load_published(
    benchmark: str,
    columns: Sequence[str],
    *,
    hub: str,
    split: str,
    names: Sequence[str] = (),
    **_: Any,
) -> dict[str, Any]:
    """Load a benchmark's rows, with media as the files they are.

    Args:
        benchmark: What its directory among the local copies is called.
        columns: What it must have.
        hub: The data set's name on the hub.
        split: Which of its splits.
        names: The hub's configurations of it, put together in this order; none where there is one.
        _: What a task file says beside, such as its version.

    Returns:
        The split's ``datasets.Dataset`` under its name.

    Raises:
        ConfigError: There is no such copy, it has no file of the split, or a column is missing.
    """
    folder = find_local_copy(benchmark)
    if folder is None:
        rows, place = _read_hub(hub, split, names), hub
    else:
        rows, place = _read_folder(folder, split, names), str(folder)
    if missing := [name for name in columns if name not in rows.column_names]:
        raise ConfigError(
            f"{place}: no column {', '.join(map(repr, missing))}; it has: "
            f"{', '.join(rows.column_names)}"
        )
    _LOG.info("%s: %d rows of %s, split %s", benchmark, len(rows), place, split)
    return {split: rows}


def find_local_copy(benchmark: str) -> Path | None:
    """Find a benchmark's directory; ``None`` where no local copies are spoken of.

    Raises:
        ConfigError: Local copies are spoken of, and this one is missing.
    """
    root = os.environ.get(LOCAL_COPIES)
    if not root:
        return None
    folder = Path(root).expanduser() / benchmark
    if not folder.is_dir():
        raise ConfigError(
            f"{LOCAL_COPIES}: no such directory: {folder}",
            hint=f"put the published files there, or unset {LOCAL_COPIES} to read the hub",
        )
    return folder


def require_local_copy(benchmark: str, how: str) -> Path:
    """Find the directory of a benchmark whose videos the hub keeps in archives.

    Args:
        benchmark: What it is called.
        how: The command that fetches it.

    Raises:
        ConfigError: There is no local copy.
    """
    folder = find_local_copy(benchmark)
    if folder is None:
        raise ConfigError(
            f"the videos of {benchmark} must be on this machine; {LOCAL_COPIES} names the "
            f"directory above {benchmark}/",
            hint=how,
        )
    return folder


def _read_hub(hub: str, split: str, names: Sequence[str]) -> Any:
    import datasets

    try:
        parts = [datasets.load_dataset(hub, name, split=split) for name in names or (None,)]
    except (OSError, ValueError) as error:
        # datasets says that it is offline, or that there is no such thing, with one of these.
        raise ConfigError(
            f"{hub}: {str(error).splitlines()[0]}",
            hint=f"a local copy of the published files is read when {LOCAL_COPIES} is set",
        ) from error
    return datasets.concatenate_datasets([keep_files(part) for part in parts])


def _read_folder(folder: Path, split: str, names: Sequence[str]) -> Any:
    if tables := sorted(folder.glob("*.tsv")):
        if len(tables) > 1:
            raise ConfigError(f"{folder}: holds {len(tables)} tables (*.tsv); keep one")
        return read_table(tables[0])
    import datasets

    files = [str(file) for name in names or ("",) for file in _parquet(folder / name, split)]
    parts = datasets.load_dataset("parquet", data_files=files, split="train")
    return keep_files(parts)


def _parquet(folder: Path, split: str) -> list[Path]:
    found = sorted(folder.rglob("*.parquet"))
    files = [file for file in found if re.match(rf"{re.escape(split)}([-_.]|$)", file.stem)]
    if not files:
        others = ", ".join(file.name for file in found[:5]) or "none"
        raise ConfigError(
            f"{folder}: no parquet file of the split {split!r}, such as "
            f"{split}-00000-of-00001.parquet, and no *.tsv; parquet files there: {others}"
        )
    return files


def read_table(path: Path) -> Any:
    """Read VLMEvalKit's table: tab-separated, images in base64.

    Returns:
        A ``datasets.Dataset``; ``image`` holds a list of files, other columns text, and an empty
        cell is ``None``.

    Raises:
        ConfigError: It is no table, or an image is no base64; the message names the row.
    """
    import datasets

    rows = [(number, _filled(row)) for number, row in read_rows(path)]
    if not rows:
        raise ConfigError(f"{path}: has no rows")
    images = {str(row.get("index")): row["image"] for _, row in rows if row.get("image")}
    for number, row in rows:
        if "image" in row:
            row["image"] = _images(row["image"], images, f"{path}: row {number}")
    return datasets.Dataset.from_list([row for _, row in rows])


def _filled(row: Mapping[str, str]) -> dict[str, Any]:
    return {name: cell or None for name, cell in row.items()}


def _images(cell: str | None, others: Mapping[str, str], where: str) -> list[dict[str, Any]]:
    if cell is None:
        return []
    if len(cell) <= _LONGEST_REFERENCE:
        if cell not in others:
            raise ConfigError(f"{where}: image: no row has the index {cell!r}")
        cell = others[cell]
    texts = read_list(cell) if cell.startswith("[") else [cell]
    try:
        return [{"bytes": base64.b64decode(text, validate=True), "path": None} for text in texts]
    except binascii.Error as error:
        raise ConfigError(f"{where}: image: no base64: {error}") from error


def read_list(cell: Any) -> list[str]:
    """Read a list of texts that a table or an older data set keeps as Python or JSON text.

    Raises:
        ConfigError: It is no such list.
    """
    if isinstance(cell, str):
        for read in (ast.literal_eval, json.loads):
            try:
                cell = read(cell)
                break
            except (ValueError, SyntaxError):
                continue
    if not isinstance(cell, list | tuple):
        raise ConfigError(f"a list is expected, got {str(cell)[:80]!r}")
    return [str(one) for one in cell]


def lead_with_images(text: str, count: int) -> str:
    """Announce images: those that a text has no ``<image>`` for come first.

    Args:
        text: A question, perhaps with ``<image>`` where images belong.
        count: How many images there are.
    """
    return "<image>" * (count - text.count("<image>")) + text
