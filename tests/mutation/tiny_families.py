"""What the tiny models of each family are made of: configuration, tokenizer and processor."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.mutation.tiny_tokenizers import (
    INTERNVL_MEDIA,
    INTERNVL_TEMPLATE,
    LLAVA_TEMPLATE,
    MISTRAL_TEMPLATE,
    ONEVISION_TEMPLATE,
    QWEN2_TEMPLATE,
    QWEN3_TEMPLATE,
    create_llama_tokenizer,
    create_qwen_tokenizer,
)

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
_SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
    "vision_use_head": False,
}
_INTERNVIT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": [56, 56],
    "patch_size": [14, 14],
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


def _onevision_processor(tokenizer: Any) -> Any:
    from transformers import (
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
    )

    size = {"height": _SIGLIP["image_size"], "width": _SIGLIP["image_size"]}
    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=_PINPOINTS),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
    )


def _internvl_processor(tokenizer: Any) -> Any:
    from transformers import GotOcr2ImageProcessor, InternVLProcessor, InternVLVideoProcessor

    size = {"height": _INTERNVIT["image_size"][0], "width": _INTERNVIT["image_size"][1]}
    imagenet = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(
            size=size, crop_to_patches=True, min_patches=1, max_patches=12, **imagenet
        ),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=size, **imagenet),
        image_seq_length=4,
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
    "llava_onevision": Tiny(
        "LlavaOnevisionForConditionalGeneration",
        {
            "text_config": {"model_type": "qwen2", **_TEXT, **_QWEN_TEXT_IDS},
            "vision_config": _SIGLIP,
            "image_token_index": "<image>",
            "video_token_index": "<video>",
            "image_grid_pinpoints": _PINPOINTS,
            "vision_aspect_ratio": "anyres_max_9",
            "tie_word_embeddings": False,
        },
        lambda: create_qwen_tokenizer(ONEVISION_TEMPLATE, "<image>", "<video>"),
        _onevision_processor,
    ),
    "internvl": Tiny(
        "InternVLForConditionalGeneration",
        {
            "text_config": {"model_type": "qwen2", **_TEXT, **_QWEN_TEXT_IDS},
            "vision_config": _INTERNVIT,
            "image_token_id": INTERNVL_MEDIA["context_image_token"],
            "image_seq_length": 4,
            "tie_word_embeddings": False,
        },
        lambda: create_qwen_tokenizer(INTERNVL_TEMPLATE, **INTERNVL_MEDIA),
        _internvl_processor,
    ),
}
"""The families by ``model_type``."""
