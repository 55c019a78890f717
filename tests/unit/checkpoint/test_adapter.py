"""What an adapter's files say, and which of its modules fit a base."""

import json
from typing import Any

import pytest

from vlmserve.checkpoint.adapter import AdapterMatch, ShapeMismatch, load_adapter, match_adapter
from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.errors import CheckpointError

OLD, NEW = "model.layers.1.mlp.up_proj", "model.language_model.layers.1.mlp.up_proj"


def match(write: Any, modules: Any, base: Any = None, **options: Any) -> AdapterMatch | None:
    checkpoint = load_checkpoint(write.adapter(base or write.model(), modules, **options))
    assert checkpoint.adapter is not None
    return match_adapter(checkpoint.adapter, checkpoint.model)


def test_settings(write: Any) -> None:
    settings = {
        "rank_pattern": {"up_proj": 8},
        "modules_to_save": ["lm_head"],
        "use_rslora": True,
        "init_lora_weights": "pissa",
        "target_modules": ".*q_proj",
    }
    adapter = load_adapter(write.adapter("base", config=settings))
    assert (adapter.rank, adapter.alpha, adapter.base_ref) == (8, 4, "base")
    assert adapter.target_modules == ".*q_proj"
    assert adapter.modules_to_save == ("lm_head",)
    assert (adapter.use_rslora, adapter.use_dora, adapter.bias) == (True, False, "none")
    assert adapter.init_lora_weights == "pissa"
    assert [pair.module for pair in adapter.pairs] == ["model.layers.0.self_attn.q_proj"]
    assert not adapter.touches_vision_tower
    assert not adapter.touches_projector


@pytest.mark.parametrize(
    ("module", "tower", "projector"),
    [
        ("visual.blocks.0.attn.qkv", True, False),
        ("model.visual.merger.mlp.0", False, True),
        ("model.vision_tower.encoder.layers.0.mlp.fc1", True, False),
        ("multi_modal_projector.linear_1", False, True),
    ],
)
def test_vision_modules(write: Any, module: str, tower: bool, projector: bool) -> None:
    adapter = load_adapter(write.adapter(None, {module: (4, 4)}))
    assert (adapter.touches_vision_tower, adapter.touches_projector) == (tower, projector)


def test_prefix_may_stand_there_twice_as_in_vllm(write: Any) -> None:
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    found = match(write, {module: (16, 16)})
    assert found is not None
    assert found.matched == ("model.layers.0.self_attn.q_proj",)


@pytest.mark.parametrize("module", [OLD, NEW])
def test_both_layouts_fit(write: Any, module: str) -> None:
    assert match(write, {module: (24, 16)}) == AdapterMatch((module,), (), (), ())


def test_vision_modules_fit_and_are_told_apart(write: Any) -> None:
    modules = {"visual.blocks.0.attn.qkv": (48, 16), "model.visual.merger.mlp.2": (16, 64)}
    found = match(write, modules)
    assert found is not None
    assert set(found.matched) == set(found.vision) == set(modules)
    assert not found.shape_mismatches


def test_modules_that_are_not_there(write: Any) -> None:
    modules = {
        "language_model.blocks.0.q_proj": (16, 16),  # no such path
        "visual.patch_embed.proj": (16, 16),  # a convolution
        "lm_head": (40, 16),  # vLLM's Qwen2 takes no LoRA there
        OLD: (24, 16),
    }
    found = match(write, modules)
    assert found is not None
    assert found.matched == (OLD,)
    assert set(found.unmatched) == set(modules) - {OLD}


def test_head_of_a_llama_takes_lora(write: Any, tiny_llava: Any) -> None:
    found = match(write, {"lm_head": (40, 16)}, write.model(config=tiny_llava))
    assert found is not None
    assert found.matched == ("lm_head",)


def test_other_sizes(write: Any) -> None:
    found = match(write, {OLD: (24, 32)}, config={"r": 3})
    assert found is not None
    tensor = f"base_model.model.{OLD}.lora_A.weight"
    assert found.shape_mismatches == (ShapeMismatch(OLD, tensor, (3, 32), (3, 16)),)


def test_half_a_pair(write: Any) -> None:
    key = f"base_model.model.{OLD}.lora_B.weight"
    found = match(write, {OLD: (24, 16)}, edit=lambda tensors: tensors.pop(key))
    assert found is not None
    assert found.shape_mismatches == (ShapeMismatch(OLD, f"{OLD}.lora_B", None, (24, 2)),)


def test_unknown_family_is_not_matched(write: Any) -> None:
    base = write.model()
    (base / "config.json").write_text('{"architectures": ["SomethingNew"]}')
    checkpoint = load_checkpoint(write.adapter(base))
    assert checkpoint.adapter is not None
    assert match_adapter(checkpoint.adapter, checkpoint.model) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 0}, "ranks must be positive"),
        ({"r": None}, "ranks must be positive"),
        ({"rank_pattern": {"q": "8"}}, "ranks must be positive"),
        ({"rank_pattern": [8]}, "rank_pattern: an object"),
        ({"lora_alpha": "16"}, "lora_alpha: a number"),
        ({"target_modules": 1.5}, "target_modules: a list of names"),
        ({"modules_to_save": "lm_head"}, "modules_to_save: a list of names"),
        ({"peft_type": "VERA"}, "peft_type: VERA"),
    ],
)
def test_broken_settings_are_named(write: Any, settings: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"adapter_config\.json.*{message}"):
        load_adapter(write.adapter("base", config=settings))


def test_pickled_and_missing_weights_are_named(write: Any) -> None:
    directory = write.adapter("base")
    (directory / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no adapter_model\.safetensors"):
        _ = load_adapter(directory).tensors
    (directory / "adapter_model.bin").touch()
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin: the file is empty"):
        _ = load_adapter(directory).tensors


def test_a_real_peft_adapter(write: Any, tmp_path: Any, tiny_qwen2_vl: Any) -> None:
    """PEFT on the class of today: every module it adapts is found."""
    import warnings

    from vlmserve.platform import cure_torch_extensions

    cure_torch_extensions()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import LoraConfig, get_peft_model
        from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

        config = {**tiny_qwen2_vl, "bos_token_id": 1, "eos_token_id": 2}
        config["vision_config"]["num_heads"] = 2
        model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(**config))
        model.save_pretrained(tmp_path / "base")
        peft_config = LoraConfig(r=2, target_modules="all-linear")
        get_peft_model(model, peft_config).save_pretrained(tmp_path / "real")
    assert json.loads((tmp_path / "base" / "config.json").read_text())["vision_config"]
    checkpoint = load_checkpoint(tmp_path / "real", base_model=tmp_path / "base")
    assert checkpoint.adapter is not None
    assert not checkpoint.adapter.other_tensors
    found = match_adapter(checkpoint.adapter, checkpoint.model)
    assert found is not None
    assert not found.unmatched
    assert not found.shape_mismatches
    assert len(found.matched) == 2 * 7 + 2 * 4 + 2
    assert len(found.vision) == 2 * 4 + 2
