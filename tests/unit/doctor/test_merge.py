"""Merges made by PEFT on the demo's base, right ones and wrong ones."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlmserve.checkpoint.lora import adapted_tensors
from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.checkpoint.tensor_values import round_to
from vlmserve.demo.zoo import build_zoo
from vlmserve.doctor.components import check_components
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Outcome
from vlmserve.doctor.identity import check_identity
from vlmserve.doctor.merge import check_merge
from vlmserve.platform import cure_torch_extensions

WEIGHTS = "model.safetensors"
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 16},
    "rslora": {"r": 4, "lora_alpha": 8, "use_rslora": True},
    "patterns": {
        "r": 4,
        "lora_alpha": 16,
        "rank_pattern": {"layers.0.self_attn.q_proj": 2},
        "alpha_pattern": {"self_attn.v_proj": 3},
    },
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("merge")
    build_zoo(directory, only=["base"])
    return directory / "base"


@pytest.fixture(scope="module")
def merges(base: Path) -> dict[str, Path]:
    """For each setting and type a directory with ``run`` and ``run-merged``, both by PEFT."""
    cure_torch_extensions()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            f"{name} {dtype}": _merge(base, f"{name}-{dtype}", settings, getattr(torch, dtype))
            for name, settings in SETTINGS.items()
            for dtype in ("float32", "bfloat16")
        }


def _merge(base: Path, name: str, settings: dict[str, Any], dtype: Any) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2VLForConditionalGeneration

    root = base.parent / name
    model = Qwen2VLForConditionalGeneration.from_pretrained(base, dtype=dtype)
    if dtype != torch.float32:
        model.save_pretrained(root / "base")
    targets = r".*language_model.*\.(q_proj|v_proj|down_proj)"
    torch.manual_seed(0)
    tuned = get_peft_model(model, LoraConfig(target_modules=targets, **settings))
    for key, parameter in tuned.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(parameter, std=0.02)
    tuned.save_pretrained(root / "run")
    tuned.merge_and_unload().save_pretrained(root / "run-merged")
    if dtype == torch.float32:
        shutil.copytree(base, root / "base")
    return root


@pytest.fixture
def copy(merges: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    def of(key: str) -> Path:
        shutil.copytree(merges[key], tmp_path / "copy")
        return tmp_path / "copy"

    return of


def examine(root: Path, *, fast: bool = False) -> Examination:
    checkpoint = load_checkpoint(root / "run-merged", base_model=root / "base")
    return Examination(checkpoint, fast=fast)


def proof(root: Path) -> list[Outcome]:
    return list(check_merge(examine(root)))


def title(outcomes: list[Outcome]) -> str:
    (outcome,) = outcomes
    return str(getattr(outcome, "title", outcome))


def edit(root: Path, change: Callable[[str, Any, Any], Any], pattern: str = "proj") -> None:
    """Replace each merged tensor by what ``change(name, merged, base)`` makes of it."""
    path = root / "run-merged" / WEIGHTS
    ours, theirs = load_file(path), load_file(root / "base" / WEIGHTS)
    for name, tensor in ours.items():
        if pattern in name:
            ours[name] = change(name, tensor, theirs[name]).to(tensor.dtype).contiguous()
    save_file(ours, path)


KEYS = [f"{name} {dtype}" for name in SETTINGS for dtype in ("float32", "bfloat16")]


@pytest.mark.parametrize("key", KEYS)
def test_what_peft_merged_is_right(key: str, merges: dict[str, Path]) -> None:
    assert proof(merges[key]) == []
    assert list(check_identity(examine(merges[key]))) == []


@pytest.mark.parametrize("key", [key for key in KEYS if "float32" in key])
def test_the_product_is_what_peft_adds(key: str, merges: dict[str, Path]) -> None:
    root = merges[key]
    merged, base = (load_file(root / name / WEIGHTS) for name in ("run-merged", "base"))
    checkpoint = load_checkpoint(root / "run", base_model=root / "base")
    assert checkpoint.adapter is not None
    adapted = adapted_tensors(checkpoint.adapter, checkpoint.model)
    assert len(adapted) == len(checkpoint.adapter.pairs)
    for item in adapted:
        change = (merged[item.weight.name] - base[item.weight.name]).numpy()
        assert item.product(3) == pytest.approx(change[:3], abs=1e-6)
        squared, norm = item.squared_norms()
        assert squared == pytest.approx(float((change**2).sum()), rel=1e-3)
        assert norm == pytest.approx(float((base[item.weight.name] ** 2).sum()), rel=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda name, ours, base: base, "was never merged"),
        (lambda name, ours, base: base + 2 * (ours.float() - base.float()), "merged twice"),
        (lambda name, ours, base: base + 0.25 * (ours.float() - base.float()), "as strongly as"),
        (lambda name, ours, base: ours if "layers.0" in name else base, "in part"),
        (
            lambda name, ours, base: ours + (base - (base * 40).round() / 40),
            "into weights that are not the base's",
        ),
        (
            lambda name, ours, base: base + torch.randn_like(base) * (ours - base).float().std(),
            "a stale merge",
        ),
    ],
    ids=["none", "twice", "quarter", "part", "quantised", "stale"],
)
def test_wrong_merges(dtype: str, change: Any, said: str, copy: Callable[[str], Path]) -> None:
    torch.manual_seed(1)
    root = copy(f"plain {dtype}")
    edit(root, change)
    assert said in title(proof(root))


def test_the_adapter_of_a_later_step_is_not_what_was_merged(copy: Callable[[str], Path]) -> None:
    root = copy("plain float32")
    path = root / "run" / "adapter_model.safetensors"
    factors = load_file(path)
    generator = torch.Generator().manual_seed(2)
    for name, factor in factors.items():
        factors[name] = factor + 0.02 * torch.randn(factor.shape, generator=generator)
    save_file(factors, path)
    assert "stale merge" in title(proof(root))


def test_other_weights_that_moved_say_another_base(copy: Callable[[str], Path]) -> None:
    root = copy("plain float32")
    edit(root, lambda name, ours, base: ours * 1.01, pattern="embed_tokens")
    assert proof(root) == []
    (finding,) = check_identity(examine(root))
    assert (finding.id, getattr(finding, "severity", "")) == ("base.identity", "warn")
    assert "embed_tokens" in finding.model_dump_json()


def test_what_is_not_found_is_not_judged(copy: Callable[[str], Path]) -> None:
    root = copy("plain float32")
    (root / "run").rename(root / "elsewhere")
    assert proof(root) == []
    (root / "elsewhere").rename(root / "run")
    (outcome,) = check_merge(examine(root, fast=True))
    assert "fast pass" in getattr(outcome, "reason", "")
    config = root / "run" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "use_dora": True}))
    (outcome,) = check_merge(examine(root))
    assert "use_dora" in getattr(outcome, "reason", "")


def test_an_export_is_found_by_its_settings(copy: Callable[[str], Path]) -> None:
    root = copy("plain float32")
    edit(root, lambda name, ours, base: base)
    (root / "run").rename(root / "lora-out")
    settings = "adapter_name_or_path: lora-out\nexport_dir: models/run-merged\n"
    (root / "export.yaml").write_text(settings)
    (root / "other.yaml").write_text("- no\n- mapping\n")
    assert "never merged" in title(proof(root))


def test_rounding_is_torchs() -> None:
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    for name, dtype in (("BF16", torch.bfloat16), ("F16", torch.float16)):
        assert (round_to(values.numpy(), name) == values.to(dtype).float().numpy()).all()


def test_how_large_an_adapter_is(merges: dict[str, Path]) -> None:
    root = merges["plain float32"]
    exam = Examination(load_checkpoint(root / "run", base_model=root / "base"), fast=False)
    (finding,) = check_components(exam)
    assert getattr(finding, "title", "") == "adapted: language model"
    merged, base = (load_file(root / name / WEIGHTS) for name in ("run-merged", "base"))
    names = [name for name in base if not torch.equal(merged[name], base[name])]
    change = sum(float(((merged[name] - base[name]) ** 2).sum()) for name in names)
    norm = sum(float((base[name] ** 2).sum()) for name in names)
    share = 100 * (change / norm) ** 0.5
    assert f'"value":"{share:.2g} % (' in finding.model_dump_json()


def test_a_copy_of_another_bases_embedding(merges: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(merges["plain float32"], root)
    path = root / "run" / "adapter_model.safetensors"
    weights, factors = load_file(root / "base" / WEIGHTS), load_file(path)
    (name,) = [name for name in weights if name.endswith("embed_tokens.weight")]
    key = f"base_model.model.{name.replace('.weight', '.base_layer.weight')}"
    found = {}
    for scale in (1.0, 1.05):
        save_file({**factors, key: weights[name] * scale}, path)
        checkpoint = load_checkpoint(root / "run", base_model=root / "base")
        found[scale] = list(check_identity(Examination(checkpoint, fast=False)))
        assert list(check_identity(Examination(checkpoint, fast=True))) == []
    assert found[1.0] == []
    (finding,) = found[1.05]
    assert "frozen original differs by 5 %" in finding.model_dump_json()
