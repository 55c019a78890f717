"""The demo model itself: a Qwen2-VL of about a million parameters, its processor and its files."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmserve.demo import tokenizer as demo_tokenizer
from vlmserve.demo.drawing import CELL_PX
from vlmserve.demo.recipe import WEIGHTS_DIR, load_shipped
from vlmserve.platform import cure_torch_extensions

if TYPE_CHECKING:
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLProcessor,
    )

PATCH_PX = 14
MERGE = 2
TEMPORAL_PATCH = 2

MIN_PIXELS = 4 * CELL_PX**2
"""An image of fewer pixels is enlarged; the smallest picture that the demo draws."""

MAX_PIXELS = 64 * CELL_PX**2
"""An image of more pixels is shrunk; four times the largest picture that the demo draws."""

_HEAD_DIM = 32  # the smallest that vLLM's attention takes
_NUM_HEADS = 4
_MROPE_SECTION = [4, 6, 6]  # time, height, width; sums to half the head


def create_config(tokenizer: "PreTrainedTokenizerFast") -> "Qwen2VLConfig":
    """Return the architecture: 3 layers of width 128 for language, 3 of width 96 for vision."""
    cure_torch_extensions()
    from transformers import Qwen2VLConfig

    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in demo_tokenizer.SPECIAL_TOKENS}
    hidden_size = _HEAD_DIM * _NUM_HEADS
    return Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden_size,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": _NUM_HEADS,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "bos_token_id": ids[demo_tokenizer.END_OF_TEXT],
            "eos_token_id": ids[demo_tokenizer.IM_END],
            "pad_token_id": ids[demo_tokenizer.END_OF_TEXT],
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": _MROPE_SECTION,
                "rope_theta": 10000.0,
            },
        },
        vision_config={
            "depth": 3,
            "embed_dim": 96,
            "hidden_size": hidden_size,
            "num_heads": 3,
            "mlp_ratio": 2,
            "patch_size": PATCH_PX,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": TEMPORAL_PATCH,
        },
        image_token_id=ids[demo_tokenizer.IMAGE_PAD],
        video_token_id=ids[demo_tokenizer.VIDEO_PAD],
        vision_start_token_id=ids[demo_tokenizer.VISION_START],
        vision_end_token_id=ids[demo_tokenizer.VISION_END],
        tie_word_embeddings=True,
    )


def create_model(
    tokenizer: "PreTrainedTokenizerFast", seed: int
) -> "Qwen2VLForConditionalGeneration":
    """Build an untrained model: fan-in normal, outputs of residual branches halved."""
    config = create_config(tokenizer)
    import torch
    from transformers import Qwen2VLForConditionalGeneration

    model = Qwen2VLForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(seed)
    residual_outputs = ("o_proj", "down_proj", "attn.proj", "fc2")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_tokens" in name:
                parameter.normal_(0, 0.05, generator=generator)
            elif parameter.ndim > 1:
                std = 1 / math.sqrt(parameter[0].numel())
                halved = any(part in name for part in residual_outputs)
                parameter.normal_(0, std / 2 if halved else std, generator=generator)
    model.generation_config.eos_token_id = config.text_config.eos_token_id
    model.generation_config.pad_token_id = config.text_config.pad_token_id
    model.generation_config.do_sample = False
    return model


def create_processor(tokenizer: "PreTrainedTokenizerFast") -> "Qwen2VLProcessor":
    """Return the processor, every size and every sampling choice written out.

    The defaults would enlarge these small videos to 128 cells, and two of them are about to change
    in transformers (``cap_pixels_per_frame`` in 5.22, ``do_sample_frames`` later).
    """
    cure_torch_extensions()
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    geometry = {
        "patch_size": PATCH_PX,
        "merge_size": MERGE,
        "temporal_patch_size": TEMPORAL_PATCH,
        "min_pixels": MIN_PIXELS,
        "max_pixels": MAX_PIXELS,
    }
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(**geometry),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(
            **geometry, do_sample_frames=False, cap_pixels_per_frame=False
        ),
        chat_template=tokenizer.chat_template,
    )


def save_checkpoint(
    model: "Qwen2VLForConditionalGeneration", tokenizer: "PreTrainedTokenizerFast", folder: Path
) -> None:
    """Write weights, configuration, tokenizer, processor and chat template, as a trainer does."""
    model.save_pretrained(folder)
    create_processor(tokenizer).save_pretrained(folder)


def load_model(folder: Path) -> "Qwen2VLForConditionalGeneration":
    """Load the weights of a full checkpoint in fp32.

    Raises:
        OSError: The folder holds no checkpoint.
    """
    cure_torch_extensions()
    import torch
    from transformers import Qwen2VLForConditionalGeneration

    return Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerFast":
    """Load the tokenizer of a checkpoint.

    Raises:
        OSError: The folder holds no tokenizer.
    """
    cure_torch_extensions()
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder)


def load_shipped_model(name: str, root: Path = WEIGHTS_DIR) -> Any:
    """Load a trained checkpoint from the package, its weights verified.

    Args:
        name: One of ``vlmserve.demo.recipe.TRAINED``.
        root: The folder of folders to look in; the package's own by default.

    Returns:
        The model in evaluation mode; for an adapter, PEFT's wrapper around the base.

    Raises:
        ConfigError: No trained checkpoint has that name.
        CheckpointError: It or its base is missing or damaged.
    """
    shipped = load_shipped(name, root)
    if shipped.weights_file != "adapter_model.safetensors":
        return load_model(shipped.folder).eval()
    model = load_model(load_shipped("base", root).folder)
    from peft import PeftModel

    return PeftModel.from_pretrained(model, shipped.folder).eval()
