"""What an lm-eval task file must say before a request is sent; every fault is a ConfigError.

lm-eval takes a mistyped column for a literal, reads data files relative to the working directory
and ignores sampling settings it does not know. Here each of these is refused by name.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from vlmserve.chat import SamplingParams
from vlmserve.config.suite import SamplingConfig
from vlmserve.errors import ConfigError

# Readers that ``datasets`` brings along; any other dataset_path is a directory or a repository.
_FILE_READERS = frozenset(
    {"arrow", "csv", "imagefolder", "json", "parquet", "text", "videofolder", "webdataset", "xml"}
)
_TEMPLATE_MARKS = ("{{", "{%")

_STOP_KEYS = ("until", "stop")
_MAX_TOKENS_KEYS = ("max_gen_toks", "max_new_tokens", "max_tokens")


def resolve_data_files(
    dataset_path: str, kwargs: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """Make the data files of a task absolute, taking them as relative to the task's own file.

    Args:
        dataset_path: The task's ``dataset_path``.
        kwargs: The task's ``dataset_kwargs``.
        folder: Directory of the task's file.

    Returns:
        ``kwargs`` with absolute ``data_files`` and ``data_dir``, where they name local files.

    Raises:
        ConfigError: A file does not exist.
    """
    resolved = dict(kwargs)
    if dataset_path not in _FILE_READERS:
        return resolved
    if resolved.get("data_dir") is not None:
        resolved["data_dir"] = _existing(str(resolved["data_dir"]), folder, "data_dir")
    if resolved.get("data_files") is not None:
        resolved["data_files"] = _resolve(resolved["data_files"], folder)
    return resolved


def check_fields(
    *, text: Any, target: Any, image: Any, columns: Collection[str], has_choices: bool
) -> None:
    """Refuse fields that look like the name of a column and name none.

    Args:
        text: The task's ``doc_to_text``.
        target: The task's ``doc_to_target``.
        image: The task's ``doc_to_image``.
        columns: The data set's columns.
        has_choices: Whether the task has ``doc_to_choice``; its target may then be an index.

    Raises:
        ConfigError: A field names no column and is no template; the message lists the columns.
    """
    if isinstance(text, str) and re.fullmatch(r"\w+", text):
        # Prose is a fixed prompt; one bare word is a column.
        _check_column("doc_to_text", text, columns)
    if isinstance(target, str) and target and not (has_choices and target.isdigit()):
        _check_column("doc_to_target", target, columns)
    for name in image if isinstance(image, list) else [image]:
        if isinstance(name, str):
            _check_column("doc_to_image", name, columns)


def sampling_params(generation_kwargs: Mapping[str, Any], suite: SamplingConfig) -> SamplingParams:
    """Read a task's ``generation_kwargs``; the suite's settings win over them.

    Raises:
        ConfigError: A setting is unknown, so it would have been ignored, or has a bad value.
    """
    left = dict(generation_kwargs)
    stop = next((left.pop(key) for key in _STOP_KEYS if key in left), None) or ()
    given: dict[str, Any] = {"stop": (stop,) if isinstance(stop, str) else tuple(stop)}
    for key in _MAX_TOKENS_KEYS:
        if key in left:
            given["max_tokens"] = left.pop(key)
    do_sample = left.pop("do_sample", None)
    given.update({key: left.pop(key) for key in ("temperature", "top_p", "seed") if key in left})
    if do_sample is not None:
        # As in transformers: without sampling the temperature is not used, with it 1 is usual.
        given["temperature"] = given.get("temperature", 1.0) if do_sample else 0.0
    if left:
        raise ConfigError(f"generation_kwargs: unknown setting {', '.join(sorted(left))}")
    given.update(suite.model_dump(exclude_none=True))
    try:
        return SamplingParams(**given)
    except ValueError as error:
        raise ConfigError(f"generation_kwargs: {error}") from error


def _resolve(files: Any, folder: Path) -> Any:
    if isinstance(files, Mapping):
        return {split: _resolve(below, folder) for split, below in files.items()}
    if isinstance(files, list | tuple):
        return [_resolve(file, folder) for file in files]
    return _existing(str(files), folder, "data_files")


def _existing(name: str, folder: Path, field: str) -> str:
    if "://" in name:
        return name
    path = folder / name
    if any(mark in name for mark in "*?["):
        found = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
        if next(found, None) is None:
            raise ConfigError(f"dataset_kwargs.{field}: no file matches {path}")
    elif not path.exists():
        raise ConfigError(
            f"dataset_kwargs.{field}: no such file: {path}",
            hint="data files are looked for beside the task's file",
        )
    return str(path)


def _check_column(field: str, value: str, columns: Collection[str]) -> None:
    if value in columns or any(mark in value for mark in _TEMPLATE_MARKS):
        return
    raise ConfigError(
        f"{field}: {value!r} is neither a column nor a template; columns: {', '.join(columns)}",
        hint=f"a fixed text is written as a template: '{{{{ \"{value}\" }}}}'",
    )
