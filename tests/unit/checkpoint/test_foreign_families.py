"""The families whose classes transformers does not have: tables by hand, and header-only fakes."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.mutation.subjects_fakes import (
    write_fake,
    write_llava_original,
    write_mplug_owl2,
    write_mplug_owl3,
    write_xcomposer2d5,
)
from vlmserve.checkpoint.families import find_architecture, find_family
from vlmserve.checkpoint.inventory import TensorInventory, compare_tensors
from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.doctor.describe import describe_checkpoint

XCOMPOSER = {
    "auto_map": {"AutoModel": "m.InternLMXComposer2ForCausalLM"},
    "architectures": ["InternLM2ForCausalLM"],
    "bias": False,
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "num_hidden_layers": 2,
    "vocab_size": 92544,
}
INTERNVL3_1B = {
    "architectures": ["InternVLChatModel"],
    "model_type": "internvl_chat",
    "downsample_ratio": 0.5,
    "select_layer": -1,
    "llm_config": {
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_attention_heads": 14,
        "num_hidden_layers": 24,
        "num_key_value_heads": 2,
        "vocab_size": 151674,
    },
    "vision_config": {
        "hidden_size": 1024,
        "image_size": 448,
        "intermediate_size": 4096,
        "norm_type": "layer_norm",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "qk_normalization": False,
        "qkv_bias": True,
    },
}
_WRITERS = [write_xcomposer2d5, write_mplug_owl2, write_mplug_owl3, write_llava_original]


def shapes(config: dict[str, Any], found: dict[str, Any] | None = None) -> dict[str, Any]:
    family = find_family(config)
    assert family is not None
    expected = family.expected_in(config, found or {})
    assert expected is not None
    return {name: spec.shape for name, spec in expected.items()}


def compare(directory: Path) -> TensorInventory:
    inventory = compare_tensors(load_checkpoint(directory))
    assert inventory is not None
    return inventory


@pytest.mark.parametrize("write", _WRITERS)
def test_fakes_are_clean(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path)
    assert compare(tmp_path).is_clean
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.family is not None
    assert not checkpoint.family.served
    # Billions of parameters, and next to nothing on disk.
    assert sum(math.prod(tensor.shape) for tensor in checkpoint.tensors.values()) > 7e9
    assert sum(path.stat().st_blocks * 512 for path in tmp_path.iterdir()) < 2e6


def test_original_llava_has_as_many_parameters_as_the_converted_one(tmp_path: Path) -> None:
    write_llava_original(tmp_path)
    total = sum(math.prod(t.shape) for t in load_checkpoint(tmp_path).tensors.values())
    # transformers' llava-1.5-7b-hf has 64 more rows of embeddings and head.
    assert total == 7_063_427_072 - 2 * 64 * 4096


def test_original_internvl_has_as_many_parameters_as_the_one_of_transformers() -> None:
    converted = {
        "architectures": ["InternVLForConditionalGeneration"],
        "text_config": {**INTERNVL3_1B["llm_config"], "model_type": "qwen2"},  # type: ignore[dict-item]
        "vision_config": {"attention_bias": True},
    }

    def total(config: dict[str, Any]) -> int:
        return sum(math.prod(shape) for shape in shapes(config).values())

    assert total(INTERNVL3_1B) == total(converted)


def test_internvl_names() -> None:
    found = shapes(INTERNVL3_1B)
    wanted = {
        "vision_model.embeddings.class_embedding": (1, 1, 1024),
        "vision_model.embeddings.position_embedding": (1, 1025, 1024),
        "vision_model.encoder.layers.23.attn.qkv.weight": (3072, 1024),
        "vision_model.encoder.layers.0.ls2": (1024,),
        "mlp1.0.weight": (4096,),
        "mlp1.1.weight": (896, 4096),
        "mlp1.3.bias": (896,),
        "language_model.model.layers.0.self_attn.k_proj.bias": (128,),
        "language_model.lm_head.weight": (151674, 896),
    }
    assert {name: found[name] for name in wanted} == wanted
    family = find_family(INTERNVL3_1B)
    assert family is not None
    assert family.is_benign("sam.image_encoder.neck.0.weight")
    assert not family.is_benign("mlp2.0.weight")


def test_internvl_with_internlm2_and_the_large_tower() -> None:
    config = {
        "architectures": ["InternVLChatModel"],
        "llm_config": {
            "architectures": ["InternLM2ForCausalLM"],
            "bias": False,
            "hidden_size": 6144,
            "intermediate_size": 16384,
            "num_attention_heads": 48,
            "num_hidden_layers": 48,
            "num_key_value_heads": 8,
            "vocab_size": 92553,
        },
        "vision_config": {"image_size": 448, "num_hidden_layers": 45},
        "select_layer": -4,
    }
    family = find_family(config)
    assert family is not None
    expected = family.expected_tensors(config) or {}
    wanted = {
        "language_model.model.tok_embeddings.weight": (92553, 6144),
        "language_model.model.layers.47.attention.wqkv.weight": (8192, 6144),
        "language_model.model.layers.0.feed_forward.w2.weight": (6144, 16384),
        "language_model.output.weight": (92553, 6144),
        "vision_model.encoder.layers.44.attn.q_norm.weight": (3200,),
        "mlp1.1.weight": (6144, 12800),
    }
    assert {name: expected[name].shape for name in wanted} == wanted
    assert "vision_model.encoder.layers.0.attn.qkv.bias" not in expected
    assert "vision_model.encoder.layers.0.norm1.bias" not in expected
    used = [expected[f"vision_model.encoder.layers.{i}.ls1"].required for i in range(45)]
    assert used == [True] * 42 + [False] * 3


def test_internvl_with_another_text_model_is_not_checkable() -> None:
    config = {**INTERNVL3_1B, "llm_config": {"architectures": ["Phi3ForCausalLM"]}}
    family = find_family(config)
    assert family is not None
    assert family.expected_tensors(config) is None


@pytest.mark.parametrize(
    ("rows", "width", "variant"),
    [
        (257, 1024, "2, 224 px"),
        (1226, 1024, "2-VL, 490 px"),
        (577, 4096, "4KHD, 336 px"),
        (1601, 4096, "2.5, 560 px"),
    ],
)
def test_xcomposer_by_its_positions(tmp_path: Path, rows: int, width: int, variant: str) -> None:
    family = find_family(XCOMPOSER)
    assert family is not None
    position = "vit.vision_tower.vision_model.embeddings.position_embedding.weight"
    found = shapes(XCOMPOSER, {position: (rows, 1024)})
    assert family.variant(XCOMPOSER, {position: (rows, 1024)}, tmp_path) == variant
    assert found[position] == (rows, 1024)
    assert found["vision_proj.0.weight"] == (4096, width)
    assert ("plora_sub_GN" in found) == (width == 4096)
    wanted = {
        "model.layers.1.attention.wqkv.weight": (6144, 4096),
        "model.layers.1.attention.wqkv.Plora_A.weight": (256, 4096),
        "model.layers.1.attention.wqkv.Plora_B.weight": (6144, 256),
        "model.layers.0.feed_forward.w2.Plora_A.weight": (256, 14336),
        "output.weight": (92544, 4096),
        "vision_proj.2.bias": (4096,),
    }
    assert {name: found[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("code", "variant"),
    [("def Image_transform(", "2.5"), ("def HD_transform(", "4KHD"), ("pass", None)],
)
def test_xcomposer_by_its_code(tmp_path: Path, code: str, variant: str | None) -> None:
    family = find_family(XCOMPOSER)
    assert family is not None
    assert family.variant(XCOMPOSER, {}, tmp_path) is None
    (tmp_path / "ixc_utils.py").write_text(code)
    assert family.variant(XCOMPOSER, {}, tmp_path) == variant


def test_what_xcomposer_may_lack_and_have(tmp_path: Path) -> None:
    norm = "vit.vision_tower.vision_model.post_layernorm"
    extra = {
        "model.layers.0.feed_forward.w1.lora_web_A.weight": (512, 4096),
        "video_mem_proj.0.weight": (4096, 1536),
        "vit.vision_tower.vision_model.embeddings.position_ids": (1, 1601),
        "model.layers.0.attention.rotary_emb.inv_freq": (64,),
    }
    config = {**XCOMPOSER, "model_type": "internlmxcomposer2"}
    dropped = {f"{norm}.weight": None, f"{norm}.bias": None}
    write_fake(tmp_path, config, extra=extra, edit=dropped)
    assert compare(tmp_path).is_clean


def test_xcomposer_without_its_tower(tmp_path: Path) -> None:
    config = {**XCOMPOSER, "num_hidden_layers": 1}
    tower = {name: None for name in shapes(config) if name.startswith("vit.")}
    write_fake(tmp_path, config, edit=tower)
    inventory = compare(tmp_path)
    assert list(inventory.missing) == ["vision tower"]
    assert len(inventory.missing["vision tower"]) == len(tower) - 2  # post_layernorm is not used


def test_owl3_before_and_after_241101(tmp_path: Path) -> None:
    write_mplug_owl3(tmp_path / "new", layers=2)
    new = load_checkpoint(tmp_path / "new")
    assert "mPLUG-Owl3 (241101; mPLUGOwl3Model)" in describe_checkpoint(new)
    found = {name: tensor.shape for name, tensor in new.tensors.items()}
    assert found["language_model.model.layers.0.self_attn.v_kv_proj.weight"] == (1024, 3584)
    assert "language_model.model.layers.1.self_attn.v_kv_proj.weight" not in found
    assert found["vision2text_model.2.weight"] == (3584, 3584)
    # The older ones: a gate, and a projector of one matrix.
    old = {
        "language_model.model.layers.0.self_attn.gate": (3584,),
        "vision2text_model.weight": (3584, 1152),
        "vision2text_model.bias": (3584,),
    }
    projector = [name for name in found if name.startswith("vision2text_model.")]
    write_fake(tmp_path / "old", new.config, extra=old, edit=dict.fromkeys(projector))
    assert compare(tmp_path / "old").is_clean
    text = describe_checkpoint(load_checkpoint(tmp_path / "old"))
    assert "240728 or 241014" in text
    # A new projector in an old model is a mix of two.
    write_fake(tmp_path / "mixed", new.config, extra={min(old): (3584,)})
    inventory = compare(tmp_path / "mixed")
    assert inventory.missing == {
        "projector": ("vision2text_model.weight", "vision2text_model.bias")
    }
    assert len(inventory.unexpected["projector"]) == 4


def test_owl2_names(tmp_path: Path) -> None:
    write_mplug_owl2(tmp_path, layers=1)
    checkpoint = load_checkpoint(tmp_path)
    family = checkpoint.family
    assert family is not None
    wanted = {
        "language_model.model.layers.0.self_attn.k_proj.multiway.1.weight": (4096, 4096),
        "language_model.model.layers.0.input_layernorm.multiway.0.weight": (4096,),
        "language_model.model.layers.0.self_attn.q_proj.weight": (4096, 4096),
        "vision_model.embeddings.position_embedding": (1, 1025, 1024),
        "visual_abstractor.vit_eos": (1, 1, 4096),
        "visual_abstractor.encoder.layers.5.crossattention.output.mlp.w2.weight": (1024, 2816),
    }
    found = shapes(dict(checkpoint.config))
    assert {name: found[name] for name in wanted} == wanted
    assert family.canonical("model.layers.0.mlp.up_proj.weight") in found
    assert family.component("visual_abstractor.vit_eos") == "projector"
    newer = {**checkpoint.config, "model_type": "mplug_owl2_1"}
    assert family.expected_tensors(newer) is None


def test_original_llava_reads_its_tower_from_elsewhere(tmp_path: Path) -> None:
    write_llava_original(tmp_path / "whole", layers=1)
    whole = load_checkpoint(tmp_path / "whole")
    towerless = {name: None for name in whole.tensors if "vision_tower" in name}
    assert len(towerless) > 300
    names = {
        "language_model.model.": "model.",
        "language_model.lm_head.": "lm_head.",
        "vision_tower.": "model.vision_tower.vision_tower.",
        "mm_projector.": "model.mm_projector.",
    }
    write_fake(tmp_path / "towerless", whole.config, names=names, edit=towerless)
    assert compare(tmp_path / "towerless").is_clean
    # A part of a tower is no tower.
    first = dict(list(towerless.items())[:5])
    write_fake(tmp_path / "part", whole.config, names=names, edit=first)
    assert set(compare(tmp_path / "part").missing) == {"vision tower"}


@pytest.mark.parametrize(
    ("setting", "name", "shape"),
    [
        ({"mm_projector_type": "linear"}, "mm_projector.weight", (4096, 1024)),
        ({"mm_projector_type": "mlp3x_gelu"}, "mm_projector.4.bias", (4096,)),
        ({"mm_patch_merge_type": "spatial_unpad"}, "image_newline", (4096,)),
        (
            {"mm_vision_tower": "/models/siglip-so400m-patch14-384", "mm_hidden_size": 1152},
            "vision_tower.vision_model.embeddings.position_embedding.weight",
            (729, 1152),
        ),
    ],
)
def test_original_llava_by_its_settings(
    tmp_path: Path, setting: dict[str, Any], name: str, shape: tuple[int, ...]
) -> None:
    write_llava_original(tmp_path, layers=1)
    config = {**load_checkpoint(tmp_path).config, **setting}
    assert shapes(config)[name] == shape


def test_original_llava_of_kinds_not_known(tmp_path: Path) -> None:
    write_llava_original(tmp_path, layers=1)
    config = dict(load_checkpoint(tmp_path).config)
    family = find_family(config)
    assert family is not None
    assert family.expected_tensors({**config, "mm_projector_type": "resampler"}) is None
    mpt = {**config, "architectures": ["LlavaMptForCausalLM"]}
    assert family.expected_tensors(mpt) is None
    # A tower of a name not known: what is there is taken as it is.
    tower = {"vision_tower.blocks.0.weight": (2, 2)}
    odd = {**config, "mm_vision_tower": "eva-clip"}
    assert shapes(odd, tower)["vision_tower.blocks.0.weight"] == (2, 2)


@pytest.mark.parametrize(
    ("model_type", "architecture"),
    [
        ("llava_mistral", "LlavaMistralForCausalLM"),
        ("llava_qwen", "LlavaQwenForCausalLM"),
        ("mplug_owl2_1", "MPLUGOwl2QWenForCausalLM"),
        ("mplugowl3", "mPLUGOwl3Model"),
        ("internvl_chat", "InternVLChatModel"),
    ],
)
def test_the_class_of_a_model_type(model_type: str, architecture: str) -> None:
    assert find_architecture({"model_type": model_type}) == architecture
