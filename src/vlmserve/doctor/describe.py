"""What a checkpoint is, in a paragraph."""

import math
from collections import Counter

from vlmserve.checkpoint.source import Checkpoint
from vlmserve.errors import CheckpointError

_BILLION = 1e9


def describe_checkpoint(checkpoint: Checkpoint) -> str:
    """Say in a few sentences what a checkpoint directory holds and where it comes from."""
    kind = _adapter_kind(checkpoint) if checkpoint.adapter is not None else _model_kind(checkpoint)
    return " ".join(sentence for sentence in (kind, _training(checkpoint)) if sentence)


def _title(checkpoint: Checkpoint) -> str:
    family = checkpoint.family
    if family is None:
        return f"{checkpoint.architecture} (a family that vlmserve knows no tensors of)"
    return f"{family.title} ({checkpoint.architecture})"


def _model_kind(checkpoint: Checkpoint) -> str:
    saved = checkpoint.config.get("transformers_version")
    by = f", saved by transformers {saved}" if saved else ""
    return f"A full {_title(checkpoint)} model: {_size(checkpoint)}{by}."


def _adapter_kind(checkpoint: Checkpoint) -> str:
    adapter = checkpoint.adapter
    if adapter is None:
        return ""
    try:
        count = len(adapter.pairs)
        modules = f"{count} module{'' if count == 1 else 's'}"
        parts = ["vision tower"] if adapter.touches_vision_tower else []
        parts += ["projector"] if adapter.touches_projector else []
        where = f", {' and '.join(parts)} included" if parts else ", the language model's alone"
    except CheckpointError:
        modules, where = "modules unknown: its weights cannot be read", ""
    return (
        f"A LoRA adapter of rank {adapter.rank} (alpha {adapter.alpha:g}; {modules}{where}) for a "
        f"{_title(checkpoint)} model of {_size(checkpoint)}, {checkpoint.model.path}, named by "
        f"{checkpoint.base_ref_source}."
    )


def _size(checkpoint: Checkpoint) -> str:
    try:
        tensors = checkpoint.tensors
        files = len(checkpoint.weights.shards)
    except CheckpointError:
        return "weights that cannot be read"
    parameters: Counter[str] = Counter()
    for tensor in tensors.values():
        parameters[tensor.dtype] += math.prod(tensor.shape)
    total = parameters.total()
    amount = f"{total / _BILLION:.1f} billion" if total >= _BILLION / 10 else f"{total:,}"
    types = " and ".join(dtype for dtype, _ in parameters.most_common(2))
    return f"{amount} parameters, {types}, in {files} file{'' if files == 1 else 's'}"


def _training(checkpoint: Checkpoint) -> str:
    training = checkpoint.training
    if training is None:
        return "Nothing tells how it was trained."
    facts = {
        "template": training.template,
        "max_length": training.max_length,
        "max_pixels": training.max_pixels,
    }
    known = ", ".join(f"{key} {value}" for key, value in facts.items() if value is not None)
    framework = training.framework + (f" {training.version}" if training.version else "")
    if training.framework == "transformers":
        framework = "the transformers Trainer"
    origin = f" from {training.model}" if training.model else ""
    return f"Trained with {framework}{origin}{f' ({known})' if known else ''}."
