"""Directories of a training run that hold something, and no model that can be loaded.

People point at what their trainer left: the run's own directory, DeepSpeed's shards, a projector
without its language model, an adapter whose base is elsewhere. Each is told what it is, and what
makes a checkpoint of it.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vlmserve.checkpoint.adapter import CONFIG_NAME
from vlmserve.checkpoint.files import read_json_if_present
from vlmserve.checkpoint.weights import (
    NON_LORA_NAME,
    PICKLE_INDEX_NAME,
    PROJECTOR_NAME,
    WeightFiles,
    find_weights,
)

LeftoverKind = Literal["run", "zero shards", "projector", "parts", "weights", "adapter"]
"""``run``: a directory of checkpoints; ``zero shards``: DeepSpeed's; ``projector``: LLaVA's alone;
``parts``: LLaVA's parts without their adapter; ``weights``: without a ``config.json``;
``adapter``: without its base."""

CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)(-merged)?")
"""Names of the directories that a run saves to: the step, and whether ms-swift merged it."""

_CONVERT = "python -m deepspeed.utils.zero_to_fp32 {source} {target} --safe_serialization"


@dataclass(frozen=True)
class Leftover:
    """What a directory holds that cannot be loaded as it is."""

    kind: LeftoverKind
    what: str
    """What it is, to go before a full stop: ``A training run's directory with 3 checkpoints``."""

    title: str
    """What is wrong, in a line."""

    file: str
    """The file or directory that shows it, relative to the directory or a path."""

    value: str
    """What is seen there."""

    remedy: str
    """A command or an edit."""


def find_leftover(directory: Path) -> Leftover | None:
    """Say what a directory without ``config.json`` and adapter is, or ``None`` for anything else.

    Raises:
        CheckpointError: A file that has to be looked into is broken.
    """
    checkpoints = find_checkpoints(directory)
    if checkpoints:
        return _run(directory, checkpoints)
    shards = find_zero_shards(directory)
    weights = find_weights(directory)
    if shards and not weights.files:
        return _zero(directory, shards)
    if (directory / NON_LORA_NAME).is_file():
        return _parts()
    projectors = [path for path in _projectors(directory) if path.is_file()]
    if projectors:
        return projector_leftover(projectors)
    return _bare_weights(weights) if weights.files else None


def find_checkpoints(directory: Path) -> list[Path]:
    """The checkpoints of a run, by step; those one level down for a directory of runs.

    Returns:
        ``checkpoint-N`` and ``checkpoint-N-merged`` directories.
    """
    for pattern in ("checkpoint-*", "*/checkpoint-*"):
        found = [
            (int(match[1]), path)
            for path in directory.glob(pattern)
            if (match := CHECKPOINT_NAME.fullmatch(path.name)) is not None and path.is_dir()
        ]
        if found:
            return [path for _, path in sorted(found)]
    return []


def find_zero_shards(directory: Path) -> list[Path]:
    """DeepSpeed's shards of parameters and optimizer, sorted."""
    return sorted(directory.glob("global_step*/*_states.pt"))


def convert_zero(source: Path) -> str:
    """The command that gathers DeepSpeed's shards into weights."""
    return _CONVERT.format(source=source, target=f"{source}-full")


def projector_leftover(projectors: list[Path]) -> Leftover:
    """LLaVA's projector without the language model that it belongs to."""
    name = projectors[-1].name
    return Leftover(
        kind="projector",
        what=f"The projector of an original LLaVA alone, {name}, from the first stage of its "
        "training; language model and vision tower are not in it",
        title="only a projector: no language model, no vision tower",
        file=name,
        value="the weights of mm_projector alone",
        remedy="go on to the second stage from it (--pretrain_mm_mlp_adapter "
        f"{projectors[-1]}), or build the whole model with LLaVA's own load_pretrained_model("
        "model_path, model_base=BASE) and save_pretrained, and convert that",
    )


def missing_base(ref: str | None, reason: str, hint: str | None) -> Leftover:
    """An adapter whose base is not at hand."""
    named = f"its base, {ref}, is not on this machine" if ref else "nothing names its base"
    return Leftover(
        kind="adapter",
        what=f"An adapter; {named}",
        title=f"an adapter without its base: {named}",
        file=CONFIG_NAME,
        value=reason,
        remedy=hint or "give the base with --base-model DIR",
    )


def _run(directory: Path, checkpoints: list[Path]) -> Leftover:
    last = checkpoints[-1]
    names = [str(path.relative_to(directory)) for path in checkpoints]
    count = "1 checkpoint" if len(names) == 1 else f"{len(names)} checkpoints"
    best = read_json_if_present(last / "trainer_state.json").get("best_model_checkpoint")
    best_path = directory / last.parent.relative_to(directory) / Path(str(best)).name
    said = ""
    if isinstance(best, str) and best_path in checkpoints:
        last = best_path
        said = f"; {best_path.name} was the best in its evaluation"
    return Leftover(
        kind="run",
        what=f"The directory of a training run with {count}, {names[0]}"
        + (f" to {names[-1]}" if len(names) > 1 else "")
        + said,
        title=f"a training run's directory, not a checkpoint: it holds {count}",
        file=names[-1],
        value=f"{count}; no config.json and no adapter_config.json beside them",
        remedy=f"give one of them: --ckpt {last}",
    )


def _zero(directory: Path, shards: list[Path]) -> Leftover:
    return Leftover(
        kind="zero shards",
        what=f"What DeepSpeed needs to go on training: {len(shards)} shards of parameters and "
        f"optimizer in {shards[0].parent.name}, no weights and no config.json",
        title="only DeepSpeed's own shards, no weights",
        file=str(shards[0].relative_to(directory)),
        value="a shard of the trainer's state",
        remedy=f"run: {convert_zero(directory)}; then copy config.json, tokenizer and processor "
        "of the model it was trained from beside the weights",
    )


def _parts() -> Leftover:
    return Leftover(
        kind="parts",
        what=f"Parts of an original LLaVA's LoRA run: {NON_LORA_NAME} holds what was trained "
        "besides the adapter, and the adapter itself is not here",
        title="parts of a LoRA run without their adapter",
        file=NON_LORA_NAME,
        value="no adapter_config.json and no config.json beside it",
        remedy="put adapter_config.json, adapter_model.safetensors and config.json of the same run "
        "beside it, and merge them with LLaVA's scripts/merge_lora_weights.py",
    )


def _bare_weights(weights: WeightFiles) -> Leftover:
    first = weights.files[0].name
    what = f"Weights without a config.json ({len(weights.files)} files)"
    if (weights.directory / PICKLE_INDEX_NAME).is_file() or len(weights.files) == 1:
        what = f"Weights without a config.json, {first}"
    return Leftover(
        kind="weights",
        what=what,
        title="weights without a config.json",
        file="config.json",
        value="no such file; nothing tells what model the weights are of",
        remedy="copy config.json, tokenizer and processor of the model it was trained from into "
        "the directory",
    )


def _projectors(directory: Path) -> list[Path]:
    """``mm_projector.bin``; in a directory named ``mm_projector`` there is one for each step."""
    if directory.name == "mm_projector":
        return sorted(directory.glob("checkpoint-*.bin"))
    return [directory / PROJECTOR_NAME]
