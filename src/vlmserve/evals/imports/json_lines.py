"""Logs in JSON Lines and the results beside them: what lm-eval and lmms-eval have in common."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmserve.errors import ConfigError

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read a log.

    Raises:
        ConfigError: It cannot be read, or a line is no JSON object; the message names the line.
    """
    rows = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ConfigError(f"{path}:{number}: a JSON object is expected")
                rows.append(row)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{path}:{len(rows) + 1}: no JSON: {error}") from error
    return rows


def read_results(path: Path) -> dict[str, Any]:
    """Read the results that lie beside a log; empty where there are none.

    Raises:
        ConfigError: The file is there and cannot be read.
    """
    if not path.is_file():
        return {}
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    return results if isinstance(results, dict) else {}


def find_logs(
    given: Sequence[Path], pattern: re.Pattern[str], what: str
) -> dict[str, tuple[Path, str]]:
    """Find the logs among files and directories.

    Args:
        given: Files, or directories that are searched with all below them.
        pattern: Of the logs' names, with the groups ``task`` and ``date``.
        what: The harness, for messages.

    Returns:
        By task, the file and its date.

    Raises:
        ConfigError: There are none, or two of one task.
    """
    files: list[Path] = []
    for path in given:
        if path.is_dir():
            files += sorted(each for each in path.rglob("*.jsonl") if pattern.fullmatch(each.name))
        elif path.is_file():
            files.append(path)
        else:
            raise ConfigError(f"{path}: no such file or directory")
    found: dict[str, list[tuple[Path, str]]] = defaultdict(list)
    for file in files:
        match = pattern.fullmatch(file.name)
        if match is None:
            raise ConfigError(
                f"{file}: not named as {what} names its sample logs",
                hint="a log's name says which task it is of, and which results belong to it",
            )
        found[match["task"]].append((file, match["date"]))
    if not found:
        raise ConfigError(f"{given[0]}: there are no sample logs of {what}")
    for task, logs in found.items():
        if len(logs) > 1:
            raise ConfigError(
                f"task {task} has {len(logs)} logs: {', '.join(str(file) for file, _ in logs)}",
                hint="name those of one run",
            )
    return {task: logs[0] for task, logs in found.items()}


def stable(value: Any) -> Any:
    """A JSON value without addresses in memory, which differ from run to run."""
    if isinstance(value, str):
        return _ADDRESS.sub("", value)
    if isinstance(value, Mapping):
        return {str(key): stable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [stable(each) for each in value]
    return value


def required(row: Mapping[str, Any], name: str, path: Path, number: int) -> Any:
    """Take a value that every row of a log has.

    Raises:
        ConfigError: This one has not.
    """
    if name not in row:
        raise ConfigError(f"{path}: row {number}: no {name!r}; is it a sample log?")
    return row[name]


def as_text(value: Any) -> str:
    """A logged value as text: itself where it is one, the only one of a list, or JSON."""
    while isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def pick(row: Mapping[str, Any], metric: str) -> Any:
    """A metric's value; ``mme.score`` is the value ``score`` of the mapping ``mme``."""
    if metric in row:
        return row[metric]
    name, _, below = metric.partition(".")
    value = row.get(name)
    return value.get(below) if isinstance(value, Mapping) else None
