"""What an lm-eval task file must say before a request is sent; every fault is a ConfigError.

lm-eval takes a mistyped column for a literal, reads data files relative to the working directory
and ignores sampling settings it does not know. Here each of these is refused by name.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vlmserve.chat import SamplingParams
from vlmserve.config.asking import SamplingConfig
from vlmserve.errors import ConfigError

# Readers that ``datasets`` brings along; any other dataset_path is a directory or a repository.
_FILE_READERS = frozenset(
    {"arrow", "csv", "imagefolder", "json", "parquet", "text", "videofolder", "webdataset", "xml"}
)
_TEMPLATE_MARKS = ("{{", "{%")

_STOP_KEYS = ("until", "stop")
_MAX_TOKENS_KEYS = ("max_gen_toks", "max_new_tokens", "max_tokens")


def check_shapes(config: Mapping[str, Any]) -> None:
    """Refuse a task's settings that are not built as lm-eval takes them for granted.

    Args:
        config: The task's file.

    Raises:
        ConfigError: A list is no list, an entry lacks what it must have, or a setting of
            ``generation_kwargs`` is unknown or has a bad value; the message names the field.
    """
    if (kwargs := config.get("generation_kwargs")) is not None:
        if not isinstance(kwargs, Mapping):
            raise ConfigError(f"generation_kwargs: {_not(kwargs, 'a mapping')}")
        sampling_params(kwargs, SamplingConfig())
    for index, metric in enumerate(_entries(config, "metric_list")):
        if not (isinstance(metric, Mapping) and "metric" in metric):
            raise ConfigError(f"metric_list.{index}: {_not(metric, 'a mapping with `metric`')}")
    for index, filter_ in enumerate(_entries(config, "filter_list")):
        if not (isinstance(filter_, Mapping) and isinstance(filter_.get("name"), str)):
            raise ConfigError(f"filter_list.{index}: {_not(filter_, 'a mapping with `name`')}")
        steps = _list(filter_.get("filter"), f"filter_list.{index}.filter")
        for number, step in enumerate(steps):
            if not (isinstance(step, Mapping) and "function" in step):
                field = f"filter_list.{index}.filter.{number}"
                raise ConfigError(f"{field}: {_not(step, 'a mapping with `function`')}")


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
    given: dict[str, Any] = {}
    # What the task's file calls each parameter, for messages.
    spelled: dict[str, str] = {}
    for parameter, keys in (("stop", _STOP_KEYS), ("max_tokens", _MAX_TOKENS_KEYS)):
        for key in keys:
            if key in left:
                given[parameter], spelled[parameter] = left.pop(key), key
    given["stop"] = _stop_strings(given.get("stop"), spelled.get("stop", ""))
    do_sample = left.pop("do_sample", None)
    if do_sample is not None and not isinstance(do_sample, bool):
        raise ConfigError(f"generation_kwargs.do_sample: {_not(do_sample, 'true or false')}")
    given.update({key: left.pop(key) for key in ("temperature", "top_p", "seed") if key in left})
    if do_sample is not None:
        # As in transformers: without sampling the temperature is not used, with it 1 is usual.
        given["temperature"] = given.get("temperature", 1.0) if do_sample else 0.0
    if left:
        raise ConfigError(f"generation_kwargs: unknown setting {', '.join(sorted(map(str, left)))}")
    given.update(suite.model_dump(exclude_none=True))
    try:
        return SamplingParams(**given)
    except ValidationError as error:
        fault = error.errors()[0]
        parameter = str(fault["loc"][0])
        field = spelled.get(parameter, parameter)
        raise ConfigError(
            f"generation_kwargs.{field}: {fault['msg']}, got {fault['input']!r}"
        ) from error


def _stop_strings(value: Any, key: str) -> tuple[str, ...]:
    if value is None:
        return ()
    strings = (value,) if isinstance(value, str) else value
    if not isinstance(strings, list | tuple) or not all(isinstance(one, str) for one in strings):
        raise ConfigError(f"generation_kwargs.{key}: {_not(value, 'a string or a list of them')}")
    return tuple(strings)


def _entries(config: Mapping[str, Any], field: str) -> Sequence[Any]:
    value = config.get(field)
    return () if value is None else _list(value, field)


def _list(value: Any, field: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{field}: {_not(value, 'a list')}")
    return value


def _not(value: Any, expected: str) -> str:
    return f"{expected} is expected, got {value!r}"


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
