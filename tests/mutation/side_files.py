"""What training frameworks leave beside the weights, with the keys that they write."""

import json
from pathlib import Path
from typing import Any

import yaml

from tests.mutation.mutation import write_json

_STEPS = 10


def log_history() -> list[dict[str, Any]]:
    """The log of a run that learned something, as the transformers Trainer writes it."""
    return [
        {
            "epoch": step / _STEPS,
            "grad_norm": round(2.0 / step + 0.3, 4),
            "learning_rate": 1e-5 * (1 - step / _STEPS),
            "loss": round(1.5 / step + 0.2, 4),
            "step": step,
        }
        for step in range(1, _STEPS + 1)
    ]


def write_trainer_state(directory: Path) -> None:
    """Write ``trainer_state.json``."""
    state = {
        "best_metric": None,
        "epoch": 1.0,
        "global_step": _STEPS,
        "is_local_process_zero": True,
        "is_world_process_zero": True,
        "log_history": log_history(),
        "logging_steps": 1,
        "max_steps": _STEPS,
        "num_train_epochs": 1,
        "train_batch_size": 1,
    }
    write_json(directory / "trainer_state.json", state)


def write_swift_args(directory: Path, base: Path, model_type: str, **changes: Any) -> None:
    """Write ms-swift's ``args.json``: the arguments that tell something about the checkpoint.

    Names and defaults as in ms-swift 3.9 (swift/llm/argument).
    """
    args = {
        "output_dir": str(directory.parent),
        "per_device_train_batch_size": 1,
        "learning_rate": 0.0001,
        "weight_decay": 0.1,
        "num_train_epochs": 1.0,
        "max_steps": -1,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.05,
        "seed": 42,
        "bf16": True,
        "tuner_backend": "peft",
        "vit_gradient_checkpointing": None,
        "model": str(base),
        "model_type": model_type,
        "model_revision": None,
        "task_type": "causal_lm",
        "torch_dtype": "bfloat16",
        "attn_impl": None,
        "new_special_tokens": [],
        "rope_scaling": None,
        "max_model_len": None,
        "template": model_type,
        "system": "You are a helpful assistant.",
        "max_length": 2048,
        "truncation_strategy": "delete",
        "max_pixels": None,
        "agent_template": None,
        "norm_bbox": None,
        "use_chat_template": True,
        "padding_side": "right",
        "loss_scale": "default",
        "template_backend": "swift",
        "dataset": ["data/train.jsonl"],
        "val_dataset": [],
        "model_kwargs": {},
        "packing": False,
        "train_type": "lora",
        "freeze_parameters": [],
        "freeze_llm": False,
        "freeze_vit": True,
        "freeze_aligner": True,
        "target_modules": ["all-linear"],
        "modules_to_save": [],
        "lora_rank": 8,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "lora_bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "init_weights": True,
        "swift_version": "3.9.3",
        "model_suffix": base.name,
        "model_info": f"ModelInfo(model_type='{model_type}', model_dir='{base}')",
    }
    write_json(directory / "args.json", {**args, **changes})


def write_llama_factory(directory: Path, base: Path, template: str, **changes: Any) -> None:
    """Write what LLaMA-Factory's web page leaves: settings, logs and results."""
    settings = {
        "bf16": True,
        "cutoff_len": 2048,
        "dataset": "train",
        "dataset_dir": "data",
        "ddp_timeout": 180000000,
        "do_train": True,
        "finetuning_type": "full",
        "flash_attn": "auto",
        "freeze_multi_modal_projector": True,
        "freeze_vision_tower": True,
        "image_max_pixels": 589824,
        "image_min_pixels": 1024,
        "learning_rate": 1e-5,
        "logging_steps": 1,
        "lr_scheduler_type": "cosine",
        "max_grad_norm": 1.0,
        "model_name_or_path": str(base),
        "num_train_epochs": 1.0,
        "optim": "adamw_torch",
        "output_dir": str(directory),
        "packing": False,
        "per_device_train_batch_size": 2,
        "plot_loss": True,
        "report_to": "none",
        "save_steps": 100,
        "stage": "sft",
        "template": template,
        "trust_remote_code": True,
        "video_max_pixels": 65536,
        "video_min_pixels": 256,
        "warmup_steps": 0,
    }
    text = yaml.safe_dump({**settings, **changes})
    (directory / "training_args.yaml").write_text(text, encoding="utf-8")
    lines = [
        json.dumps({"current_steps": entry["step"], "total_steps": _STEPS, **entry}) + "\n"
        for entry in log_history()
    ]
    (directory / "trainer_log.jsonl").write_text("".join(lines), encoding="utf-8")
    results = {"epoch": 1.0, "train_loss": 0.64, "train_runtime": 12.3, "total_flos": 1.0e12}
    for name in ("all_results.json", "train_results.json"):
        write_json(directory / name, results)
    write_trainer_state(directory)
