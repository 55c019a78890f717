"""The families' tables against the real classes of transformers, built without memory."""

import warnings
from typing import Any

import pytest

from vlmserve.checkpoint.families import FAMILIES, find_architecture, find_family
from vlmserve.checkpoint.families.qwen2_vl import QwenVL
from vlmserve.platform import cure_torch_extensions

CLIP_336 = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "image_size": 336,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "projection_dim": 768,
    "vocab_size": 32000,
}
TINY_TEXT = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
TINY_CLIP = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}

# (class, what config.json of the public checkpoint says of sizes, its parameters or None)
CONFIGS: dict[str, tuple[str, dict[str, Any], int | None]] = {
    "Qwen2-VL-2B": (
        "Qwen2VLForConditionalGeneration",
        {
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_attention_heads": 12,
            "num_hidden_layers": 28,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "tie_word_embeddings": True,
            "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
            "vision_config": {
                "depth": 32,
                "embed_dim": 1280,
                "mlp_ratio": 4,
                "num_heads": 16,
                "in_chans": 3,
                "hidden_size": 1536,
                "patch_size": 14,
                "spatial_merge_size": 2,
                "spatial_patch_size": 14,
                "temporal_patch_size": 2,
            },
        },
        2_208_985_600,
    ),
    "Qwen2-VL-7B": (
        "Qwen2VLForConditionalGeneration",
        {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_attention_heads": 28,
            "num_hidden_layers": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
            "tie_word_embeddings": False,
            "vision_config": {"embed_dim": 1280, "hidden_size": 3584, "in_chans": 3},
        },
        8_291_375_616,
    ),
    "Qwen2.5-VL-7B": (
        "Qwen2_5_VLForConditionalGeneration",
        {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_attention_heads": 28,
            "num_hidden_layers": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
            "tie_word_embeddings": False,
            "vision_config": {
                "depth": 32,
                "hidden_size": 1280,
                "intermediate_size": 3420,
                "num_heads": 16,
                "in_chans": 3,
                "out_hidden_size": 3584,
            },
        },
        8_292_166_656,
    ),
    "Qwen3-VL-2B": (
        "Qwen3VLForConditionalGeneration",
        {
            "tie_word_embeddings": True,
            "text_config": {
                "head_dim": 128,
                "hidden_size": 2048,
                "intermediate_size": 6144,
                "num_attention_heads": 16,
                "num_hidden_layers": 28,
                "num_key_value_heads": 8,
                "vocab_size": 151936,
            },
            "vision_config": {
                "depth": 24,
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_heads": 16,
                "out_hidden_size": 2048,
                "num_position_embeddings": 2304,
                "deepstack_visual_indexes": [5, 11, 17],
            },
        },
        2_127_532_032,
    ),
    "LLaVA-1.5-7B": (
        "LlavaForConditionalGeneration",
        # The public file leaves the text model's sizes to the defaults.
        {
            "text_config": {"model_type": "llama", "vocab_size": 32064},
            "vision_config": CLIP_336,
        },
        7_063_427_072,
    ),
    "LLaVA-NeXT-mistral-7B": (
        "LlavaNextForConditionalGeneration",
        {
            "text_config": {
                "model_type": "mistral",
                "vocab_size": 32064,
                "intermediate_size": 14336,
                "num_key_value_heads": 8,
            },
            "vision_config": CLIP_336,
        },
        7_566_747_648,
    ),
    "tiny Qwen2-VL": (
        "Qwen2VLForConditionalGeneration",
        {
            "text_config": TINY_TEXT,
            "vision_config": {"depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": 64},
        },
        None,
    ),
    "tiny Qwen2.5-VL": (
        "Qwen2_5_VLForConditionalGeneration",
        {
            **TINY_TEXT,
            "vision_config": {
                "depth": 2,
                "hidden_size": 32,
                "num_heads": 2,
                "intermediate_size": 48,
                "out_hidden_size": 64,
                "patch_size": 8,
                "spatial_merge_size": 3,
            },
        },
        None,
    ),
    "tiny Qwen3-VL with biases": (
        "Qwen3VLForConditionalGeneration",
        {
            "text_config": {**TINY_TEXT, "head_dim": 24, "attention_bias": True},
            "vision_config": {
                "depth": 3,
                "hidden_size": 32,
                "num_heads": 2,
                "intermediate_size": 48,
                "out_hidden_size": 64,
                "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0],
            },
        },
        None,
    ),
    "tiny LLaVA, SigLIP and Qwen2": (
        "LlavaForConditionalGeneration",
        {
            "text_config": {"model_type": "qwen2", **TINY_TEXT},
            "vision_config": {"model_type": "siglip_vision_model", **TINY_CLIP},
            "vision_feature_layer": -1,
            "multimodal_projector_bias": False,
        },
        None,
    ),
    "tiny LLaVA, CLIP and Llama with biases": (
        "LlavaForConditionalGeneration",
        {
            "text_config": {
                "model_type": "llama",
                **TINY_TEXT,
                "head_dim": 32,
                "attention_bias": True,
                "mlp_bias": True,
            },
            "vision_config": {"model_type": "clip_vision_model", **TINY_CLIP},
            "vision_feature_layer": [-2, -1],
        },
        None,
    ),
}
CONFIGS |= {
    "LLaVA-OneVision-qwen2-0.5B": (
        "LlavaOnevisionForConditionalGeneration",
        {
            "text_config": {
                "model_type": "qwen2",
                "hidden_size": 896,
                "intermediate_size": 4864,
                "num_attention_heads": 14,
                "num_hidden_layers": 24,
                "num_key_value_heads": 2,
                "tie_word_embeddings": True,
                "vocab_size": 152000,
            },
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": 1152,
                "image_size": 384,
                "intermediate_size": 4304,
                "num_attention_heads": 16,
                "num_hidden_layers": 26,
                "patch_size": 14,
                "vision_use_head": False,
            },
            "tie_word_embeddings": True,
        },
        None,
    ),
    "InternVL3-1B": (
        "InternVLForConditionalGeneration",
        {
            "text_config": {
                "model_type": "qwen2",
                "hidden_size": 896,
                "intermediate_size": 4864,
                "num_attention_heads": 14,
                "num_hidden_layers": 24,
                "num_key_value_heads": 2,
                "vocab_size": 151674,
            },
            "vision_config": {
                "attention_bias": True,
                "image_size": [448, 448],
                "patch_size": [14, 14],
            },
            "tie_word_embeddings": True,
        },
        None,
    ),
    "tiny InternVL, everything switched on": (
        "InternVLForConditionalGeneration",
        {
            "text_config": {"model_type": "qwen3", **TINY_TEXT, "head_dim": 24},
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 56,
                "patch_size": 14,
                "norm_type": "rms_norm",
                "use_qk_norm": True,
                "use_mask_token": True,
                "use_mean_pooling": False,
            },
            "downsample_ratio": 0.25,
            "tie_word_embeddings": False,
        },
        None,
    ),
}
# What the classes fall back on where a config.json is silent. Those of the remaining families come
# with the checkpoints.
CONFIGS |= {
    f"defaults of {family.title}": (next(iter(family.architectures)), {}, None)
    for family in FAMILIES
    if family.served and family.name != "internvl_chat"
}


