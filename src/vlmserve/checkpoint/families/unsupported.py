"""Vision-language architectures that people fine-tune and that vLLM 0.32 does not have.

Read from vllm 0.32, model_executor/models/registry.py.
"""

_CONVERT_LLAVA = (
    "it is in the original LLaVA format: convert it to the transformers format "
    "(LlavaForConditionalGeneration or LlavaNextForConditionalGeneration), for LLaVA-1.5 with "
    "transformers' convert_llava_weights_to_hf.py, for 1.6 with "
    "convert_llava_next_weights_to_hf.py, where the published checkpoints' names have to be "
    "replaced; merge an adapter before, with LLaVA's scripts/merge_lora_weights.py"
)
_CONVERT_ONEVISION = (
    "it is in the original format of LLaVA-OneVision and LLaVA-Video: convert it to the "
    "transformers format (LlavaOnevisionForConditionalGeneration) with transformers' "
    "convert_llava_onevision_weights_to_hf.py, where the published checkpoints' names have to be "
    "replaced; merge an adapter before"
)
_NO_PORT = (
    "train again from InternVL, Qwen-VL or LLaVA in the transformers format, or serve it with the "
    "model's own code"
)

_REASONS = {
    "LlavaLlamaForCausalLM": _CONVERT_LLAVA,
    "LlavaMistralForCausalLM": _CONVERT_LLAVA,
    "LlavaMptForCausalLM": _CONVERT_LLAVA,
    "LlavaQwenForCausalLM": _CONVERT_ONEVISION,
    "LlavaQwen2ForCausalLM": _CONVERT_LLAVA,
    "LlavaGemmaForCausalLM": _CONVERT_LLAVA,
    "LlavaMixtralForCausalLM": _CONVERT_LLAVA,
}

# In lower case: the three generations of mPLUG-Owl spell their own name in three ways.
_REASONS_BY_PREFIX = {"internlmxcomposer": _NO_PORT, "mplugowl": _NO_PORT}


def unsupported_reason(architecture: str) -> str | None:
    """What to do about an architecture that vLLM lacks; ``None`` where none is known to lack."""
    if architecture in _REASONS:
        return _REASONS[architecture]
    for prefix, reason in _REASONS_BY_PREFIX.items():
        if architecture.lower().startswith(prefix):
            return reason
    return None
