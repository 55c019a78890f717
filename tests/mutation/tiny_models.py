"""Tiny random models of the real classes and their processors, as transformers 5 saves them."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.mutation.mutation import write_json
from tests.mutation.tiny_tokenizers import (
    LLAVA_TEMPLATE,
    MISTRAL_TEMPLATE,
    QWEN2_TEMPLATE,
    QWEN3_TEMPLATE,
    create_llama_tokenizer,
    create_qwen_tokenizer,
)
from vlmserve.platform import cure_torch_extensions

_VOCAB_ROWS = 512  # more than any of the tokenizers has, as in the public checkpoints

_TEXT = {
    "vocab_size": _VOCAB_ROWS,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
_QWEN_ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1000000.0}
_CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
    "projection_dim": 32,
}
_QWEN_GENERATION = {
    "do_sample": True,
    "pad_token_id": "<|endoftext|>",
    "bos_token_id": "<|endoftext|>",
    "eos_token_id": ["<|im_end|>", "<|endoftext|>"],
    "repetition_penalty": 1.05,
    "temperature": 0.1,
    "top_k": 1,
    "top_p": 0.001,
}


@dataclass(frozen=True)
class Tiny:
    """How to build one family."""

    model_class: str
    config: Mapping[str, Any]
    """Constructor arguments; strings in place of token ids are looked up."""

    tokenizer: Callable[[], Any]
    processor: Callable[[Any], Any]
    """Builds the processor around the tokenizer."""

    generation: Mapping[str, Any] | None = None
    """``generation_config.json``, tokens by name; the class's own when absent."""


def _qwen_processor(kind: str, *, patch: int) -> Callable[[Any], Any]:
    def create(tokenizer: Any) -> Any:
        import transformers

        # Qwen2.5-VL has the image processor of Qwen2-VL, and a video processor of its own.
        pixels = {"shortest_edge": 4 * (2 * patch) ** 2, "longest_edge": 16384 * (2 * patch) ** 2}
        geometry: dict[str, Any] = {"patch_size": patch, "size": pixels}
        video = "Qwen3VL" if kind == "Qwen3VL" else "Qwen2VL"
        if video == "Qwen3VL":
            geometry |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        image_processor = transformers.Qwen2VLImageProcessor(**geometry)
        return getattr(transformers, f"{kind}Processor")(
            image_processor=image_processor,
            tokenizer=tokenizer,
            video_processor=getattr(transformers, f"{video}VideoProcessor")(**geometry),
            chat_template=tokenizer.chat_template,
        )

    return create


def _llava_processor(tokenizer: Any) -> Any:
    from transformers import CLIPImageProcessor, LlavaProcessor

    size = _CLIP["image_size"]
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": size}, crop_size={"height": size, "width": size}
        ),
        tokenizer=tokenizer,
        patch_size=_CLIP["patch_size"],
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )


def _llava_next_processor(tokenizer: Any) -> Any:
    from transformers import LlavaNextImageProcessor, LlavaNextProcessor

    size = _CLIP["image_size"]
    return LlavaNextProcessor(
        image_processor=LlavaNextImageProcessor(
            size={"shortest_edge": size},
            crop_size={"height": size, "width": size},
            image_grid_pinpoints=_PINPOINTS,
        ),
        tokenizer=tokenizer,
        patch_size=_CLIP["patch_size"],
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )


_PINPOINTS = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]
_QWEN_IDS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
_QWEN_TEXT_IDS = {"bos_token_id": "<|endoftext|>", "eos_token_id": "<|im_end|>"}
_LLAMA_TEXT = {**_TEXT, "bos_token_id": "<s>", "eos_token_id": "</s>", "pad_token_id": "<pad>"}

