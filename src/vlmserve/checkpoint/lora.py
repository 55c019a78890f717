"""What a LoRA adapter adds to the weights of its base, in numbers.

Formulas are PEFT's (peft 0.21 tuners/lora/layer.py ``get_delta_weight`` and tuners/lora/model.py):
``scale * B @ A`` with ``scale = alpha / r``, or ``alpha / sqrt(r)`` with ``use_rslora``, transposed
for embeddings and with ``fan_in_fan_out``.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmserve.checkpoint.adapter import AdapterInfo, LoraPair
from vlmserve.checkpoint.tensors import TensorInfo

if TYPE_CHECKING:
    from vlmserve.checkpoint.source import Checkpoint
    from vlmserve.checkpoint.tensor_values import Array

_NORM_VALUES = 1 << 18

BEYOND_PRODUCT = ("use_dora", "alora_invocation_tokens", "use_qalora", "use_bdlora")
"""Settings of ``adapter_config.json`` with which the product is not all that is added."""


@dataclass(frozen=True, slots=True)
class AdaptedTensor:
    """One matrix of the base and the pair that is laid on it."""

    name: str
    """The module's canonical path."""

    a: TensorInfo
    """Shape ``(rank, in_features)``."""

    b: TensorInfo
    """Shape ``(out_features, rank)``."""

    weight: TensorInfo
    """The base's matrix, shape ``(out_features, in_features)``, or transposed."""

    scale: float
    is_transposed: bool

    def product(self, rows: int) -> "Array":
        """The leading rows of what is added to the weight.

        Returns:
            Shape ``(rows, columns)`` of the weight, float32.

        Raises:
            CheckpointError: The adapter's file cannot be read.
        """
        a, b = self._factors()
        if self.is_transposed:
            return self.scale * (b @ a[:, :rows]).T
        return self.scale * (b[:rows] @ a)

    def squared_norms(self) -> tuple[float, float]:
        """Squared norms of what is added, and of the weight, which is estimated from its top.

        Raises:
            CheckpointError: A file cannot be read.
        """
        import numpy as np

        from vlmserve.checkpoint.tensor_values import read_rows, sum_squares

        a, b = self._factors()
        # Factors that are not finite are ckpt.finite's.
        with np.errstate(all="ignore"):
            product = float(((b.T @ b) * (a @ a.T)).sum()) * self.scale**2
        top = read_rows(self.weight, limit=_NORM_VALUES)
        whole = self.weight.shape[0] / len(top)
        return max(product, 0.0), sum_squares(top.ravel()) * whole

    def _factors(self) -> "tuple[Array, Array]":
        from vlmserve.checkpoint.tensor_values import read_values

        a, b = (read_values(tensor).reshape(tensor.shape) for tensor in (self.a, self.b))
        return a, b


def adapted_tensors(adapter: AdapterInfo, base: "Checkpoint") -> list[AdaptedTensor]:
    """Find the matrix of the base under each pair of an adapter.

    Args:
        adapter: The adapter.
        base: The model it is laid on, of a known family.

    Returns:
        The pairs that have a matrix of their sizes; ``lora.match`` speaks of the others.

    Raises:
        CheckpointError: The adapter's or the base's weights are broken.
    """
    family = base.family
    if family is None:
        return []
    weights = {family.canonical(name): tensor for name, tensor in base.tensors.items()}
    found = []
    for pair in adapter.pairs:
        name = family.canonical_module(pair.module)
        weight = weights.get(f"{name}.weight")
        if pair.a is None or pair.b is None or weight is None:
            continue
        is_transposed = pair.is_embedding or bool(adapter.config.get("fan_in_fan_out"))
        if _fits(pair.a, pair.b, weight, is_transposed=is_transposed):
            scale = lora_scale(adapter, pair)
            found.append(AdaptedTensor(name, pair.a, pair.b, weight, scale, is_transposed))
    return found


def lora_scale(adapter: AdapterInfo, pair: LoraPair) -> float:
    """What the product of a pair is multiplied with."""
    patterns = adapter.config.get("alpha_pattern")
    alpha = adapter.alpha
    if isinstance(patterns, Mapping):
        matching = (
            value
            for pattern, value in patterns.items()
            if re.match(rf"(.*\.)?({pattern})$", pair.module)
        )
        alpha = float(next(matching, alpha))
    rank = adapter.rank if pair.a is None else pair.a.shape[0]
    return alpha / (math.sqrt(rank) if adapter.use_rslora else rank)


def _fits(a: TensorInfo, b: TensorInfo, weight: TensorInfo, *, is_transposed: bool) -> bool:
    from vlmserve.checkpoint.tensor_values import FORMATS

    if any(tensor.dtype not in FORMATS for tensor in (a, b, weight)):
        return False
    match a.shape, b.shape:
        case (rank, columns), (rows, b_rank) if rank == b_rank:
            return weight.shape == ((columns, rows) if is_transposed else (rows, columns))
    return False
