"""Configurations as they are found in public checkpoints, cut down in size alone."""

from typing import Any

SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SECTION = [2, 3, 3]
TOKENS = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}
_DEFAULT_ROPE = {"type": "default", "rope_type": "default", "mrope_section": SECTION}

PUBLIC: dict[str, dict[str, Any]] = {
    "Qwen2-VL, as published (4.41)": {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        **SIZES,
        **TOKENS,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": SECTION},
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.41.2",
    },
    "Qwen2-VL, saved by 4.46": {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        **SIZES,
        "rope_theta": 1000000.0,
        "rope_scaling": _DEFAULT_ROPE,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.46.1",
    },
    "Qwen2.5-VL-3B, saved by 4.52 (tied in text_config alone)": {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        **SIZES,
        **TOKENS,
        "rope_theta": 1000000.0,
        "rope_scaling": _DEFAULT_ROPE,
        "sliding_window": 32768,
        "text_config": {
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "model_type": "qwen2_5_vl_text",
            **SIZES,
            "image_token_id": None,
            "rope_theta": 1000000.0,
            "rope_scaling": _DEFAULT_ROPE,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "vision_start_token_id": 151652,
        },
        "torch_dtype": "bfloat16",
        "transformers_version": "4.52.4",
    },
    "Qwen2.5-VL-7B, saved by 4.53 (float32 in text_config)": {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        **SIZES,
        "rope_theta": 1000000.0,
        "rope_scaling": _DEFAULT_ROPE,
        "text_config": {
            "model_type": "qwen2_5_vl_text",
            **SIZES,
            "rope_theta": 1000000.0,
            "rope_scaling": _DEFAULT_ROPE,
            "torch_dtype": "float32",
        },
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.53.1",
    },
    "Qwen3-VL, saved by 4.57": {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        **TOKENS,
        "text_config": {
            "model_type": "qwen3_vl_text",
            **SIZES,
            "head_dim": 16,
            "dtype": "bfloat16",
            "rope_scaling": {
                "mrope_interleaved": True,
                "mrope_section": [4, 2, 2],
                "rope_type": "default",
            },
            "rope_theta": 5000000,
            "tie_word_embeddings": True,
        },
        "tie_word_embeddings": True,
        "transformers_version": "4.57.1",
    },
    "LLaVA-1.5 (4.37)": {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index": 32000,
        "pad_token_id": 32001,
        "text_config": {"model_type": "llama", **SIZES, "torch_dtype": "float16"},
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "vocab_size": 32064,
        "transformers_version": "4.37.2",
    },
    "LLaVA-NeXT Mistral (4.39)": {
        "architectures": ["LlavaNextForConditionalGeneration"],
        "model_type": "llava_next",
        "image_token_index": 32000,
        "text_config": {
            "model_type": "mistral",
            **SIZES,
            "rope_theta": 1000000.0,
            "sliding_window": None,
            "torch_dtype": "bfloat16",
        },
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.39.0",
    },
    "LLaVA-OneVision 0.5B (4.45, tied in text_config)": {
        "architectures": ["LlavaOnevisionForConditionalGeneration"],
        "model_type": "llava_onevision",
        "image_token_index": 151646,
        "video_token_index": 151647,
        "text_config": {
            "model_type": "qwen2",
            **SIZES,
            "rope_theta": 1000000.0,
            "tie_word_embeddings": True,
        },
        "tie_word_embeddings": False,
        "transformers_version": "4.45.0",
    },
    "InternVL3 chat": {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "hidden_size": 128,
        "llm_config": {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            **SIZES,
            "rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"},
            "rope_theta": 1000000.0,
        },
        "tie_word_embeddings": False,
        "transformers_version": "4.37.2",
    },
}
"""By model, with the version of transformers that saved it; lm_head is in no file of those that
are tied."""
