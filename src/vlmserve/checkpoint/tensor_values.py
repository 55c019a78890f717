"""Values of tensors as numpy arrays, straight from the files.

Importing this module imports numpy; what reads headers only must not.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from vlmserve.checkpoint.tensors import TensorInfo

Array = np.ndarray[Any, np.dtype[Any]]

_HIGH_HALF = np.uint32(0xFFFF0000)
_HALF_BITS = np.uint32(16)


@dataclass(frozen=True, slots=True)
class FloatFormat:
    """How a type of floating-point number is laid out in its bytes, little-endian."""

    bits: str
    """numpy's name of the unsigned integer of the same size."""

    first_nonfinite: int
    """The smallest positive bit pattern that is infinite or not a number; all above it are."""

    exact: str
    """numpy's name of a type that holds every value."""

    step: float
    """Largest relative distance between neighbours: 2 to minus the number of mantissa bits."""

    @property
    def itemsize(self) -> int:
        """Bytes a value."""
        return np.dtype(self.bits).itemsize


FORMATS: dict[str, FloatFormat] = {
    "F64": FloatFormat("<u8", 0x7FF0_0000_0000_0000, "<f8", 2.0**-52),
    "F32": FloatFormat("<u4", 0x7F80_0000, "<f4", 2.0**-23),
    "F16": FloatFormat("<u2", 0x7C00, "<f4", 2.0**-10),
    "BF16": FloatFormat("<u2", 0x7F80, "<f4", 2.0**-7),
    "F8_E5M2": FloatFormat("<u1", 0x7C, "<f4", 2.0**-2),
    "F8_E4M3": FloatFormat("<u1", 0x7F, "<f4", 2.0**-3),
}
"""By the format's name of the type. IEEE 754; bfloat16 is the upper half of binary32; FP8 as in
OCP's 8-bit Floating Point Specification, E4M3 being the kind without infinities."""


def to_float(raw: Array, dtype: str) -> Array:
    """Turn the bytes of values into numbers.

    Args:
        raw: Shape ``(n * itemsize,)``, type ``uint8``.
        dtype: A key of ``FORMATS``.

    Returns:
        Shape ``(n,)``, exact: float64 for ``F64``, else float32. Shares memory with ``raw`` where
        it can.
    """
    layout = FORMATS[dtype]
    if dtype in {"F64", "F32"}:
        return raw.view(layout.exact)
    if dtype == "F16":
        return raw.view("<f2").astype(np.float32)
    if dtype == "BF16":
        widened = raw.view(layout.bits).astype(np.uint32)
        widened <<= _HALF_BITS
        return widened.view(np.float32)
    return _float8_table(dtype)[raw]


def read_values(tensor: TensorInfo, *, limit: int | None = None) -> Array:
    """Read the first values of a tensor, flat.

    Args:
        tensor: One whose type is a key of ``FORMATS``.
        limit: At most so many values; all when ``None``.

    Returns:
        Shape ``(n,)``, float32 or float64, exact.

    Raises:
        CheckpointError: The file cannot be read.
    """
    itemsize = FORMATS[tensor.dtype].itemsize
    raw = b"".join(tensor.chunks(None if limit is None else limit * itemsize))
    return to_float(np.frombuffer(raw, np.uint8), tensor.dtype)


