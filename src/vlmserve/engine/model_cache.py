"""Fills vLLM 0.32's cache of model classes ahead of the first start.

vLLM inspects a model class in a process of its own, some 20 s of imports on two cores, and keeps
the result under the user's cache directory. Done at install, the first start does not pay for it.

    python -m vlmserve.engine.model_cache Qwen2VLForConditionalGeneration
"""

import sys
from collections.abc import Sequence

from vlmserve.engine.environment import prepare_vllm


def warm(architectures: Sequence[str]) -> None:
    """Inspect model classes, or find that they have been inspected.

    Args:
        architectures: Names as in ``architectures`` of ``config.json``.

    Raises:
        EngineError: vLLM is not installed.
    """
    prepare_vllm()
    from vllm.model_executor.models.registry import ModelRegistry

    for name in architectures:
        ModelRegistry.models[name].inspect_model_cls()


if __name__ == "__main__":
    warm(sys.argv[1:])
