"""What training frameworks write: adapters by PEFT, their merges, and a LLaMA-Factory run."""

import warnings
from pathlib import Path
from typing import Any

from tests.mutation.layouts import as_qwen_4
from tests.mutation.mutation import edit_json, set_key
from tests.mutation.side_files import write_llama_factory, write_swift_args, write_trainer_state
from tests.mutation.subject import Subject
from tests.mutation.subjects_demo import draw_samples, write_heldout, write_sharegpt, write_swift

_ROUNDS = 3
_RANK = 8
_ALPHA = 32
# What ms-swift makes of all-linear with the vision tower frozen.
_LANGUAGE_MODEL = (
    r"^(model\.language_model(?=\.).*\.(gate_proj|o_proj|down_proj|up_proj|q_proj|k_proj|v_proj))$"
)


def train_lora(model: Any, base: Path, directory: Path, target_modules: Any) -> Any:
    """Lay random LoRA on a model with PEFT and save it; returns the wrapped model."""
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=_RANK,
        lora_alpha=_ALPHA,
        lora_dropout=0.05,
        target_modules=target_modules,
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(base),
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(2)
        wrapped = get_peft_model(model, config)
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.data = 0.01 * torch.randn_like(parameter)
        wrapped.save_pretrained(directory)
    # PEFT takes the path from the model, which was never loaded from one here.
    set_key(directory / "adapter_config.json", "base_model_name_or_path", str(base))
    return wrapped


def _write_run(root: Path, *, merged: bool) -> None:
    """An ms-swift run over Qwen2.5-VL: an adapter, and its merge beside it."""
    import torch

    from tests.mutation import tiny_models

    family, base = "qwen2_5_vl", root / "base"
    model = tiny_models.create_model(family).to(torch.bfloat16)
    tiny_models.save(family, model, base)
    step = root / "run" / "checkpoint-10"
    wrapped = train_lora(model, base, step, _LANGUAGE_MODEL)
    write_swift_args(step, base, family)
    write_trainer_state(step)
    torch.save({"output_dir": str(root / "run")}, step / "training_args.bin")
    if merged:
        target = root / "run" / "checkpoint-10-merged"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            whole = wrapped.merge_and_unload()
        tiny_models.save(family, whole, target)
        write_swift_args(target, base, family)
    write_swift(root / "data" / "train.jsonl", draw_samples(_ROUNDS))
    write_heldout(root)


def _write_llava_lora(root: Path) -> None:
    """A LoRA on the language model of a LLaVA-1.5, saved by a plain Trainer."""
    from tests.mutation import tiny_models

    base = root / "base"
    model = tiny_models.create_model("llava")
    tiny_models.save("llava", model, base)
    train_lora(model, base, root / "checkpoint", r".*language_model.*\.(q_proj|v_proj)$")
    write_trainer_state(root / "checkpoint")
    write_swift(root / "data" / "train.jsonl", draw_samples(_ROUNDS))
    write_heldout(root)


def _write_llama_factory_run(root: Path) -> None:
    """A full fine-tune of Qwen2-VL's language model by LLaMA-Factory, on transformers 4.49."""
    from tests.mutation import tiny_models

    family, version = "qwen2_vl", "4.49.0"
    model = tiny_models.create_model(family)
    for name in ("base", "checkpoint"):
        if name == "checkpoint":
            tiny_models.perturb(model, only="language_model")
        tiny_models.save(family, model, root / name)
        as_qwen_4(root / name, version)
    # What the run used at most: LLaMA-Factory itself leaves the base's limit here.
    limit = {"max_pixels": 589824, "size": {"shortest_edge": 3136, "longest_edge": 589824}}
    edit_json(
        root / "checkpoint" / "preprocessor_config.json", lambda content: content.update(limit)
    )
    write_llama_factory(root / "checkpoint", root / "base", family)
    write_sharegpt(root / "data" / "train.json", draw_samples(_ROUNDS))
    write_heldout(root)


SUBJECTS = (
    Subject(
        "swift-lora",
        "Qwen2.5-VL, ms-swift adapter",
        lambda root: _write_run(root, merged=False),
        checkpoint="run/checkpoint-10",
    ),
    Subject(
        "swift-merged",
        "Qwen2.5-VL, ms-swift merge beside its adapter",
        lambda root: _write_run(root, merged=True),
        checkpoint="run/checkpoint-10-merged",
    ),
    Subject("llava-lora", "LLaVA-1.5, PEFT adapter", _write_llava_lora),
    Subject(
        "llama-factory",
        "Qwen2-VL, LLaMA-Factory run with the vision tower frozen",
        _write_llama_factory_run,
        data="data:train",
    ),
)
