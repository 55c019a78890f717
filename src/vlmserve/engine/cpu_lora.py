"""Corrects vLLM 0.32's LoRA arithmetic on CPUs for batches that mix adapters with the base model.

vLLM marks a token that wants no adapter with the index -1. Its CPU operators use that index as it
is (``vllm/lora/ops/torch_ops/lora_ops.py``), and ``weights[-1]`` is the adapter in the last slot:
a request to the base model that shares a batch with an adapter's is answered by that adapter, so
that a comparison of before and after would compare the adapter with itself. The GPU kernels skip
-1. Here such tokens are given zero inputs, so that their contribution is zero.

vLLM also counts one row of logits for each request, where log-probabilities of a prompt take one
for each of its tokens: with a model that takes adapters on its ``lm_head``, the engine dies. Here
the rows of a prompt are left alone, which is right while no adapter is on ``lm_head``.
"""

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

_OPERATORS = ("bgmv_shrink", "bgmv_expand", "bgmv_expand_slice")
# The modules that hold the operators by name: their home, the package and their caller.
_HOMES = (
    "vllm.lora.ops.torch_ops.lora_ops",
    "vllm.lora.ops.torch_ops",
    "vllm.lora.punica_wrapper.punica_cpu",
)


def install() -> None:
    """Replace the three CPU operators; a second call changes nothing."""
    from vllm.lora.ops.torch_ops import lora_ops

    for name in _OPERATORS:
        original = getattr(lora_ops, name)
        if getattr(original, "_vlmserve_cured", False):
            continue
        cured = _without_adapterless_tokens(original)
        for home in _loaded_homes():
            if hasattr(home, name):
                setattr(home, name, cured)
    _leave_prompt_logits_alone()


def _leave_prompt_logits_alone() -> None:
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    original = PunicaWrapperCPU.add_lora_logits
    if getattr(original, "_vlmserve_cured", False):
        return

    @functools.wraps(original)
    def cured(self: Any, y: Any, x: Any, lora_a: Any, lora_b: Any, *args: Any, **kw: Any) -> Any:
        if x.view(-1, x.shape[-1]).shape[0] == self.sampler_indices.shape[0]:
            return original(self, y, x, lora_a, lora_b, *args, **kw)
        if bool(lora_b.any()):
            raise RuntimeError(
                "vLLM 0.32 gives no log-probabilities of prompts beside an adapter on lm_head"
            )
        return None

    cured._vlmserve_cured = True  # type: ignore[attr-defined]
    PunicaWrapperCPU.add_lora_logits = cured


def _loaded_homes() -> list[ModuleType]:
    # A home that is not loaded yet will import the cured operators from one that is.
    return [sys.modules[name] for name in _HOMES if name in sys.modules]


def _without_adapterless_tokens(operator: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``operator(inputs, weights, output, indices, ...)``.

    ``inputs`` has shape ``(n_tokens, width)`` and ``indices`` has shape ``(n_tokens,)``; weights
    of slot 0 stand in for the tokens without an adapter, whose inputs are zeroed.
    """

    @functools.wraps(operator)
    def cured(inputs: Any, weights: Any, output: Any, indices: Any, *args: Any, **kw: Any) -> Any:
        adapterless = indices < 0
        if bool(adapterless.any()):
            inputs = inputs[: indices.shape[0]].masked_fill(adapterless[:, None], 0)
            indices = indices.clamp(min=0)
        return operator(inputs, weights, output, indices, *args, **kw)

    cured._vlmserve_cured = True  # type: ignore[attr-defined]
    return cured
