"""One pass over every weight of a model, and over its base's beside it.

Reading is what takes the time, so all checks that need every value share one pass. Two threads take
turns reading and computing, both of which leave the interpreter's lock alone. Importing this module
imports numpy.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO

import numpy as np

from vlmserve.checkpoint.tensor_values import (
    FORMATS,
    Array,
    Difference,
    examine,
    squared_norm,
)
from vlmserve.checkpoint.tensors import TensorInfo
from vlmserve.errors import CheckpointError

_CHUNK_BYTES = 1 << 20  # fits into a core's second cache with its scratch
_UNIT_BYTES = 1 << 26  # one thread's share of a tensor
_THREADS = 2
# How far large tensors moved is measured on the first quarter of each chunk, which tells it to a
# fraction of a percent; whether they moved, and whether all is finite, on every value.
_MEASURED_SHARE = 4
_WHOLE_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class ScannedTensor:
    """What the values of one tensor are like."""

    name: str
    """As the caller named it."""

    tensor: TensorInfo
    base: TensorInfo | None
    """The tensor that it was held against."""

    nonfinite: int
    """How many values are infinite or not a number."""

    largest: float
    """The largest absolute value that is finite."""

    changed: bool
    """Whether the values differ from the base's; false without one."""

    squared_change: float
    """Sum of squared differences from the base; of large tensors to a percent or so."""

    squared_norm: float
    """Sum of the base's squared values; of large tensors to a percent or so."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """A run of values of one tensor."""

    index: int
    tensor: TensorInfo
    base: TensorInfo | None
    first: int
    count: int


@dataclass(slots=True)
class _Sums:
    nonfinite: int = 0
    largest: float = 0.0
    changed: bool = False
    squared_change: float = 0.0
    squared_norm: float = 0.0

    def examine(self, chunk: Array, dtype: str) -> None:
        nonfinite, largest = examine(chunk, dtype)
        self.nonfinite += nonfinite
        self.largest = max(self.largest, largest)

    def add(self, other: "_Sums") -> None:
        self.nonfinite += other.nonfinite
        self.largest = max(self.largest, other.largest)
        self.changed |= other.changed
        self.squared_change += other.squared_change
        self.squared_norm += other.squared_norm


def scan_tensors(
    tensors: Mapping[str, TensorInfo],
    bases: Mapping[str, TensorInfo] | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ScannedTensor, ...]:
    """Read every value of some tensors once, in the order of the files.

    Args:
        tensors: By any name; those of types that are not floating-point are left out.
        bases: Tensors to compare with, by the same names; ones of another shape are left out.
        progress: Told how many bytes of how many are read.

    Returns:
        One entry a tensor that was read.

    Raises:
        CheckpointError: A file cannot be read or is shorter than its header says.
    """
    bases = bases or {}
    named = sorted(
        (
            (name, tensor, _comparable(tensor, bases.get(name)))
            for name, tensor in tensors.items()
            if tensor.dtype in FORMATS
        ),
        key=lambda entry: (entry[1].path, entry[1].start),
    )
    sums = [_Sums() for _ in named]
    units = [unit for index, entry in enumerate(named) for unit in _units(index, *entry[1:])]
    total = sum(tensor.nbytes + (base.nbytes if base else 0) for _, tensor, base in named)
    done = 0
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        for unit, found in zip(units, pool.map(_scan, units), strict=True):
            sums[unit.index].add(found)
            done += unit.count * _bytes_a_value(unit)
            if progress is not None:
                progress(done, total)
    return tuple(
        ScannedTensor(
            name=name,
            tensor=tensor,
            base=base,
            nonfinite=found.nonfinite,
            largest=found.largest,
            changed=found.changed,
            squared_change=found.squared_change,
            squared_norm=found.squared_norm,
        )
        for (name, tensor, base), found in zip(named, sums, strict=True)
    )


def _comparable(tensor: TensorInfo, base: TensorInfo | None) -> TensorInfo | None:
    fits = base is not None and base.shape == tensor.shape and base.dtype in FORMATS
    return base if fits else None


def _units(index: int, tensor: TensorInfo, base: TensorInfo | None) -> Iterator[_Unit]:
    itemsize = FORMATS[tensor.dtype].itemsize
    count, step = tensor.nbytes // itemsize, _UNIT_BYTES // itemsize
    for first in range(0, count, step):
        yield _Unit(index, tensor, base, first, min(step, count - first))


def _bytes_a_value(unit: _Unit) -> int:
    sizes = (FORMATS[tensor.dtype].itemsize for tensor in (unit.tensor, unit.base) if tensor)
    return sum(sizes)


def _scan(unit: _Unit) -> _Sums:
    try:
        # Values that are not finite are what is looked for, no reason to warn.
        with np.errstate(all="ignore"):
            return _scan_alone(unit) if unit.base is None else _scan_against(unit, unit.base)
    except OSError as error:
        raise CheckpointError(f"{error.filename}: {error.strerror or error}") from error


def _scan_alone(unit: _Unit) -> _Sums:
    sums = _Sums()
    dtype = unit.tensor.dtype
    for chunk in _read(unit, unit.tensor, _CHUNK_BYTES // FORMATS[dtype].itemsize):
        sums.examine(chunk, dtype)
    return sums


def _scan_against(unit: _Unit, base: TensorInfo) -> _Sums:
    sums = _Sums()
    dtype = unit.tensor.dtype
    sizes = [FORMATS[tensor.dtype].itemsize for tensor in (unit.tensor, base)]
    step = _CHUNK_BYTES // max(sizes)
    difference = Difference(dtype, base.dtype, min(step, unit.count + 1))
    chunks = zip(_read(unit, unit.tensor, step), _read(unit, base, step), strict=True)
    for ours, theirs in chunks:
        sums.examine(ours, dtype)
        share = _MEASURED_SHARE if len(ours) > _WHOLE_BYTES else 1
        count = len(ours) // sizes[0] // share
        part, base_part = ours[: count * sizes[0]], theirs[: count * sizes[1]]
        change, norm = 0.0, squared_norm(base_part, base.dtype) * share
        if not (dtype == base.dtype and _is_equal(ours, theirs)):
            change = difference.measure(part, base_part) * share
            if share > 1 and not change:
                change = difference.measure(ours, theirs)
        sums.changed |= change != 0.0
        sums.squared_change += change
        sums.squared_norm += norm
    return sums


def _is_equal(ours: Array, theirs: Array) -> bool:
    if len(ours) % 8 == 0:
        ours, theirs = ours.view(np.uint64), theirs.view(np.uint64)
    head = 64
    return bool(
        np.array_equal(ours[:head], theirs[:head]) and np.array_equal(ours[head:], theirs[head:])
    )


def _read(unit: _Unit, tensor: TensorInfo, step: int) -> Iterator[Array]:
    """The unit's values in chunks of bytes; each is valid until the next is asked for."""
    itemsize = FORMATS[tensor.dtype].itemsize
    buffer = np.empty(min(step, unit.count) * itemsize, np.uint8)
    with FileIO(tensor.path) as file:
        file.seek(tensor.start + unit.first * itemsize)
        for first in range(0, unit.count, step):
            chunk = buffer[: min(step, unit.count - first) * itemsize]
            _fill(file, chunk, tensor)
            yield chunk


def _fill(file: FileIO, chunk: Array, tensor: TensorInfo) -> None:
    filled = 0
    while filled < len(chunk):
        count = file.readinto(chunk.data[filled:])
        if not count:
            raise CheckpointError(f"{tensor.path}: ends inside tensor {tensor.name}")
        filled += count
