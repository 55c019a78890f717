"""What is missing, unexpected or of another shape, in every layout."""

from typing import Any

import numpy as np
import pytest

from vlmserve.checkpoint.inventory import Mismatch, compare_tensors
from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.errors import CheckpointError

NEW_QWEN = {
    "language_model.model.": "model.language_model.",
    "language_model.lm_head.": "lm_head.",
    "visual.": "model.visual.",
}
NEW_LLAVA = {
    "language_model.model.": "model.language_model.",
    "language_model.lm_head.": "lm_head.",
    "vision_tower.": "model.vision_tower.",
    "multi_modal_projector.": "model.multi_modal_projector.",
}
GPTQ = {"model.layers.0.self_attn.q_proj.qweight": np.zeros((2, 16), np.int32)}
FLAT_TOWER = {"vision_tower.vision_model.": "vision_tower."}


@pytest.mark.parametrize("prefixes", [None, NEW_QWEN, {}])
def test_qwen_layouts_are_clean(write: Any, prefixes: Any) -> None:
    inventory = compare_tensors(load_checkpoint(write.model(prefixes=prefixes)))
    assert inventory is not None
    assert inventory.is_clean


def test_shards_are_read_together(write: Any) -> None:
    inventory = compare_tensors(load_checkpoint(write.shard(write.model(), 3)))
    assert inventory is not None
    assert inventory.is_clean


@pytest.mark.parametrize("prefixes", [None, NEW_LLAVA, FLAT_TOWER])
def test_llava_layouts_are_clean(write: Any, tiny_llava: Any, prefixes: Any) -> None:
    inventory = compare_tensors(load_checkpoint(write.model(config=tiny_llava, prefixes=prefixes)))
    assert inventory is not None
    assert inventory.is_clean


def test_differences_by_component(write: Any) -> None:
    def edit(tensors: Any) -> None:
        del tensors["visual.blocks.1.mlp.fc1.weight"]
        del tensors["visual.merger.mlp.0.weight"]
        del tensors["model.layers.1.mlp.down_proj.weight"]
        tensors["model.layers.1.mlp.stray.weight"] = np.ones(2)
        tensors["visual.blocks.0.norm1.weight"] = np.ones(5)
        # Harmless: computed when the model is built.
        tensors["model.rotary_emb.inv_freq"] = np.ones(4)

    inventory = compare_tensors(load_checkpoint(write.model(edit=edit)))
    assert inventory is not None
    assert inventory.missing == {
        "vision tower": ("visual.blocks.1.mlp.fc1.weight",),
        "projector": ("visual.merger.mlp.0.weight",),
        "language model": ("language_model.model.layers.1.mlp.down_proj.weight",),
    }
    assert inventory.unexpected == {"language model": ("model.layers.1.mlp.stray.weight",)}
    assert inventory.mismatched == {
        "vision tower": (Mismatch("visual.blocks.0.norm1.weight", (5,), (16,)),)
    }


def test_the_same_tensor_in_two_layouts(write: Any) -> None:
    def edit(tensors: Any) -> None:
        tensors["model.visual.merger.ln_q.weight"] = tensors["visual.merger.ln_q.weight"]

    inventory = compare_tensors(load_checkpoint(write.model(edit=edit)))
    assert inventory is not None
    assert len(inventory.unexpected["projector"]) == 1


def test_untied_head_is_missed(write: Any, tiny_qwen2_vl: Any) -> None:
    tiny_qwen2_vl["tie_word_embeddings"] = False
    write_head = write.model("whole", tiny_qwen2_vl)
    whole = compare_tensors(load_checkpoint(write_head))
    headless = compare_tensors(
        load_checkpoint(
            write.model(
                "headless", tiny_qwen2_vl, edit=lambda tensors: tensors.pop("lm_head.weight")
            )
        )
    )
    assert whole is not None
    assert headless is not None
    assert whole.is_clean
    assert headless.missing == {"language model": ("language_model.lm_head.weight",)}


def test_what_is_not_checkable(write: Any, tiny_qwen2_vl: Any, tiny_llava: Any) -> None:
    quantised = {**tiny_qwen2_vl, "quantization_config": {"quant_method": "awq"}}
    assert compare_tensors(load_checkpoint(write.model("awq", quantised))) is None
    nested = {**tiny_llava, "text_config": {**tiny_llava["text_config"]}}
    nested["text_config"]["quantization_config"] = {"quant_method": "fp8"}
    assert compare_tensors(load_checkpoint(write.model("fp8", nested))) is None
    old = write.model("gptq", edit=lambda tensors: tensors.update(GPTQ))
    assert compare_tensors(load_checkpoint(old)) is None
    directory = write.model("pixtral", tiny_llava)
    text = (directory / "config.json").read_text()
    (directory / "config.json").write_text(text.replace("clip_vision_model", "pixtral"))
    assert compare_tensors(load_checkpoint(directory)) is None
    (directory / "config.json").write_text('{"architectures": ["SomethingNew"]}')
    assert compare_tensors(load_checkpoint(directory)) is None


@pytest.mark.parametrize("size", [0, -3, "16", True, 2.0])
def test_nonsense_in_the_configuration_is_named(write: Any, tiny_qwen2_vl: Any, size: Any) -> None:
    directory = write.model()
    tiny_qwen2_vl["vision_config"]["depth"] = size
    import json

    (directory / "config.json").write_text(json.dumps(tiny_qwen2_vl))
    with pytest.raises(CheckpointError, match=r"config\.json: vision_config\.depth: a positive"):
        compare_tensors(load_checkpoint(directory))
