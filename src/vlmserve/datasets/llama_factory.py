"""Samples as LLaMA-Factory reads them: ShareGPT conversations, alpaca, and ``dataset_info.json``.

Read from LLaMA-Factory 0.9.5 data/parser.py ``DatasetAttr`` and data/converter.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vlmserve.datasets.conversation import Conversation, Message, split_tags
from vlmserve.datasets.fields import Row, RowError, shorten, take_objects, take_text
from vlmserve.datasets.media import MediaReader
from vlmserve.datasets.messages import read_history
from vlmserve.datasets.rows import read_object
from vlmserve.datasets.sample import TurnRole
from vlmserve.errors import ConfigError

INFO_NAME = "dataset_info.json"

_COLUMNS = ("prompt", "query", "response", "history", "messages", "system", "images", "videos")
_TAGS = (
    "role_tag", "content_tag", "user_tag", "assistant_tag", "observation_tag", "function_tag",
    "system_tag",
)  # fmt: skip
_HUB_KEYS = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")


@dataclass(frozen=True, slots=True)
class Columns:
    """What LLaMA-Factory calls a data set's columns and tags.

    The defaults are those for a file that ``dataset_info.json`` does not describe.
    """

    formatting: Literal["alpaca", "sharegpt", "openai"] = "sharegpt"
    is_ranking: bool = False
    is_strict: bool = False
    """Whether turns must alternate, as LLaMA-Factory wants; known where its own file was read."""

    prompt: str | None = "instruction"
    query: str | None = "input"
    response: str | None = "output"
    history: str | None = "history"
    messages: str | None = "conversations"
    system: str | None = "system"
    images: str | None = "images"
    videos: str | None = "videos"
    chosen: str | None = "chosen"
    role_tag: str | None = "from"
    content_tag: str | None = "value"
    user_tag: str | None = "human"
    assistant_tag: str | None = "gpt"
    observation_tag: str | None = "observation"
    function_tag: str | None = "function_call"
    system_tag: str | None = "system"


@dataclass(frozen=True, slots=True)
class Entry:
    """One data set of a ``dataset_info.json``."""

    path: Path
    """A file, or a directory of files."""

    columns: Columns


def load_entry(directory: Path, name: str | None) -> Entry:
    """Look a data set up in a directory's ``dataset_info.json``.

    Args:
        directory: Where that file lies.
        name: The data set's name there; may be absent where the file has one only.

    Raises:
        ConfigError: The file is broken, or has no such data set, or it does not lie on this disk.
    """
    path = directory / INFO_NAME
    info = read_object(path)
    local = [key for key, entry in info.items() if isinstance(entry, dict)]
    if name is None and len(local) == 1:
        name = local[0]
    if name not in local:
        said = "which data set of it?" if name is None else f"no data set {name}"
        known = ", ".join(local[:20]) or "none"
        raise ConfigError(f"{path}: {said}", hint=f"give {directory}:NAME; there are {known}")
    entry = info[name]
    file_name = entry.get("file_name")
    if not isinstance(file_name, str):
        remote = next((key for key in _HUB_KEYS if key in entry), None)
        said = f"it lies elsewhere ({remote})" if remote else "file_name: text is expected"
        raise ConfigError(f"{path}: {name}: {said}", hint="give the downloaded file itself")
    return Entry(directory / file_name, _columns(entry, f"{path}: {name}"))


def _columns(entry: Mapping[str, Any], where: str) -> Columns:
    formatting = entry.get("formatting", "alpaca")
    if formatting not in {"alpaca", "sharegpt", "openai"}:
        raise ConfigError(f"{where}: formatting: {shorten(formatting)} is none that is known")
    # Without "columns" media, system and history are not read; with it, only what it names is.
    named: dict[str, str | None] = dict.fromkeys(
        ("history", "system", "images", "videos", "chosen")
    )
    for group, keys in (("columns", (*_COLUMNS, "chosen")), ("tags", _TAGS)):
        given = entry.get(group)
        if given is None:
            continue
        if not isinstance(given, dict):
            raise ConfigError(f"{where}: {group}: an object is expected, not {shorten(given)}")
        for key in keys:
            value = given.get(key)
            if value is not None and not isinstance(value, str):
                raise ConfigError(f"{where}: {group}.{key}: text is expected")
            named[key] = value
    return Columns(
        formatting=formatting, is_ranking=bool(entry.get("ranking")), is_strict=True, **named
    )


def read_llama_factory(row: Row, media: MediaReader, columns: Columns) -> Conversation:
    """Read a row.

    Raises:
        RowError: The row is no sample.
    """
    read = _alpaca if columns.formatting == "alpaca" else _sharegpt
    images = row.get(columns.images) if columns.images else None
    videos = row.get(columns.videos) if columns.videos else None
    return Conversation(
        messages=read(row, columns),
        images=media.read_images(images, columns.images or ""),
        videos=media.read_videos(videos, columns.videos or ""),
    )


def _alpaca(row: Row, columns: Columns) -> list[Message]:
    messages = _system(row, columns)
    if columns.history is not None:
        messages += read_history(row.get(columns.history))
    asked = [
        take_text(row, key)
        for key in (columns.prompt, columns.query)
        if key is not None and row.get(key)
    ]
    if not asked:
        raise RowError(f"{columns.prompt}: text is expected")
    messages.append(Message("user", split_tags("\n".join(asked))))
    answer = columns.chosen if columns.is_ranking else columns.response
    if answer is None:
        raise RowError("the columns name no response")
    messages.append(Message("assistant", split_tags(take_text(row, answer))))
    return messages


def _sharegpt(row: Row, columns: Columns) -> list[Message]:
    if columns.messages is None:
        raise RowError("the columns name no messages")
    turns = list(take_objects(row, columns.messages))
    if columns.is_ranking and columns.chosen is not None:
        chosen = row.get(columns.chosen)
        if not isinstance(chosen, dict):
            raise RowError(f"{columns.chosen}: an object is expected, not {shorten(chosen)}")
        turns.append(chosen)
    roles = _roles(columns)
    messages = [
        _turn(turn, f"{columns.messages}[{index}].", columns, roles)
        for index, turn in enumerate(turns)
    ]
    if messages[0].role != "system":
        messages = [*_system(row, columns), *messages]
    if columns.is_strict:
        _refuse_disorder(messages)
    return messages


def _turn(turn: Row, place: str, columns: Columns, roles: Mapping[str | None, TurnRole]) -> Message:
    name = take_text(turn, columns.role_tag or "from", place)
    if name not in roles:
        known = ", ".join(key for key in roles if key)
        raise RowError(f"{place}{columns.role_tag}: {shorten(name)} is none of {known}")
    content = take_text(turn, columns.content_tag or "value", place)
    # A system prompt is kept apart, and its text is not searched for placeholders.
    role = roles[name]
    parts = ((content,) if content else ()) if role == "system" else split_tags(content)
    return Message(role, parts)


def _roles(columns: Columns) -> dict[str | None, TurnRole]:
    return {
        columns.user_tag: "user",
        columns.assistant_tag: "assistant",
        columns.observation_tag: "tool",
        columns.function_tag: "assistant",
        columns.system_tag: "system",
    }


def _system(row: Row, columns: Columns) -> list[Message]:
    if columns.system is None or not row.get(columns.system):
        return []
    return [Message("system", (take_text(row, columns.system),))]


def _refuse_disorder(messages: Sequence[Message]) -> None:
    said = [message for message in messages if message.role != "system"]
    for index, message in enumerate(said):
        if (message.role == "assistant") != bool(index % 2):
            raise RowError(
                f"turn {index + 1} is the {message.role}'s where another's is due: LLaMA-Factory "
                "skips the sample"
            )
    if len(said) % 2:
        raise RowError("it does not end with an answer: LLaMA-Factory skips the sample")
