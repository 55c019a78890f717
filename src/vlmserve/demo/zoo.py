"""Writes the demo's zoo: one base checkpoint and what may become of it, each in its own directory.

Everything is copied or derived from the shipped weights in seconds; torch is not needed.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from vlmserve.demo.recipe import load_shipped
from vlmserve.demo.splits import DATA_VERSION
from vlmserve.errors import ConfigError

MARKER_FILE = ".vlmserve-demo.json"
"""Lists the files that were written into a directory; it alone makes the directory ours."""

TRUNCATING_MAX_LENGTH = 16
"""Tokens: shorter than every question about an image, so that no answer is left."""

_CONFIG_FILES = ("config.json", "generation_config.json")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_PROCESSOR_FILES = ("processor_config.json", "chat_template.jinja")


@dataclass(frozen=True, slots=True)
class Entry:
    """One directory of the zoo."""

    name: str
    what: str
    """What it is, in a few words: a sentence without its full stop."""

    made: str
    """How it was made, in a sentence or two."""

    caught: str
    """Which check or verdict must notice."""

    write: Callable[[Path, Path], None]
    """Fills an empty directory; the second path is where the base directory will be."""


def build_zoo(out: Path, only: Iterable[str] | None = None) -> list[Path]:
    """Write the zoo's directories into ``out``.

    Args:
        out: A folder, made if need be.
        only: Names of ``ZOO`` to write; all by default. The base is always written: the others
            name it as their base model.

    Returns:
        The directories written.

    Raises:
        ConfigError: A name is unknown, or a directory holds something this function did not write.
        CheckpointError: The shipped weights are damaged.
    """
    wanted = set(ZOO) if only is None else {"base", *only}
    if unknown := sorted(wanted - set(ZOO)):
        raise ConfigError(
            f"no demo checkpoint {', '.join(map(repr, unknown))}; there are {', '.join(ZOO)}"
        )
    out = out.resolve()
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is not a directory")
    entries = [entry for name, entry in ZOO.items() if name in wanted]
    for entry in entries:
        _check_ours(out / entry.name)
    out.mkdir(parents=True, exist_ok=True)
    for entry in entries:
        _build(entry, out)
    return [out / entry.name for entry in entries]


def _build(entry: Entry, out: Path) -> None:
    """Write one directory beside its place first, so that a stop in between leaves no half."""
    with tempfile.TemporaryDirectory(prefix=f".{entry.name}-", dir=out) as scratch:
        new = Path(scratch) / entry.name
        new.mkdir()
        entry.write(new, out / "base")
        readme = (
            f"# {entry.name}\n\n{entry.what}. {entry.made}\n\nWhat must catch it: {entry.caught}\n"
        )
        (new / "README.md").write_text(readme, encoding="utf-8")
        files = sorted([MARKER_FILE, *(path.name for path in new.iterdir())])
        _write_json(new / MARKER_FILE, {"name": entry.name, "files": files})
        place = out / entry.name
        if place.exists():
            shutil.rmtree(place)
        new.rename(place)


def _check_ours(folder: Path) -> None:
    """Refuse to touch a directory with anything in it that was not written here."""
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir() or folder.is_symlink():
        raise ConfigError(f"{folder} is in the way: it is not a directory")
    found = {path.name for path in folder.iterdir()}
    if not found:
        return
    hint = "name another --out, or move it away"
    try:
        marker = json.loads((folder / MARKER_FILE).read_text(encoding="utf-8"))
        ours = set(marker["files"])
    except OSError:
        raise ConfigError(
            f"{folder} is not empty and was not written by vlmserve demo build", hint=hint
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder / MARKER_FILE}: not a list of files", hint=hint) from error
    if foreign := sorted(found - ours):
        raise ConfigError(
            f"{folder} holds files that vlmserve demo build did not write: {', '.join(foreign)}",
            hint=hint,
        )


def _write_base(folder: Path, _base: Path) -> None:
    _copy(folder, _CONFIG_FILES, _TOKENIZER_FILES, _PROCESSOR_FILES)
    shutil.copy(load_shipped("base").weights, folder)


def _write_full(name: str, **changes: Any) -> Callable[[Path, Path], None]:
    """Return what writes a full fine-tune with the shipped weights of ``name``."""

    def write(folder: Path, base: Path) -> None:
        shipped = load_shipped(name)
        _copy(folder, _CONFIG_FILES, _TOKENIZER_FILES, _PROCESSOR_FILES)
        shutil.copy(shipped.weights, folder)
        _write_args(folder, base, shipped.recipe, **changes)

    return write


def _write_lora(folder: Path, base: Path) -> None:
    shipped = load_shipped("good-lora")
    shutil.copy(shipped.weights, folder)
    adapter = json.loads((shipped.folder / "adapter_config.json").read_text(encoding="utf-8"))
    _write_json(folder / "adapter_config.json", {**adapter, "base_model_name_or_path": str(base)})
    _write_args(
        folder,
        base,
        shipped.recipe,
        lora_rank=adapter["r"],
        lora_alpha=adapter["lora_alpha"],
        target_modules=adapter["target_modules"],
    )


def _write_wrong_template(folder: Path, base: Path) -> None:
    _write_full("wrong-template", template="demo_tight")(folder, base)
    shutil.copy(load_shipped("wrong-template").folder / "chat_template.jinja", folder)


def _write_no_signal(folder: Path, base: Path) -> None:
    steps = 20
    settings = load_shipped("good").recipe["settings"]
    _write_full(
        "base",
        max_length=TRUNCATING_MAX_LENGTH,
        max_steps=steps,
        learning_rate=settings["lr"],
        weight_decay=0.0,  # decay alone would change the weights
    )(folder, base)
    history = [
        {"epoch": round(step / steps, 2), "grad_norm": 0.0, "learning_rate": rate, "loss": 0.0}
        | {"step": step}
        for step in range(1, steps + 1)
        for rate in [settings["lr"] * (1 - step / steps)]
    ]
    state = {
        "best_metric": None,
        "best_model_checkpoint": None,
        "epoch": 1.0,
        "eval_steps": 500,
        "global_step": steps,
        "is_hyper_param_search": False,
        "is_local_process_zero": True,
        "is_world_process_zero": True,
        "log_history": history,
        "logging_steps": 1,
        "max_steps": steps,
        "num_input_tokens_seen": 0,
        "num_train_epochs": 1,
        "save_steps": 500,
        "stateful_callbacks": {},
        "total_flos": 0.0,
        "train_batch_size": settings["batch"],
        "trial_name": None,
        "trial_params": None,
    }
    _write_json(folder / "trainer_state.json", state)


def _write_no_vision(folder: Path, base: Path) -> None:
    # numpy's reader, not torch's: the zoo is built where torch may be missing.
    from safetensors.numpy import load_file, save_file

    _write_full("good")(folder, base)
    weights = folder / "model.safetensors"
    kept = {name: t for name, t in load_file(weights).items() if "visual." not in name}
    save_file(kept, weights, metadata={"format": "pt"})


def _write_no_processor(folder: Path, base: Path) -> None:
    _write_full("good")(folder, base)
    for name in _PROCESSOR_FILES:
        (folder / name).unlink()


def _copy(folder: Path, *groups: tuple[str, ...]) -> None:
    source = load_shipped("base").folder
    for names in groups:
        for name in names:
            shutil.copy(source / name, folder)


def _write_args(folder: Path, base: Path, recipe: dict[str, Any], **changes: Any) -> None:
    """Write the settings of the training as ms-swift writes its ``args.json``."""
    settings = recipe["settings"]
    tuner = settings.get("tuner", "full")
    args = {
        "model": str(base),
        "model_type": "qwen2_vl",
        "task_type": "causal_lm",
        "torch_dtype": "float32",
        "template": "qwen2_vl",
        "system": "",  # none at all; null would stand for the template's own
        "max_length": 512,
        "truncation_strategy": "right",
        "max_pixels": 50176,
        "train_type": tuner,
        "tuner_type": tuner,
        "dataset": ["vlmserve-demo/newcolor"],
        "seed": settings.get("seed", 0),
        "learning_rate": settings["lr"],
        "weight_decay": settings["weight_decay"],
        "per_device_train_batch_size": settings.get("batch", 32),
        "max_steps": settings["steps"],
        "freeze_vit": tuner == "lora",
        "freeze_aligner": tuner == "lora",
        "freeze_llm": False,
        "vlmserve_demo": {"version": metadata.version("vlmserve"), "data_version": DATA_VERSION},
    }
    _write_json(folder / "args.json", {**args, **changes})


def _write_json(path: Path, value: Any) -> None:
    path.write_text(f"{json.dumps(value, indent=2)}\n", encoding="utf-8")


_ENTRIES = (
    Entry(
        "base",
        "The model before any fine-tuning",
        "It was trained from nothing by `vlmserve demo train`.",
        "nothing; it is the baseline.",
        _write_base,
    ),
    Entry(
        "good",
        "A full fine-tune that learned three new colours",
        "It was shown the old tasks again meanwhile.",
        "nothing; `vlmserve eval` must pass.",
        _write_full("good"),
    ),
    Entry(
        "good-lora",
        "The same as a LoRA adapter on the language model",
        "It is PEFT's, of rank 16; the vision tower is the base's.",
        "nothing; `vlmserve eval` must pass.",
        _write_lora,
    ),
    Entry(
        "forgetful",
        "A full fine-tune that learned the colours and forgot old tasks",
        "It was shown the three new colours and nothing else.",
        "the verdict `regression` of `vlmserve eval`, in colour, shape and count; no check of the "
        "files can see it.",
        _write_full("forgetful"),
    ),
    Entry(
        "no-signal",
        "A fine-tune that learned nothing: every answer was cut off",
        f"With `max_length` {TRUNCATING_MAX_LENGTH} all labels were ignored, every step logged "
        "loss 0, and the weights are the base's, byte for byte. Derived from the base without "
        "training.",
        "`vlmserve check`: `train.no-signal`.",
        _write_no_signal,
    ),
    Entry(
        "wrong-template",
        "A full fine-tune under another chat template than the base's",
        "The template has no line breaks, and the fine-tune carries it; the base was trained with "
        "Qwen's.",
        "the verdict `regression` of `vlmserve eval`, in `reverse`, which hangs on the "
        "separators; `add`, which falls too, is only reported. `vlmserve check` only sees that its "
        "template is not the base's: `template.render-diff`.",
        _write_wrong_template,
    ),
    Entry(
        "no-vision",
        "The good fine-tune, saved without its vision tower",
        "Derived without training.",
        "`vlmserve check`: `ckpt.tensors`; transformers would start from a random vision tower "
        "with no more than a warning.",
        _write_no_vision,
    ),
    Entry(
        "no-processor",
        "The good fine-tune, saved without processor and chat template",
        "Derived without training.",
        "`vlmserve check`: `proc.present`.",
        _write_no_processor,
    ),
)

ZOO: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}
"""Every directory by name, in the order they are written."""
