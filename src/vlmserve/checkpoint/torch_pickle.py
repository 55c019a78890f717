"""Which tensors a file of ``torch.save`` holds, without unpickling it.

The format (torch 1.6 and later) is a ZIP archive with one pickle, ``data.pkl``, and the values of
each storage in a member of their own, uncompressed. The pickle is a program; nothing of it is run
here. Its operations are followed on plain tuples and dictionaries: what it would import is noted by
name, and what it would call is noted as a call.
"""

import math
import pickletools
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmserve.checkpoint.tensors import Shape, TensorInfo
from vlmserve.errors import CheckpointError

_MAX_PICKLE_BYTES = 100_000_000
_MAX_OPERATIONS = 20_000_000
# Of a ZIP member's local header: its fixed size, and where the lengths of name and extra stand.
_LOCAL_HEADER_BYTES = 30
_LENGTHS = struct.Struct("<HH")
_LENGTHS_AT = 26

# torch's storage classes, as safetensors names the types, with bytes a value.
_STORAGES = {
    "DoubleStorage": ("F64", 8),
    "FloatStorage": ("F32", 4),
    "HalfStorage": ("F16", 2),
    "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8),
    "IntStorage": ("I32", 4),
    "ShortStorage": ("I16", 2),
    "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1),
    "BoolStorage": ("BOOL", 1),
}
_REBUILD_TENSOR = "torch._utils _rebuild_tensor_v2"
_REBUILD_PARAMETER = "torch._utils _rebuild_parameter"


class OpaquePickleError(CheckpointError):
    """A pickle that cannot be followed here. It may be sound, and torch may load it."""


@dataclass(frozen=True, slots=True)
class _Global:
    """Something that unpickling would import."""

    name: str


@dataclass(frozen=True, slots=True)
class _Call:
    """Something that unpickling would call."""

    function: Any
    arguments: Any
    items: dict[Any, Any]
    """What it would put into the result, such as an ordered dictionary's entries."""


@dataclass(frozen=True, slots=True)
class _Storage:
    """A storage that the pickle refers to."""

    reference: Any


class _Mark:
    """Where a group of values on the stack begins."""


def read_pickle_header(path: Path) -> dict[str, TensorInfo]:
    """Read which tensors a file of ``torch.save`` holds, and where their values are.

    Args:
        path: Such as ``pytorch_model.bin`` or ``non_lora_trainables.bin``: one dictionary from
            names to tensors. Other entries are left out.

    Raises:
        OpaquePickleError: The file is of the format before torch 1.6, or does what cannot be
            followed.
        CheckpointError: The file is missing, empty, truncated or a Git LFS pointer; the message
            names it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            root = next((name for name in members if name.endswith("/data.pkl")), None)
            if root is None or members[root].file_size > _MAX_PICKLE_BYTES:
                raise OpaquePickleError(f"{path}: not a file of torch.save")
            folder = root.removesuffix("data.pkl")
            order = f"{folder}byteorder"
            if order in members and archive.read(order) != b"little":
                raise OpaquePickleError(f"{path}: written by a big-endian machine")
            content = _follow(archive.read(root))
        starts = {
            name.removeprefix(f"{folder}data/"): _data_span(path, info)
            for name, info in members.items()
            if name.startswith(f"{folder}data/")
        }
    except zipfile.BadZipFile as error:
        raise _not_a_zip(path) from error
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise OpaquePickleError(f"{path}: its pickle cannot be followed: {error}") from error
    entries = content.items if isinstance(content, _Call) else content
    if not isinstance(entries, dict):
        raise OpaquePickleError(f"{path}: not a dictionary of tensors")
    tensors = (_tensor(path, name, value, starts) for name, value in entries.items())
    return {tensor.name: tensor for tensor in tensors if tensor is not None}


def _not_a_zip(path: Path) -> CheckpointError:
    with path.open("rb") as file:
        start = file.read(32)
    if not start:
        return CheckpointError(f"{path}: the file is empty")
    if start.startswith(b"version https://git-lfs"):
        return CheckpointError(
            f"{path}: a Git LFS pointer, not the weights themselves",
            hint=f"run: git -C {path.parent} lfs pull",
        )
    if start.startswith(b"PK"):
        return CheckpointError(f"{path}: truncated: the end of the archive is missing")
    return OpaquePickleError(
        f"{path}: a pickle from before torch 1.6, or something else; it is not opened"
    )


def _data_span(path: Path, info: zipfile.ZipInfo) -> tuple[int, int]:
    """Where a member's bytes begin in the file, and how many they are."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{info.filename} is compressed")
    with path.open("rb") as file:
        file.seek(info.header_offset + _LENGTHS_AT)
        name, extra = _LENGTHS.unpack(file.read(_LENGTHS.size))
    return info.header_offset + _LOCAL_HEADER_BYTES + name + extra, info.file_size


