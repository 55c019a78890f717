"""Reading the small text files of a checkpoint, with errors that name the file."""

import json
from pathlib import Path
from typing import Any

import yaml

from vlmserve.errors import CheckpointError


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        CheckpointError: The file cannot be read, is not JSON, or holds something else; the message
            names file and line.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: not UTF-8 text: {error.reason}") from error
    except ValueError as error:  # a number of thousands of digits
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from error
    except RecursionError as error:
        raise CheckpointError(f"{path}: nested too deeply to be read") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: a JSON object is expected, not {type(value).__name__}")
    return value


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping.

    Raises:
        CheckpointError: The file cannot be read, is not YAML, or holds something else.
    """
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    # Dates that do not exist are a ValueError.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path}: not readable YAML: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: a mapping is expected, not {type(value).__name__}")
    return value


def read_template(path: Path) -> str:
    """Read a chat template's text; what is not UTF-8 is replaced.

    Raises:
        CheckpointError: The file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error


def read_json_if_present(path: Path) -> dict[str, Any]:
    """Like ``read_json``, but an absent file is an empty object."""
    return read_json(path) if path.is_file() else {}
