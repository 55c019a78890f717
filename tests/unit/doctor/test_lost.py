"""Weights that were trained and that no file has."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.conftest import CheckpointWriter
from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Finding
from vlmserve.doctor.lost import check_lost

Q, V = "self_attn.q_proj", "self_attn.v_proj"
ROWS = {Q: (16, 16), V: (8, 16)}
LLAVA_CONFIG = {
    "model_type": "llava_llama",
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
}


def run(directory: Path) -> list[Finding]:
    outcomes = list(check_lost(Examination(load_checkpoint(directory))))
    assert all(isinstance(outcome, Finding) for outcome in outcomes)
    return [outcome for outcome in outcomes if isinstance(outcome, Finding)]


def modules(*names: str, layers: int = 2) -> dict[str, tuple[int, int]]:
    return {f"model.layers.{index}.{name}": ROWS[name] for index in range(layers) for name in names}


@pytest.fixture
def base(write: CheckpointWriter) -> Path:
    return write.model("base")


def test_whole_adapters(write: CheckpointWriter, base: Path) -> None:
    assert run(base) == []
    targets = {"target_modules": ["q_proj", "v_proj"]}
    assert run(write.adapter(base, modules(Q, V), config=targets)) == []


@pytest.mark.parametrize(
    "targets",
    [
        {"target_modules": ["q_proj", "wqkv"]},  # a list for several families
        {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["v_proj"]},
        {"target_modules": r".*\.(q_proj|v_proj)"},
    ],
)
def test_targets_that_prove_nothing(
    write: CheckpointWriter, base: Path, targets: dict[str, Any]
) -> None:
    assert run(write.adapter(base, modules(Q), config=targets)) == []


def test_layers_that_were_chosen(write: CheckpointWriter, base: Path) -> None:
    chosen = {"target_modules": ["q_proj"], "layers_to_transform": [0]}
    assert run(write.adapter(base, modules(Q, layers=1), config=chosen)) == []


def test_target_without_tensors(write: CheckpointWriter, base: Path) -> None:
    (found,) = run(write.adapter(base, modules(Q), config={"target_modules": ["q_proj", "v_proj"]}))
    assert found.severity == "warn"
    assert found.title.startswith("2 modules were adapted in training and are not in the file")
    assert "v_proj" in found.evidence[1].key


def test_layer_without_tensors(write: CheckpointWriter, base: Path) -> None:
    (found,) = run(write.adapter(base, modules(Q, layers=1), config={"target_modules": ["q_proj"]}))
    assert found.title.endswith("language_model.model.layers.1.self_attn.q_proj")


def test_part_of_the_model_that_peft_was_not_given(write: CheckpointWriter, base: Path) -> None:
    """``proj`` is a layer of the vision tower; ``qkv`` too."""
    adapted = {f"visual.blocks.{index}.attn.qkv": (48, 16) for index in range(2)}
    adapter = write.adapter(base, {**adapted, **modules(Q)}, config={"target_modules": ["qkv"]})
    assert run(adapter) == []


def test_names_of_another_model_are_not_lost(write: CheckpointWriter, base: Path) -> None:
    adapter = write.adapter(
        base, {"transformer.h.0.q_proj": (16, 16)}, config={"target_modules": ["q_proj", "v_proj"]}
    )
    assert run(adapter) == []


def test_whole_modules(write: CheckpointWriter, base: Path) -> None:
    def edit(tensors: Any) -> None:
        name = "base_model.model.visual.merger.mlp.0.weight"
        tensors[name] = np.ones((64, 64), np.float32)

    names = ["merger", "classifier", "lm_head"]  # the base's lm_head is its embedding
    wanted = {"target_modules": ["q_proj"], "modules_to_save": names}
    assert run(write.adapter(base, modules(Q), config=wanted, edit=edit)) == []
    (found,) = run(write.adapter(base, modules(Q), config=wanted))
    assert found.evidence[0].value == "merger"


@pytest.mark.parametrize(
    ("settings", "tensor"),
    [
        ({"use_dora": True}, "lora_magnitude_vector"),
        (
            {"trainable_token_indices": [7]},
            "embed_tokens.token_adapter.trainable_tokens_delta",
        ),
    ],
)
def test_parts_of_an_adapter(
    write: CheckpointWriter, base: Path, settings: dict[str, Any], tensor: str
) -> None:
    def edit(tensors: Any) -> None:
        name = f"base_model.model.model.layers.0.self_attn.q_proj.{tensor}"
        tensors[name] = np.ones(16, np.float32)

    settings = {"target_modules": ["q_proj"], **settings}
    assert run(write.adapter(base, modules(Q), config=settings, edit=edit)) == []
    (found,) = run(write.adapter(base, modules(Q), config=settings))
    assert "is set, and the file has no" in found.title


def test_step_of_an_original_llava(write: CheckpointWriter, base: Path) -> None:
    adapter = write.adapter(base, modules(Q))
    step = adapter.parent / "run" / "checkpoint-100"
    step.parent.mkdir()
    adapter.rename(step)
    assert run(step) == []
    (step.parent / "config.json").write_text(json.dumps(LLAVA_CONFIG))
    (found,) = run(step)
    assert found.evidence[0].file == "../config.json"
    assert "to its end" in found.remedy
    (step / "global_step100").mkdir()
    (found,) = run(step)
    assert "zero_to_fp32" in found.remedy
    (step.parent / "non_lora_trainables.bin").touch()
    (found,) = run(step)
    assert str(step.parent) in found.remedy
    (step / "non_lora_trainables.bin").touch()
    assert run(step) == []


def test_original_llava_with_a_frozen_projector(write: CheckpointWriter, base: Path) -> None:
    adapter = write.adapter(base, modules(Q))
    config = {**LLAVA_CONFIG, "freeze_mm_mlp_adapter": True}
    (adapter / "config.json").write_text(json.dumps(config))
    assert run(adapter) == []


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"freeze_vit": True, "freeze_aligner": True}, None),
        ({"freeze_vit": False}, "vision tower"),
        ({"freeze_aligner": False}, "projector"),
        ({"freeze_vit": False, "target_modules": ["q_proj"]}, None),
        ({"freeze_vit": False, "target_regex": r".*q_proj"}, None),
        ({"freeze_vit": False, "train_type": "full"}, None),
    ],
)
def test_swift_with_parts_that_it_was_to_train(
    write: CheckpointWriter, base: Path, args: dict[str, Any], said: str | None
) -> None:
    adapter = write.adapter(base, modules(Q))
    content = {
        "swift_version": "3.9.3",
        "train_type": "lora",
        "target_modules": ["all-linear"],
        **args,
    }
    (adapter / "args.json").write_text(json.dumps(content))
    found = run(adapter)
    assert [said or "" in each.title for each in found] == ([] if said is None else [said])


def test_swift_with_the_tower_in_the_adapter(write: CheckpointWriter, base: Path) -> None:
    adapter = write.adapter(base, {"visual.blocks.0.attn.qkv": (48, 16), **modules(Q)})
    args = {
        "swift_version": "3.9.3",
        "train_type": "lora",
        "target_modules": ["all-linear"],
        "freeze_vit": False,
    }
    (adapter / "args.json").write_text(json.dumps(args))
    assert run(adapter) == []
    (adapter / "vit.safetensors").touch()
    (found,) = run(adapter)
    assert found.evidence[0].file == "vit.safetensors"


def test_separators_of_xcomposer(write: CheckpointWriter, tmp_path: Path) -> None:
    from tests.mutation.subjects_fakes import write_xcomposer2d5

    base = tmp_path / "xcomposer"
    write_xcomposer2d5(base, layers=1)
    targets = [
        "attention.wqkv",
        "attention.wo",
        "feed_forward.w1",
        "feed_forward.w2",
        "feed_forward.w3",
    ]
    sizes = [(6144, 4096), (4096, 4096), (14336, 4096), (4096, 14336), (14336, 4096)]
    adapted = {f"model.layers.0.{name}": size for name, size in zip(targets, sizes, strict=True)}
    (found,) = run(write.adapter(base, adapted, config={"target_modules": targets}))
    assert found.title.startswith("plora_glb_GN, plora_sub_GN trained with the adapter")

    def edit(tensors: Any) -> None:
        for name in ("plora_glb_GN", "plora_sub_GN"):
            tensors[f"base_model.model.{name}"] = np.ones((1, 1, 4096), np.float32)

    assert run(write.adapter(base, adapted, config={"target_modules": targets}, edit=edit)) == []
