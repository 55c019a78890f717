"""Reading safetensors files without torch or numpy: names, types and shapes, and raw bytes.

Format: https://github.com/huggingface/safetensors#format. The library's own reader gives shapes but
not the place of a tensor's bytes, and converts values only through numpy or torch; checks here
need the first and must do without the second.
"""

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmserve.errors import CheckpointError

_CHUNK_BYTES = 1 << 18
_LENGTH = struct.Struct("<Q")  # size of the header, the first thing in the file
_MAX_HEADER_BYTES = 100_000_000  # the library's own limit
_LFS_POINTER = b"version https://git-lfs"

# Bytes that say "not finite" in little-endian floats: a value is infinite or NaN when its exponent
# is all ones. ``(bytes a value, top bytes that may say so, mask of the byte below that must be set
# as well)``; IEEE 754, and bfloat16 as the upper half of binary32.
_EXPONENTS: dict[str, tuple[int, bytes, int]] = {
    "F64": (8, b"\x7f\xff", 0xF0),
    "F32": (4, b"\x7f\xff", 0x80),
    "BF16": (2, b"\x7f\xff", 0x80),
    "F16": (2, b"\x7c\x7d\x7e\x7f\xfc\xfd\xfe\xff", 0x00),
}

Shape = tuple[int, ...]
"""Sizes of a tensor's dimensions; ``()`` is a scalar."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor in a safetensors file, as its header tells."""

    name: str
    dtype: str
    """The format's name of the type: ``BF16``, ``F32``, ``U8``, ..."""

    shape: Shape
    path: Path
    start: int
    """Offset of the first byte in the file."""

    end: int
    """Offset after the last byte in the file."""

    @property
    def nbytes(self) -> int:
        """Size of the values in bytes."""
        return self.end - self.start

    def chunks(self, limit_bytes: int | None = None) -> Iterator[bytes]:
        """The values' bytes in order, some hundred KiB at a time; one never splits a value.

        Args:
            limit_bytes: Stop after so many; all when ``None``.

        Raises:
            CheckpointError: The file cannot be read or is shorter than its header says.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                left = self.nbytes if limit_bytes is None else min(limit_bytes, self.nbytes)
                while left:
                    chunk = file.read(min(left, _CHUNK_BYTES))
                    if not chunk:
                        raise CheckpointError(f"{self.path}: ends inside tensor {self.name}")
                    left -= len(chunk)
                    yield chunk
        except OSError as error:
            raise CheckpointError(f"{self.path}: {error.strerror or error}") from error


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Read which tensors a safetensors file holds.

    Args:
        path: The file; only its header is read.

    Returns:
        The tensors by name, in the header's order.

    Raises:
        CheckpointError: The file is missing, empty, a Git LFS pointer, truncated, or not in the
            format; the message names the file and what is wrong with it.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length_bytes = file.read(_LENGTH.size)
            if size == 0:
                raise CheckpointError(f"{path}: the file is empty")
            if length_bytes == _LFS_POINTER[: _LENGTH.size]:
                raise CheckpointError(
                    f"{path}: a Git LFS pointer, not the weights themselves",
                    hint=f"run: git -C {path.parent} lfs pull",
                )
            if size < _LENGTH.size:
                raise CheckpointError(f"{path}: truncated: {size} bytes are no safetensors file")
            (length,) = _LENGTH.unpack(length_bytes)
            if length > min(size - _LENGTH.size, _MAX_HEADER_BYTES):
                raise CheckpointError(
                    f"{path}: truncated or not a safetensors file: the header claims {length} "
                    f"bytes and the file has {size}"
                )
            header = json.loads(file.read(length))
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not a safetensors file: {error}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: not a safetensors file: the header is no object")
    header.pop("__metadata__", None)
    data_start = _LENGTH.size + length
    tensors = {name: _tensor(path, name, entry, data_start) for name, entry in header.items()}
    end = max((tensor.end for tensor in tensors.values()), default=data_start)
    if end > size:
        raise CheckpointError(
            f"{path}: truncated: {end} bytes are expected and {size} are there",
            hint="copy or download the file again and compare sizes with the source",
        )
    return tensors


def is_zero(tensor: TensorInfo) -> bool:
    """Whether every value is zero, of either sign; true for a tensor without values."""
    return all(_is_zero_chunk(chunk, tensor.dtype) for chunk in tensor.chunks())


def _is_zero_chunk(chunk: bytes, dtype: str) -> bool:
    if not chunk.strip(b"\0"):
        return True
    if dtype not in _EXPONENTS:
        return False
    # Optimisers leave -0.0 behind: a sign, which is the highest bit of a value's last byte, alone.
    width = _EXPONENTS[dtype][0]
    return not chunk[width - 1 :: width].strip(b"\0\x80") and all(
        not chunk[place::width].strip(b"\0") for place in range(width - 1)
    )


def count_nonfinite(tensor: TensorInfo) -> int | None:
    """Count values that are infinite or not a number.

    Returns:
        The count, or ``None`` for types without such values or that are not known here.
    """
    if tensor.dtype not in _EXPONENTS:
        return None
    width, candidates, mask = _EXPONENTS[tensor.dtype]
    count = 0
    for chunk in tensor.chunks():
        # Slicing and searching run near memory speed, and sane weights have next to no candidates.
        tops = chunk[width - 1 :: width]
        for candidate in candidates:
            index = tops.find(candidate)
            while index >= 0:
                count += chunk[index * width + width - 2] & mask == mask
                index = tops.find(candidate, index + 1)
    return count


def is_equal(left: TensorInfo, right: TensorInfo, *, limit_bytes: int | None = None) -> bool:
    """Whether two tensors have the same type, shape and bytes.

    Args:
        left: One tensor.
        right: The other.
        limit_bytes: Compare only so many leading bytes; all when ``None``.
    """
    if (left.dtype, left.shape) != (right.dtype, right.shape):
        return False
    if left.start == right.start and left.path.samefile(right.path):
        return True
    chunks = zip(left.chunks(limit_bytes), right.chunks(limit_bytes), strict=True)
    return all(ours == theirs for ours, theirs in chunks)


def _tensor(path: Path, name: str, entry: Any, data_start: int) -> TensorInfo:
    try:
        start, end = (int(offset) for offset in entry["data_offsets"])
        shape = tuple(int(size) for size in entry["shape"])
        info = TensorInfo(
            name, str(entry["dtype"]), shape, path, data_start + start, data_start + end
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: header entry of {name} is malformed") from error
    if start < 0 or end < start or (math.prod(shape) == 0) != (end == start):
        raise CheckpointError(f"{path}: header entry of {name} is malformed: {entry}")
    return info
