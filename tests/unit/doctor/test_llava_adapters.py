"""Adapters that PEFT writes for LLaVA under transformers 5, which names the tower otherwise."""

import warnings
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.mutation.tiny_models import create_model, save
from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.doctor.adapters import check_match
from vlmserve.doctor.components import check_components
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Finding
from vlmserve.doctor.identity import check_identity
from vlmserve.doctor.lost import check_lost
from vlmserve.doctor.merge import check_merge
from vlmserve.platform import cure_torch_extensions

FLAT, LEVEL = "vision_tower.", "vision_tower.vision_model."


@pytest.fixture(scope="module", params=["llava", "llava_next", "llava_onevision"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ``base`` as it is published, an adapter ``run`` and ``run-merged``."""
    return _train(request.param, tmp_path_factory.mktemp(request.param), "all-linear")


def _train(name: str, root: Path, targets: Any, **settings: Any) -> Path:
    cure_torch_extensions()
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    save(name, create_model(name), root / "base")
    weights = root / "base" / "model.safetensors"
    tensors = load_file(weights)
    if "llava" in name and not any(LEVEL in key for key in tensors):
        tensors = {key.replace(FLAT, LEVEL): value for key, value in tensors.items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForImageTextToText.from_pretrained(root / "base")
        tuned = get_peft_model(model, LoraConfig(r=4, target_modules=targets, **settings))
        torch.manual_seed(0)
        for key, parameter in tuned.named_parameters():
            if "lora_" in key or "delta" in key:
                torch.nn.init.normal_(parameter, std=0.02)
        tuned.save_pretrained(root / "run")
        tuned.merge_and_unload().save_pretrained(root / "run-merged")
    return root


def examine(root: Path, name: str) -> Examination:
    return Examination(load_checkpoint(root / name, base_model=root / "base"), fast=False)


def test_nothing_of_the_tower_is_lost(run: Path) -> None:
    assert list(check_lost(examine(run, "run"))) == []
    (finding,) = check_components(examine(run, "run"))
    assert "vision tower" in getattr(finding, "title", "")


def test_a_right_merge_is_of_its_base(run: Path) -> None:
    exam = examine(run, "run-merged")
    assert list(check_identity(exam)) == []
    assert list(check_merge(exam)) == []


def test_what_vllm_takes_matches(run: Path) -> None:
    found = list(check_match(examine(run, "run")))
    if "onevision" not in str(run):
        assert found == []
        return
    (finding,) = found
    assert isinstance(finding, Finding)
    assert "merge_and_unload" in finding.remedy
    assert "takes no LoRA on vision tower and projector" in finding.evidence[0].value


def test_convolutions_and_token_rows_are_merged_too(tmp_path: Path) -> None:
    targets = r".*(language_model.*\.q_proj|patch_embed\.proj)"
    root = _train("qwen2_vl", tmp_path, targets, trainable_token_indices={"embed_tokens": [5, 6]})
    assert list(check_identity(examine(root, "run-merged"))) == []
    (finding,) = check_match(examine(root, "run"))
    assert isinstance(finding, Finding)
    assert "rename" not in finding.remedy
    assert "takes no LoRA on these modules" in finding.evidence[0].value


def test_a_merged_convolution_is_not_another_base(tmp_path: Path) -> None:
    root = _train("qwen2_vl", tmp_path, r".*(language_model.*\.q_proj|patch_embed\.proj)")
    assert list(check_identity(examine(root, "run-merged"))) == []
