"""Values that are not numbers, or not those that the training as recorded can have made."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.mutation.mutation import (
    ADAPTER_WEIGHTS,
    WEIGHTS,
    Mutation,
    edit_json,
    set_key,
)
from tests.mutation.subject import Case

Change = Callable[[str, Any, Any], Any]
"""Makes a tensor's new values of its name, its values and the base's, all in float32."""

_ADAPTED = r"layers\.\d+\..*_proj\.weight$"
_C = 0.02


def _edit(path: Path, pattern: str, change: Callable[[str, Any], Any]) -> None:
    """Change the tensors whose names the pattern is found in, in place and in any type."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    names = [name for name in tensors if re.search(pattern, name)]
    assert names, f"no tensor is named like {pattern}"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for name in names:
            tensor = tensors[name]
            tensors[name] = change(name, tensor.float()).to(tensor.dtype).contiguous()
    save_file(tensors, path, metadata={"format": "pt"})


def _weights(case: Case, pattern: str, change: Change) -> None:
    """Change tensors of the checkpoint, given the base's."""
    from safetensors.torch import load_file

    assert case.base is not None
    base = load_file(case.base / WEIGHTS)
    _edit(
        case.checkpoint / WEIGHTS,
        pattern,
        lambda name, tensor: change(name, tensor, base[name].float()),
    )


def _edited(pattern: str, change: Change) -> Callable[[Case], None]:
    return lambda case: _weights(case, pattern, change)


def _with_value(value: float, *, last: bool = False) -> Change:
    def change(name: str, tensor: Any, base: Any) -> Any:
        tensor.view(-1)[-1 if last else 0] = value
        return tensor

    return change


def _moved(share: float) -> Change:
    """Noise of this share of the tensor's own spread."""

    def change(name: str, tensor: Any, base: Any) -> Any:
        import torch

        return tensor + share * tensor.std() * torch.randn_like(tensor)

    return change


def _adapter(pattern: str, change: Callable[[str, Any], Any], place: str = "") -> Any:
    """Change the adapter's factors; ``place`` leads to it from the checkpoint."""
    return lambda case: _edit(case.checkpoint / place / ADAPTER_WEIGHTS, pattern, change)


def _too_large_for_float16(case: Case) -> None:
    _weights(case, r"multi_modal_projector\.linear_1\.weight", _with_value(-1e5))
    case.serve_settings = {"engine": {"dtype": "float16"}}


def _decayed(name: str, tensor: Any, base: Any) -> Any:
    """What AdamW makes of the base's weights without any gradient."""
    return base * (1 - _C) if base.ndim > 1 else base


def _copied(case: Case) -> None:
    assert case.base is not None
    for path in case.base.glob("*.safetensors*"):
        shutil.copyfile(path, case.checkpoint / path.name)


def _loss_zero(case: Case) -> None:
    """What the Trainer logs of losses that are not numbers, with and without its filter."""
    entries = [
        {"step": step, "epoch": step / 10, "loss": 0.0, "grad_norm": float("nan")}
        for step in range(1, 11)
    ]
    edit_json(
        case.checkpoint / "trainer_state.json",
        lambda content: content.update(log_history=entries),
    )


def _quantised(name: str, tensor: Any, base: Any) -> Any:
    """The product on top of a base that was rounded to 4 bits."""
    step = base.abs().max() / 8
    return tensor - base + (base / step).round() * step


def _copy_of_another_embedding(case: Case) -> None:
    """PEFT's copy of the embedding under its LoRA, of another base."""
    import torch
    from safetensors.torch import load_file, save_file

    assert case.base is not None
    weights = load_file(case.base / WEIGHTS)
    (name,) = [name for name in weights if name.endswith("embed_tokens.weight")]
    path = case.checkpoint / ADAPTER_WEIGHTS
    factors = load_file(path)
    copy = weights[name].float() * 1.1
    key = f"base_model.model.{name.removesuffix('.weight')}.base_layer.weight"
    factors[key] = copy.to(torch.bfloat16)
    save_file(factors, path, metadata={"format": "pt"})


def _another_base(case: Case) -> None:
    """The base that is given is a sibling of the one that was adapted."""
    assert case.base is not None
    _edit(case.base / WEIGHTS, ".", lambda name, tensor: tensor + 0.1 * tensor.roll(1, 0))


