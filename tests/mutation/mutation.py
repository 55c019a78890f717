"""What a mutation is, and the edits that they are made of."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.mutation.subject import Case
from vlmserve.doctor.finding import SEVERITIES

WEIGHTS = "model.safetensors"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

_MOVABLE_BYTES = 1 << 28

Tensors = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Mutation:
    """One fault: it must trip ``check_id``, and no other check above ``info``."""

    name: str
    """What is done, in a few words; unique among those of its subject."""

    check_id: str
    subject: str
    """Name of a subject in ``tests/mutation/subjects.py``."""

    apply: Callable[[Case], object]
    """Damages a copy of the subject, or changes what it is held against (``case.max_length``)."""

    fast: bool = False
    """Whether the fast pass must find it as well. It may in any case, and nothing else."""

    def __post_init__(self) -> None:
        if self.check_id not in SEVERITIES:
            raise ValueError(f"{self.name}: {self.check_id} has no severity in SEVERITIES")

    @property
    def key(self) -> str:
        """Name of the test case."""
        return f"{self.check_id}: {self.name} ({self.subject})"


@dataclass(frozen=True)
class Harmless:
    """One edit after which nothing is above ``info`` that was not before."""

    name: str
    subject: str
    apply: Callable[[Case], object]

    @property
    def key(self) -> str:
        """Name of the test case."""
        return f"{self.name} ({self.subject})"


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def edit_json(path: Path, edit: Callable[[Any], object]) -> None:
    """Change a JSON file in place; ``edit`` changes the parsed value."""
    value = read_json(path)
    edit(value)
    write_json(path, value)


def set_key(path: Path, dotted: str, value: Any) -> None:
    """Set a key of a JSON file (``text_config.rope_parameters.rope_type``); sections are made."""

    def edit(content: Any) -> None:
        *sections, last = dotted.split(".")
        for section in sections:
            content = content.setdefault(section, {})
        content[last] = value

    edit_json(path, edit)


def drop_key(path: Path, dotted: str) -> None:
    """Take a key that is there out of a JSON file."""

    def edit(content: Any) -> None:
        *sections, last = dotted.split(".")
        for section in sections:
            content = content[section]
        del content[last]

    edit_json(path, edit)


def drop_files(directory: Path, *names: str) -> None:
    """Delete files that are there."""
    for name in names:
        (directory / name).unlink()


def replace_text(path: Path, old: str, new: str) -> None:
    """Replace a piece of text that is there."""
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{path} has no {old!r}"
    path.write_text(text.replace(old, new), encoding="utf-8")


def edit_rows(path: Path, edit: Callable[[list[Any]], object]) -> None:
    """Change the rows of a JSONL file in place; ``edit`` changes the list."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    edit(rows)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")


def edit_tensors(path: Path, edit: Callable[[Tensors], object]) -> None:
    """Change the tensors of a safetensors file in place; float32 and float16 only."""
    tensors = dict(load_file(path))
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def scale_tensors(path: Path, pattern: str, factor: float) -> None:
    """Multiply the tensors whose names the pattern is found in."""

    def edit(tensors: Tensors) -> None:
        for name in _matching(tensors, pattern):
            tensors[name] = (tensors[name] * factor).astype(tensors[name].dtype)

    edit_tensors(path, edit)


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and where the data starts."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(length)), 8 + length


def edit_header(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change a safetensors header in place and leave the data as it is.

    Works on any type. In a large sparse file the new header must fit into the old one's place.
    """
    header, start = read_header(path)
    edit(header)
    text = _header_text(header)
    if 8 + len(text) <= start:
        text += b" " * (start - 8 - len(text))
        with path.open("r+b") as file:
            file.write(len(text).to_bytes(8, "little") + text)
        return
    # A longer header moves the data.
    assert path.stat().st_size < _MOVABLE_BYTES, f"{path}: leave room behind the header"
    data = path.read_bytes()[start:]
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def rename_tensors(path: Path, pattern: str, replacement: str) -> None:
    """Rename by regular expression the tensors whose names it is found in; there must be some."""

    def edit(header: dict[str, Any]) -> None:
        for name in _matching(header, pattern):
            header[re.sub(pattern, replacement, name)] = header.pop(name)

    edit_header(path, edit)


def drop_tensors(path: Path, pattern: str) -> None:
    """Take the tensors whose names the pattern is found in out of the file; there must be some.

    Works on any type, but reads the whole file.
    """
    header, start = read_header(path)
    assert path.stat().st_size < _MOVABLE_BYTES, f"{path}: too large to read"
    data = path.read_bytes()[start:]
    dropped = set(_matching(header, pattern))
    kept, parts, offset = {}, [], 0
    for name, entry in header.items():
        if name == "__metadata__":
            kept[name] = entry
        elif name not in dropped:
            begin, end = entry["data_offsets"]
            kept[name] = {**entry, "data_offsets": [offset, offset + end - begin]}
            parts.append(data[begin:end])
            offset += end - begin
    text = _header_text(kept)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


def _header_text(header: dict[str, Any]) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def _matching(names: Any, pattern: str) -> list[str]:
    found = [name for name in names if name != "__metadata__" and re.search(pattern, name)]
    assert found, f"no tensor is named like {pattern}"
    return found


def edit_vocabulary(directory: Path, edit: Callable[[dict[str, int]], object]) -> None:
    """Change the ``vocab`` of a ``tokenizer.json`` with a BPE or word-level model in place."""
    edit_json(directory / "tokenizer.json", lambda content: edit(content["model"]["vocab"]))
