"""What became of an adapter in a merge, in numbers. Importing this imports numpy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlmserve.checkpoint.lora import AdaptedTensor
from vlmserve.checkpoint.tensor_values import (
    Array,
    read_rows,
    round_to,
    sum_squares,
)
from vlmserve.checkpoint.tensors import TensorInfo

_SAMPLED_TENSORS = 20
_SAMPLED_VALUES = 1 << 20


@dataclass(frozen=True, slots=True)
class MergeSample:
    """How a merged matrix compares with what the base, its adapter and rounding make of it.

    Distances are norms over the norm of the change that a right merge makes.
    """

    name: str
    """The merged matrix's name in its file."""

    file: str

    to_right: float
    """From base plus product; what is left is arithmetic of another precision."""

    to_base: float
    """From the base alone: nothing was merged."""

    to_twice: float
    """From base plus twice the product."""

    multiple: float
    """The multiple of the product that fits the change best."""

    to_multiple: float
    """From base plus that multiple of the product."""

    noise: float
    """Norm of what base plus that multiple leaves over, over the norm of the base's matrix."""


def sample_merge(
    adapted: Sequence[AdaptedTensor], merged: dict[str, TensorInfo]
) -> tuple[MergeSample, ...]:
    """Compare up to 20 merged matrices, a million values each, with what they should be.

    Args:
        adapted: The adapter's pairs with the base's matrices.
        merged: The merged model's tensors by canonical name.

    Returns:
        One entry a matrix that can tell: that the merged model has, and whose change survives
        rounding to the type it is stored in.

    Raises:
        CheckpointError: A file cannot be read.
    """
    present = [item for item in adapted if f"{item.name}.weight" in merged]
    stride = max(1, -(-len(present) // _SAMPLED_TENSORS))
    with np.errstate(all="ignore"):
        samples = [_compare(item, merged[f"{item.name}.weight"]) for item in present[::stride]]
    return tuple(sample for sample in samples if sample is not None)


def _compare(item: AdaptedTensor, tensor: TensorInfo) -> MergeSample | None:
    if tensor.shape != item.weight.shape:
        return None
    found = read_rows(tensor, limit=_SAMPLED_VALUES)
    base = read_rows(item.weight, limit=_SAMPLED_VALUES)
    product = item.product(len(found))
    if not np.isfinite(found).all():
        return None  # ckpt.finite speaks of it

    def expected(times: float) -> Array:
        return round_to(base + times * product, tensor.dtype)

    scale = _norm(expected(1) - expected(0))
    power = sum_squares(product.ravel())
    if not scale or not power:
        return None
    change = found - base
    multiple = float(np.vdot(change, product)) / power
    return MergeSample(
        name=tensor.name,
        file=tensor.path.name,
        to_right=_norm(found - expected(1)) / scale,
        to_base=_norm(found - expected(0)) / scale,
        to_twice=_norm(found - expected(2)) / scale,
        multiple=multiple,
        to_multiple=_norm(found - expected(multiple)) / scale,
        noise=_norm(change - multiple * product) / (_norm(base) or 1.0),
    )


def _norm(values: Array) -> float:
    return float(np.sqrt(sum_squares(values.ravel())))