def read_rows(tensor: TensorInfo, *, limit: int) -> Array:
    """Read the leading rows of a matrix.

    Args:
        tensor: One with at least two dimensions; those after the first are flattened.
        limit: Roughly how many values to read; at least one row is.

    Returns:
        Shape ``(rows, columns)``, float32 or float64, exact.

    Raises:
        CheckpointError: The file cannot be read.
    """
    rows, columns = tensor.shape[0], int(np.prod(tensor.shape[1:]))
    rows = min(rows, max(1, limit // columns))
    return read_values(tensor, limit=rows * columns).reshape(rows, columns)


def round_to(values: Array, dtype: str) -> Array:
    """Round numbers as storing them in another type does, to nearest and ties to even.

    Args:
        values: Any shape, float32 or float64.
        dtype: ``F64``, ``F32``, ``F16`` or ``BF16``; other types are left as they are.

    Returns:
        The same shape; float64 for ``F64``, else float32.
    """
    if dtype == "F64":
        return values.astype(np.float64)
    single = values.astype(np.float32)
    if dtype == "F16":
        return single.astype(np.float16).astype(np.float32)
    if dtype == "BF16":
        bits = single.view(np.uint32)
        rounded = bits + np.uint32(0x7FFF) + ((bits >> _HALF_BITS) & np.uint32(1))
        return (rounded & _HIGH_HALF).view(np.float32)
    return single


def examine(raw: Array, dtype: str) -> tuple[int, float]:
    """Look for values that are infinite or not a number.

    Works on bits, at the speed of memory: seen as signed integers, positive values are ordered as
    they are and come after negative ones; seen as unsigned integers, negative ones come last.

    Args:
        raw: Shape ``(n * itemsize,)``, type ``uint8``: the values' bytes.
        dtype: A key of ``FORMATS``.

    Returns:
        How many are not finite, and the largest absolute value of the others, 0 without any.
    """
    layout = FORMATS[dtype]
    unsigned = raw.view(layout.bits)
    if not len(unsigned):
        return 0, 0.0
    sign = 1 << (8 * layout.itemsize - 1)
    positive = int(unsigned.view(layout.bits.replace("u", "i")).max())
    negative = int(unsigned.max()) - sign
    highest = max(positive, negative, 0)
    if highest >= layout.first_nonfinite:
        magnitudes = unsigned & unsigned.dtype.type(sign - 1)
        finite = magnitudes[magnitudes < layout.first_nonfinite]
        highest = int(finite.max()) if len(finite) else 0
        count = len(magnitudes) - len(finite)
    else:
        count = 0
    pattern = np.array([highest], layout.bits).view(np.uint8)
    return count, float(to_float(pattern, dtype)[0])


def sum_squares(values: Array) -> float:
    """The sum of squares; may be infinite or not a number where a value is."""
    return float(np.dot(values, values))


def squared_norm(raw: Array, dtype: str) -> float:
    """The sum of squares of values.

    Args:
        raw: Shape ``(n * itemsize,)``, type ``uint8``: the values' bytes.
        dtype: A key of ``FORMATS``.
    """
    if dtype != "BF16" or len(raw) % 4:
        return sum_squares(to_float(raw, dtype))
    words = raw.view(np.uint32)
    halves = (words & _HIGH_HALF, words << _HALF_BITS)
    return sum(sum_squares(half.view(np.float32)) for half in halves)


class Difference:
    """Sums squared differences between chunks of two tensors.

    Holds scratch memory, so one serves one thread. Bytes of bfloat16 are taken as pairs: the upper
    halves of 32-bit words and the lower ones are each a float32 after one pass, which is several
    times as fast as widening.

    Args:
        dtype: Type of the one tensor, a key of ``FORMATS``.
        base_dtype: Type of the other.
        limit: Number of values of the largest chunk.
    """

    def __init__(self, dtype: str, base_dtype: str, limit: int) -> None:
        self._dtypes = dtype, base_dtype
        self._is_paired = dtype == base_dtype == "BF16"
        words = limit // 2 if self._is_paired else 0
        self._scratch = [np.empty(words, np.uint32) for _ in range(2)]

    def measure(self, ours: Array, theirs: Array) -> float:
        """The squared distance of two chunks; not finite where a value is not.

        Args:
            ours: Shape ``(n * itemsize,)``, type ``uint8``: the values' bytes.
            theirs: The same of the other tensor.
        """
        if self._is_paired and len(ours) % 4 == 0:
            return self._measure_pairs(ours.view(np.uint32), theirs.view(np.uint32))
        left, right = (to_float(*pair) for pair in zip((ours, theirs), self._dtypes, strict=True))
        return sum_squares(left - right)

    def _measure_pairs(self, ours: Array, theirs: Array) -> float:
        left, right = (scratch[: len(ours)] for scratch in self._scratch)
        numbers, base_numbers = left.view(np.float32), right.view(np.float32)
        distance = 0.0
        for take, by in ((np.bitwise_and, _HIGH_HALF), (np.left_shift, _HALF_BITS)):
            take(ours, by, out=left)
            take(theirs, by, out=right)
            np.subtract(numbers, base_numbers, out=numbers)
            distance += sum_squares(numbers)
        return distance


@cache
def _float8_table(dtype: str) -> Array:
    """The 256 values of an 8-bit type, by bit pattern."""
    exponent_bits = int(dtype[4])
    mantissa_bits = 7 - exponent_bits
    bias = 2 ** (exponent_bits - 1) - 1
    first_nonfinite = FORMATS[dtype].first_nonfinite
    table = np.empty(256, np.float32)
    for pattern in range(128):
        exponent, mantissa = divmod(pattern, 1 << mantissa_bits)
        fraction = mantissa / (1 << mantissa_bits)
        value = (
            2.0 ** (1 - bias) * fraction
            if not exponent
            else 2.0 ** (exponent - bias) * (1 + fraction)
        )
        if pattern >= first_nonfinite:
            value = np.inf if dtype == "F8_E5M2" and pattern == first_nonfinite else np.nan
        table[pattern], table[pattern + 128] = value, -value
    return table