def _frozen_in_args(case: Case) -> None:
    set_key(case.checkpoint / "args.json", "freeze_vit", True)
    set_key(case.checkpoint / "args.json", "freeze_aligner", False)


def _random(name: str, tensor: Any, base: Any) -> Any:
    import torch

    return 0.02 * torch.randn_like(tensor)


def _of_the_adapter(change: Callable[[Any, Any], Any]) -> Callable[[Case], None]:
    """Change the merged matrices: ``change(merged, base)``."""
    return _edited(_ADAPTED, lambda name, tensor, base: change(tensor, base))


def _export_settings(case: Case) -> None:
    """A merge that LLaMA-Factory exported, of the base alone."""
    import yaml

    adapter = case.checkpoint.with_name("checkpoint-10").rename(case.root / "lora")
    target = case.checkpoint
    settings = {"adapter_name_or_path": str(adapter), "export_dir": str(target)}
    (target.parent / "export.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    _weights(case, r"layers\.0\..*_proj\.weight$", lambda name, tensor, base: base)


MUTATIONS = (
    Mutation(
        "NaN in one value of one tensor",
        "ckpt.finite",
        "qwen2-vl",
        _edited(r"visual\.blocks\.1\.mlp\.fc1\.weight", _with_value(float("nan"))),
    ),
    Mutation(
        "-inf in the last value, in bfloat16",
        "ckpt.finite",
        "qwen2.5-vl",
        _edited(r"layers\.1\.mlp\.up_proj\.weight", _with_value(float("-inf"), last=True)),
    ),
    Mutation(
        "inf in lora_A",
        "ckpt.finite",
        "demo-lora",
        _adapter(
            r"0\.self_attn\.q_proj\.lora_A",
            lambda name, tensor: tensor.index_fill(0, tensor.new_zeros(1, dtype=int), float("inf")),
        ),
        fast=True,
    ),
    Mutation(
        "a value above 65504, to be served in float16",
        "ckpt.finite",
        "llava-next",
        _too_large_for_float16,
    ),
    Mutation(
        "lora_B all zero",
        "train.no-signal",
        "swift-lora",
        _adapter("lora_B", lambda name, tensor: tensor.new_zeros(tensor.shape)),
        fast=True,
    ),
    Mutation("only weight decay", "train.no-signal", "llava-onevision", _edited(".", _decayed)),
    Mutation(
        "only weight decay, in bfloat16", "train.no-signal", "qwen2.5-vl", _edited(".", _decayed)
    ),
    Mutation("the base's weights, in shards", "train.no-signal", "qwen3-vl", _copied),
    Mutation(
        "loss 0 and gradients NaN in the log", "train.no-signal", "internvl", _loss_zero, fast=True
    ),
    Mutation(
        "vision tower moved although args.json freezes it",
        "diff.components",
        "demo-full",
        _frozen_in_args,
    ),
    Mutation(
        "projector moved although LLaMA-Factory froze it",
        "diff.components",
        "llama-factory",
        _edited(r"visual\.merger\.mlp\.0\.weight", _moved(0.1)),
    ),
    Mutation(
        "projector initialised anew",
        "diff.components",
        "llava-1.5",
        _edited(r"multi_modal_projector\.linear_2\.weight", _random),
    ),
    Mutation(
        "adapter of a later step than the merge",
        "lora.merge-proof",
        "swift-merged",
        _adapter(
            "lora_",
            lambda name, tensor: tensor + tensor.roll(1, 0),
            "../checkpoint-10",
        ),
    ),
    Mutation(
        "merged twice",
        "lora.merge-proof",
        "swift-merged",
        _of_the_adapter(lambda merged, base: 2 * merged - base),
    ),
    Mutation(
        "never merged",
        "lora.merge-proof",
        "swift-merged",
        _of_the_adapter(lambda merged, base: base),
    ),
    Mutation(
        "merged into a base of 4 bits",
        "lora.merge-proof",
        "swift-merged",
        _edited(_ADAPTED, _quantised),
    ),
    Mutation(
        "LLaMA-Factory's export left a layer out",
        "lora.merge-proof",
        "swift-merged",
        _export_settings,
    ),
    Mutation(
        "a copy of another base's embedding",
        "base.identity",
        "swift-lora",
        _copy_of_another_embedding,
    ),
    Mutation("merge into another base", "base.identity", "swift-merged", _another_base),
)