TINY: dict[str, Tiny] = {
    "qwen2_vl": Tiny(
        "Qwen2VLForConditionalGeneration",
        {
            **_QWEN_IDS,
            "text_config": {**_TEXT, **_QWEN_TEXT_IDS, "rope_parameters": _QWEN_ROPE},
            "vision_config": {"depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": 64},
            "tie_word_embeddings": True,
        },
        lambda: create_qwen_tokenizer(QWEN2_TEMPLATE),
        _qwen_processor("Qwen2VL", patch=14),
        _QWEN_GENERATION,
    ),
    "qwen2_5_vl": Tiny(
        "Qwen2_5_VLForConditionalGeneration",
        {
            **_QWEN_IDS,
            "text_config": {**_TEXT, **_QWEN_TEXT_IDS, "rope_parameters": _QWEN_ROPE},
            "vision_config": {
                "depth": 2,
                "hidden_size": 32,
                "num_heads": 2,
                "intermediate_size": 48,
                "out_hidden_size": 64,
                "fullatt_block_indexes": [1],
                "tokens_per_second": 2,
            },
            "tie_word_embeddings": False,
        },
        lambda: create_qwen_tokenizer(QWEN2_TEMPLATE),
        _qwen_processor("Qwen2_5_VL", patch=14),
        _QWEN_GENERATION,
    ),
    "qwen3_vl": Tiny(
        "Qwen3VLForConditionalGeneration",
        {
            **_QWEN_IDS,
            "text_config": {
                **_TEXT,
                **_QWEN_TEXT_IDS,
                "head_dim": 16,
                "rope_parameters": {**_QWEN_ROPE, "mrope_interleaved": True},
            },
            "vision_config": {
                "depth": 3,
                "hidden_size": 32,
                "num_heads": 2,
                "intermediate_size": 48,
                "out_hidden_size": 64,
                "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0],
            },
            "tie_word_embeddings": True,
        },
        lambda: create_qwen_tokenizer(QWEN3_TEMPLATE),
        _qwen_processor("Qwen3VL", patch=16),
        {**_QWEN_GENERATION, "repetition_penalty": 1.0},
    ),
    "llava": Tiny(
        "LlavaForConditionalGeneration",
        {
            "text_config": {"model_type": "llama", **_LLAMA_TEXT},
            "vision_config": _CLIP,
            "image_token_index": "<image>",
            "image_seq_length": 16,
        },
        lambda: create_llama_tokenizer(LLAVA_TEMPLATE),
        _llava_processor,
    ),
    "llava_next": Tiny(
        "LlavaNextForConditionalGeneration",
        {
            "text_config": {"model_type": "mistral", "sliding_window": None, **_LLAMA_TEXT},
            "vision_config": _CLIP,
            "image_token_index": "<image>",
            "image_seq_length": 16,
            "image_grid_pinpoints": _PINPOINTS,
        },
        lambda: create_llama_tokenizer(MISTRAL_TEMPLATE),
        _llava_next_processor,
    ),
}
"""The families by ``model_type``."""


def create_model(name: str) -> Any:
    """Build a family's model with random weights, none of them constant; the same every time."""
    cure_torch_extensions()
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    tiny = TINY[name]
    config = _with_ids(tiny.config, cached_tokenizer(name))
    model_class = getattr(transformers, tiny.model_class)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = model_class(model_class.config_class(**config)).eval()
        for parameter in model.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
    return model


def perturb(model: Any, *, share: float = 0.01, only: str = "", seed: int = 1) -> None:
    """Move every weight a little, as training does.

    Args:
        model: Changed in place.
        share: Standard deviation of the change, as a share of each tensor's own.
        only: What must be in a parameter's name for it to move.
        seed: Of the random numbers.
    """
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            if only in name:
                parameter.data += share * parameter.std() * torch.randn_like(parameter)


def save(name: str, model: Any, directory: Path, *, shards: int = 1) -> None:
    """Write weights, configuration, tokenizer, processor and template with transformers' own.

    Args:
        name: A key of ``TINY``.
        model: Its model.
        directory: Made if need be.
        shards: About how many files the weights are spread over.
    """
    tiny = TINY[name]
    tokenizer = cached_tokenizer(name)
    size = 1 + sum(tensor.nbytes for tensor in model.state_dict().values()) // shards
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(directory, max_shard_size=size)
        tiny.processor(tokenizer).save_pretrained(directory)
    if tiny.generation is not None:
        generation = {
            **_with_ids(tiny.generation, tokenizer),
            "transformers_version": model.config.to_dict()["transformers_version"],
        }
        write_json(directory / "generation_config.json", generation)


@cache
def cached_tokenizer(name: str) -> Any:
    return TINY[name].tokenizer()


def _with_ids(settings: Any, tokenizer: Any, key: str = "") -> Any:
    """Put the ids of tokens in place of their names."""
    if isinstance(settings, Mapping):
        return {name: _with_ids(value, tokenizer, name) for name, value in settings.items()}
    if isinstance(settings, list):
        return [_with_ids(value, tokenizer, key) for value in settings]
    if isinstance(settings, str) and (key.endswith(("token_id", "token_index"))):
        return tokenizer.convert_tokens_to_ids(settings)
    return settings
