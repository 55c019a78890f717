"""Fine-tunes that only an optimizer's weight decay changed, made by the optimizer itself."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.demo.zoo import build_zoo
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Finding, Outcome
from vlmserve.doctor.training import check_no_signal


@pytest.fixture
def base(tmp_path: Path) -> Path:
    build_zoo(tmp_path, only=["base"])
    return tmp_path / "base"


def check(directory: Path, base: Path, *, fast: bool = False) -> list[Outcome]:
    return list(
        check_no_signal(Examination(load_checkpoint(directory, base_model=base), fast=fast))
    )


def train(
    base: Path,
    *,
    steps: int = 8,
    learning_rate: float = 1e-3,
    dtype: Any = torch.float32,
    frozen: str = "",
    gradient: float = 0.0,
) -> Path:
    """AdamW over the base's weights, matrices decayed, with a gradient of this size or none."""
    directory = base.parent / "tuned"
    directory.mkdir()
    (directory / "config.json").write_text((base / "config.json").read_text())
    tensors = {
        name: torch.nn.Parameter(tensor.to(dtype).float())
        for name, tensor in load_file(base / "model.safetensors").items()
    }
    if dtype != torch.float32:
        store(base, tensors, dtype)
    trained = [parameter for name, parameter in tensors.items() if not (frozen and frozen in name)]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1 - step / steps)
        for parameter in trained:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.grad = gradient * noise
        optimizer.step()
    store(directory, tensors, dtype)
    return directory


def store(directory: Path, tensors: Any, dtype: Any) -> None:
    content = {name: tensor.detach().to(dtype) for name, tensor in tensors.items()}
    save_file(content, directory / "model.safetensors")


@pytest.mark.parametrize(
    ("dtype", "learning_rate"),
    [(torch.float32, 1e-4), (torch.bfloat16, 3e-2), (torch.float16, 1e-2)],
)
@pytest.mark.parametrize("frozen", ["", "visual"])
def test_decay_alone(base: Path, dtype: Any, learning_rate: float, frozen: str) -> None:
    tuned = train(base, dtype=dtype, learning_rate=learning_rate, frozen=frozen)
    (finding,) = check(tuned, base)
    assert isinstance(finding, Finding)
    assert finding.severity == "warn"
    assert "only shrank the weights" in finding.title
    factor = float(finding.evidence[0].value.partition("times ")[2].split(",")[0])
    expected = 4.5 * learning_rate * 0.1
    assert 1 - factor == pytest.approx(expected, rel=0.02 if dtype == torch.float32 else 0.2)


@pytest.mark.parametrize("gradient", [1e-6, 1.0])
@pytest.mark.parametrize("learning_rate", [1e-6, 1e-3])
def test_training_is_no_decay(base: Path, gradient: float, learning_rate: float) -> None:
    tuned = train(base, gradient=gradient, learning_rate=learning_rate)
    assert check(tuned, base) == []


def test_scaling_one_matrix_by_hand_is_no_decay(base: Path) -> None:
    tuned = train(base, learning_rate=0.0)
    tensors = load_file(tuned / "model.safetensors")
    tensors["lm_head.weight" if "lm_head.weight" in tensors else next(iter(tensors))] *= 0.9
    save_file(tensors, tuned / "model.safetensors")
    assert check(tuned, base) == []


def test_another_factor_for_each_tensor_is_no_decay(base: Path) -> None:
    tuned = train(base, learning_rate=0.0)
    tensors = load_file(tuned / "model.safetensors")
    scaled = {
        name: tensor * (0.99 - 0.001 * index)
        for index, (name, tensor) in enumerate(tensors.items())
    }
    save_file(scaled, tuned / "model.safetensors")
    assert check(tuned, base) == []


def test_the_fast_pass_says_that_it_only_saw_the_beginnings(base: Path) -> None:
    tuned = train(base, learning_rate=0.0)
    (outcome,) = check(tuned, base, fast=True)
    assert "begins as the base's" in getattr(outcome, "reason", "")
    (finding,) = check(tuned, base)
    assert "byte for byte" in finding.model_dump_json()


def test_a_base_that_cannot_be_read_is_said(base: Path) -> None:
    tuned = train(base, learning_rate=0.0)
    path = base / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    (outcome,) = check(tuned, base)
    assert "the base cannot be read" in getattr(outcome, "reason", "")
