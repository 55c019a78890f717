"""Whether a model's weights are quantised: then names and shapes are the method's own."""

from typing import TYPE_CHECKING

from vlmserve.errors import CheckpointError

if TYPE_CHECKING:
    from vlmserve.checkpoint.source import Checkpoint

# Where vllm 0.32 looks: transformers_utils/model_arch_config_convertor.py get_quantization_config.
_KEYS = ("quantization_config", "compression_config")
_SECTIONS = ("text_config", "llm_config")
# Files that tools of before these keys write, and NVIDIA's ModelOpt still does
# (transformers_utils/config.py get_config reads the last one).
_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")

# Ends of tensors' names: GPTQ and AWQ, compressed-tensors, FP8, bitsandbytes in 4 and 8 bits.
_SUFFIXES = (
    ".qweight",
    ".weight_packed",
    ".weight_scale",
    ".weight_scale_inv",
    ".weight.absmax",
    ".SCB",
)


def is_quantised(checkpoint: "Checkpoint") -> bool:
    """Whether the weights of the model that is loaded are quantised, by files or names."""
    model = checkpoint.model
    sections = [model.config, *(model.config.get(name) for name in _SECTIONS)]
    if any(isinstance(part, dict) and any(part.get(key) for key in _KEYS) for part in sections):
        return True
    if any((model.path / name).is_file() for name in _FILES):
        return True
    try:
        return any(name.endswith(_SUFFIXES) for name in model.tensors)
    except CheckpointError:
        return False  # whoever needs the tensors says what is wrong with them