def _tensor(
    path: Path, name: Any, value: Any, spans: Mapping[str, tuple[int, int]]
) -> TensorInfo | None:
    """The tensor that a value of the dictionary is, or ``None`` where it is something else."""
    while isinstance(value, _Call) and value.function == _Global(_REBUILD_PARAMETER):
        value = value.arguments[0]
    if not isinstance(name, str) or not isinstance(value, _Call):
        return None
    if value.function != _Global(_REBUILD_TENSOR):
        return None
    match value.arguments:
        case (
            _Storage(("storage", _Global(kind), str(key), *_)),
            int(offset),
            tuple(shape),
            tuple(strides),
            *_,
        ) if kind.removeprefix("torch ") in _STORAGES and key in spans:
            dtype, width = _STORAGES[kind.removeprefix("torch ")]
        case _:
            raise OpaquePickleError(f"{path}: {name} is of a kind not known to vlmserve")
    if not all(isinstance(size, int) and size >= 0 for size in shape) or offset < 0:
        raise OpaquePickleError(f"{path}: {name} has no shape")
    if strides != _dense(shape) and math.prod(shape) > 1:
        raise OpaquePickleError(f"{path}: {name} is a view of another tensor")
    start, length = spans[key]
    begin, end = offset * width, (offset + math.prod(shape)) * width
    if end > length:
        raise CheckpointError(f"{path}: {name} ends behind its storage")
    return TensorInfo(name, dtype, shape, path, start + begin, start + end)


def _dense(shape: Shape) -> Shape:
    """Strides of a tensor whose values lie in order without gaps; 1 where a size does not count."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _follow(pickled: bytes) -> Any:
    """What a pickle would load, with imports and calls as notes of themselves.

    Raises:
        ValueError: An operation is not one of those that torch writes for dictionaries of tensors.
    """
    machine = _Machine()
    for count, (operation, argument, _) in enumerate(pickletools.genops(pickled)):
        if operation.name == "STOP":
            return machine.stack[-1]
        if count > _MAX_OPERATIONS:
            break
        step = _STEPS.get(operation.name)
        if step is None:
            raise ValueError(f"operation {operation.name}")
        step(machine, argument)
    raise ValueError("no end")


class _Machine:
    """The stack and memory of an unpickler that does nothing."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        return self.stack.pop()

    def pop_group(self) -> list[Any]:
        """The values above the last mark, and the mark itself."""
        group: list[Any] = []
        while not isinstance(value := self.stack.pop(), _Mark):
            group.append(value)
        return group[::-1]

    def pop_tuple(self, size: int) -> None:
        values = tuple(self.stack[len(self.stack) - size :])
        del self.stack[len(self.stack) - size :]
        self.push(values)

    def set_items(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        items = target.items if isinstance(target, _Call) else target
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            items[key] = value

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        self.push(_Call(function, arguments, {}))

    def import_from_stack(self) -> None:
        name, module = self.pop(), self.pop()
        self.push(_Global(f"{module} {name}"))

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]


_Step = Callable[[_Machine, Any], object]


def _push(machine: _Machine, value: Any) -> None:
    machine.push(value)


def _ignore(machine: _Machine, value: Any) -> None:
    del machine, value


def _append(machine: _Machine, values: list[Any]) -> None:
    machine.stack[-1].extend(values)


_STEPS: dict[str, _Step] = {
    **dict.fromkeys(("PROTO", "FRAME"), _ignore),
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"),
        _push,
    ),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(value=True),
    "NEWFALSE": lambda machine, _: machine.push(value=False),
    "MARK": lambda machine, _: machine.push(_Mark()),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_group())),
    "TUPLE1": lambda machine, _: machine.pop_tuple(1),
    "TUPLE2": lambda machine, _: machine.pop_tuple(2),
    "TUPLE3": lambda machine, _: machine.pop_tuple(3),
    "APPEND": lambda machine, _: _append(machine, [machine.pop()]),
    "APPENDS": lambda machine, _: _append(machine, machine.pop_group()),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_group()),
    "GLOBAL": lambda machine, name: machine.push(_Global(name)),
    "STACK_GLOBAL": lambda machine, _: machine.import_from_stack(),
    "REDUCE": lambda machine, _: machine.call(),
    # State that would be set on an object: of a dictionary of tensors it is their versions.
    "BUILD": lambda machine, _: machine.pop(),
    "BINPERSID": lambda machine, _: machine.push(_Storage(machine.pop())),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), lambda machine, index: machine.put(index)),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    **dict.fromkeys(
        ("BINGET", "LONG_BINGET"), lambda machine, index: machine.push(machine.memo[index])
    ),
}