def build(class_name: str, config: dict[str, Any]) -> Any:
    """The real class on the meta device: names and shapes without memory."""
    cure_torch_extensions()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        import transformers

        model_class = getattr(transformers, class_name)
        with torch.device("meta"):
            return model_class(model_class.config_class(**config))


@pytest.fixture(scope="module", params=CONFIGS)
def case(request: pytest.FixtureRequest) -> Any:
    class_name, config, parameters = CONFIGS[request.param]
    return build(class_name, dict(config)), {"architectures": [class_name], **config}, parameters


def test_expected_tensors_are_those_of_the_real_class(case: Any) -> None:
    model, config, _ = case
    family = find_family(config)
    assert family is not None
    expected = family.expected_tensors(config)
    assert expected is not None
    real = {
        family.canonical(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()
    }
    assert {name: spec.shape for name, spec in expected.items()} == real


def test_linear_modules_are_those_of_the_real_class(case: Any) -> None:
    import torch

    model, config, _ = case
    family = find_family(config)
    assert family is not None
    real = {
        family.canonical_module(name): (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    # SigLIP's pooling head is no part of LLaVA; MultiheadAttention hides a Linear in it.
    real = {name: size for name, size in real.items() if ".head." not in name}
    modules = family.linear_modules(config)
    assert modules is not None
    modules = {name: size for name, size in modules.items() if ".head." not in name}
    if not family.takes_embedding_lora(config):
        real = {name: size for name, size in real.items() if not name.endswith("lm_head")}
    assert modules == real


def test_public_checkpoints_have_as_many_parameters_as_expected(case: Any) -> None:
    import math

    _, config, parameters = case
    if parameters is None:
        return
    family = find_family(config)
    assert family is not None
    expected = family.expected_tensors(config) or {}
    sizes = [math.prod(spec.shape) for spec in expected.values() if spec.required]
    tower_rest = [
        math.prod(spec.shape)
        for name, spec in expected.items()
        if not spec.required and "lm_head" not in name
    ]
    assert sum(sizes) + sum(tower_rest) == parameters


def test_tied_head_may_be_absent() -> None:
    family = find_family({"architectures": ["Qwen2VLForConditionalGeneration"]})
    assert family is not None
    head = "language_model.lm_head.weight"
    tied = family.expected_tensors({"tie_word_embeddings": True}) or {}
    nested = family.expected_tensors({"text_config": {"tie_word_embeddings": True}}) or {}
    untied = family.expected_tensors({}) or {}
    assert [tensors[head].required for tensors in (tied, nested, untied)] == [False, False, True]


@pytest.mark.parametrize(("layer", "used"), [(-2, 23), (-1, 24), (12, 12), ([-3, -2], 23)])
def test_layers_behind_the_used_one_may_be_absent(layer: Any, used: int) -> None:
    family = find_family({"architectures": ["LlavaForConditionalGeneration"]})
    assert family is not None
    tensors = family.expected_tensors({"vision_feature_layer": layer}) or {}
    name = "vision_tower.vision_model.encoder.layers.{}.mlp.fc1.weight"
    required = [tensors[name.format(index)].required for index in range(24)]
    assert required == [True] * used + [False] * (24 - used)


def test_components() -> None:
    family = find_family({"architectures": ["Qwen3VLForConditionalGeneration"]})
    assert family is not None
    names = {
        "visual.blocks.0.norm1.weight": "vision tower",
        "visual.deepstack_merger_list.0.norm.weight": "projector",
        "visual.merger.norm.weight": "projector",
        "language_model.model.norm.weight": "language model",
    }
    assert {name: family.component(name) for name in names} == names


@pytest.mark.parametrize(
    ("config", "architecture"),
    [
        ({"architectures": ["LlavaForConditionalGeneration"]}, "LlavaForConditionalGeneration"),
        ({"model_type": "qwen3_vl"}, "Qwen3VLForConditionalGeneration"),
        ({"model_type": "strange"}, None),
        (
            {
                "architectures": ["InternLM2ForCausalLM"],
                "auto_map": {"AutoModel": "modeling.InternLMXComposer2ForCausalLM"},
            },
            "InternLMXComposer2ForCausalLM",
        ),
    ],
)
def test_architecture(config: dict[str, Any], architecture: str | None) -> None:
    assert find_architecture(config) == architecture


@pytest.mark.parametrize(("family", "area"), [(FAMILIES[0], 28**2), (FAMILIES[2], 32**2)])
def test_pixels_per_token(family: QwenVL, area: int) -> None:
    assert family.pixels_per_token({}) == area
