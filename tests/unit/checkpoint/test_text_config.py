"""Where the language model's settings are read from, against the real classes of transformers."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from vlmserve.checkpoint.text_config import find_rope, find_text_section, head_dim, is_tied
from vlmserve.errors import CheckpointError
from vlmserve.platform import cure_torch_extensions

SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SECTION = [2, 3, 3]

ROPES: dict[str, dict[str, Any]] = {
    "absent": {},
    "theta": {"rope_theta": 5e6},
    "4.44": {"rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": SECTION}},
    "4.45": {
        "rope_theta": 1e6,
        "rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": SECTION},
    },
    "4.45-mixed": {
        "rope_theta": 1e6,
        "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": SECTION},
    },
    "5": {"rope_parameters": {"rope_type": "default", "rope_theta": 2e6, "mrope_section": SECTION}},
    "5-without-type": {"rope_parameters": {"rope_theta": 2e6, "mrope_section": SECTION}},
    "both": {
        "rope_theta": 3e6,
        "rope_scaling": {"type": "mrope", "mrope_section": SECTION},
        "rope_parameters": {"rope_type": "default", "rope_theta": 2e6, "mrope_section": [8]},
    },
    "null-scaling": {
        "rope_theta": 3e6,
        "rope_scaling": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 2e6},
    },
    "yarn": {
        "rope_theta": 1e6,
        "rope_scaling": {
            "type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 32768,
            "mrope_section": SECTION,
        },
    },
    "linear": {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 1e4},
}


def config_class(model_type: str) -> Any:
    cure_torch_extensions()
    import transformers

    return transformers.CONFIG_MAPPING[model_type]


@pytest.mark.parametrize("name", ROPES)
@pytest.mark.parametrize(
    ("model_type", "nested"),
    [
        ("qwen2_vl", True),
        ("qwen2_vl", False),
        ("qwen2_5_vl", True),
        ("qwen2_5_vl", False),
        ("qwen3_vl", True),
        ("llava", True),
    ],
)
def test_rope_is_read_as_transformers_does(model_type: str, nested: bool, name: str) -> None:
    text = SIZES | ROPES[name]
    if nested and model_type == "llava":
        text["model_type"] = "llama"
    config = {"model_type": model_type} | ({"text_config": text} if nested else text)

    real = config_class(model_type)(**copy.deepcopy(config)).get_text_config().rope_parameters
    ours = find_rope(config)

    assert ours is not None
    assert ours.theta == real["rope_theta"]
    real_type = "default" if real["rope_type"] == "mrope" else real["rope_type"]
    assert ours.type == real_type
    assert (None if ours.section is None else list(ours.section)) == real.get("mrope_section")


def test_top_level_rope_does_not_count_beside_a_section() -> None:
    config = {
        "model_type": "qwen2_vl",
        "rope_theta": 123.0,
        "rope_scaling": {"type": "mrope", "mrope_section": SECTION},
        "text_config": dict(SIZES),
    }
    real = config_class("qwen2_vl")(**copy.deepcopy(config)).text_config.rope_parameters
    ours = find_rope(config)
    assert ours is not None
    assert ours.section is None
    assert "mrope_section" not in real
    assert ours.theta == real["rope_theta"] == 1e6
    assert not ours.is_theta_stated


@pytest.mark.parametrize("nested", [True, False, None])
@pytest.mark.parametrize("top", [True, False, None])
@pytest.mark.parametrize(
    "model_type",
    [
        "qwen2_vl",
        "qwen2_5_vl",
        "qwen3_vl",
        "qwen3_vl_moe",
        "llava",
        "llava_next",
        "llava_onevision",
        "internvl",
    ],
)
def test_tying_is_decided_as_transformers_does(
    model_type: str, top: bool | None, nested: bool | None
) -> None:
    text: dict[str, Any] = (
        {"model_type": "qwen2"} if model_type.startswith(("llava", "intern")) else {}
    )
    text |= SIZES | ({} if nested is None else {"tie_word_embeddings": nested})
    config: dict[str, Any] = {"model_type": model_type, "text_config": text}
    config |= {} if top is None else {"tie_word_embeddings": top}
    real = config_class(model_type)(**copy.deepcopy(config))
    assert is_tied(config) == real.tie_word_embeddings


def test_tying_of_an_unknown_family_is_not_guessed() -> None:
    assert is_tied({"model_type": "idefics3", "tie_word_embeddings": True}) is None


@pytest.mark.parametrize(
    ("model_type", "text", "width"),
    [
        ("qwen2_vl", {"hidden_size": 64, "num_attention_heads": 4}, 16),
        ("qwen3_vl", {"hidden_size": 64, "num_attention_heads": 4, "head_dim": 32}, 32),
        ("qwen2_vl", {"hidden_size": 64}, None),
    ],
)
def test_head_width(model_type: str, text: dict[str, Any], width: int | None) -> None:
    config = {"model_type": model_type, "text_config": text}
    assert head_dim(find_text_section(config)) == width


def test_internvl_chat_has_its_own_name_for_the_section() -> None:
    config = {"model_type": "internvl_chat", "llm_config": {"model_type": "qwen2"}}
    assert find_text_section(config).where == "llm_config."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"rope_scaling": "mrope"}, "text_config.rope_scaling: an object"),
        ({"rope_theta": "1e6"}, "text_config.rope_theta: a number"),
        ({"rope_parameters": {"mrope_section": [1.5]}}, "mrope_section: a list of whole numbers"),
    ],
)
def test_values_of_the_wrong_kind_are_named(text: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        find_rope({"model_type": "qwen2_vl", "text_config": text})


def test_section_that_is_no_object() -> None:
    with pytest.raises(CheckpointError, match="text_config: an object is expected"):
        find_text_section({"text_config": 3})


def test_settings_by_type_of_layer_are_left_alone() -> None:
    layers = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    assert find_rope({"text_config": {"rope_parameters": layers}}) is None


def test_what_transformers_saves_reads_the_same(tmp_path: Path) -> None:
    flat = {"model_type": "qwen2_vl", **SIZES, **ROPES["4.44"]}
    config_class("qwen2_vl")(**copy.deepcopy(flat)).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    before, after = find_rope(flat), find_rope(saved)
    assert before is not None
    assert after is not None
    assert (before.theta, before.section, before.type) == (after.theta, after.section, after.type)
