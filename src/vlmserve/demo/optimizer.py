"""Muon for matrices, beside AdamW for everything else.

Muon orthogonalises each matrix's momentum before the step. Source: Keller Jordan, "Muon: An
optimizer for hidden layers in neural networks" (2024); the scale that makes a step's RMS match
AdamW's, 0.2 sqrt(max(rows, columns)), is of Liu et al., "Muon is Scalable for LLM Training"
(arXiv:2502.16982, equation 4). torch.optim.Muon iterates in bfloat16; this one stays in
fp32, so that the shipped weights do not hang on how a processor rounds bfloat16.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 5


class Muon(torch.optim.Optimizer):  # type: ignore[misc]  # torch is Any to mypy
    """Muon with Nesterov momentum and decoupled weight decay.

    Args:
        params: Matrices only.
        lr: Learning rate, on AdamW's scale.
        momentum: Between 0 and 1.
        weight_decay: Times ``lr`` is taken off each step.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @override
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """Update every matrix that has a gradient.

        Raises:
            ValueError: A closure was given; this optimizer takes none.
        """
        if closure is not None:
            raise ValueError("Muon takes no closure")
        with torch.no_grad():
            for group in self.param_groups:
                self._step_group(group)

    def _step_group(self, group: dict[str, Any]) -> None:
        by_shape: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for matrix in group["params"]:
            if matrix.grad is not None:
                update = self._momentum(matrix, group["momentum"])
                wide = update if update.shape[0] <= update.shape[1] else update.T
                by_shape[tuple(wide.shape)].append((matrix, wide))
        for pairs in by_shape.values():
            steps = _orthogonalize(torch.stack([wide for _, wide in pairs]))
            for (matrix, _), step in zip(pairs, steps, strict=True):
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                oriented = step if matrix.shape == step.shape else step.T
                matrix.add_(oriented, alpha=-group["lr"] * 0.2 * max(matrix.shape) ** 0.5)

    def _momentum(self, matrix: Tensor, momentum: float) -> Tensor:
        """Fold the gradient into the running mean and look one step ahead (Nesterov)."""
        state = self.state[matrix]
        if not state:
            state["momentum"] = torch.zeros_like(matrix)
        mean: Tensor = state["momentum"]
        mean.lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(mean, momentum)


def _orthogonalize(matrices: Tensor) -> Tensor:
    """Push all singular values of ``(n, rows, columns)``, rows <= columns, to about one."""
    a, b, c = _NEWTON_SCHULZ
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x
