"""What a checkpoint is, in a paragraph."""

import math
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from vlmserve.checkpoint.adapter import AdapterInfo
from vlmserve.checkpoint.files import read_json_if_present
from vlmserve.checkpoint.leftovers import CHECKPOINT_NAME
from vlmserve.checkpoint.source import Checkpoint
from vlmserve.checkpoint.tensors import Shape, TensorInfo, read_header
from vlmserve.checkpoint.torch_pickle import read_pickle_header
from vlmserve.checkpoint.weights import NON_LORA_NAME, PROJECTOR_NAME
from vlmserve.errors import CheckpointError

_BILLION = 1e9
# Where trainers put what they trained besides an adapter: LLaVA, and ms-swift with freeze_vit false
# (ms-swift#4482).
_BESIDE_ADAPTER = (NON_LORA_NAME, PROJECTOR_NAME, "vit.safetensors")
# Where ms-swift's args.json says what was trained: its name of the setting changed twice.
_TUNER_KEYS = ("tuner_type", "train_type", "sft_type")


def describe_checkpoint(checkpoint: Checkpoint) -> str:
    """Say in a few sentences what a checkpoint directory holds and where it comes from."""
    if checkpoint.leftover is not None and checkpoint.adapter is None:
        sentences = [_leftover(checkpoint)]
    elif checkpoint.adapter is not None:
        sentences = [_adapter_kind(checkpoint, checkpoint.adapter)]
    else:
        sentences = [_model_kind(checkpoint)]
    sentences += [_training(checkpoint), _served(checkpoint)]
    return " ".join(sentence for sentence in sentences if sentence)


def _leftover(checkpoint: Checkpoint) -> str:
    what = "" if checkpoint.leftover is None else f"{checkpoint.leftover.what}."
    return (
        f"{what} By config.json it is {_article(checkpoint)} {_title(checkpoint)}."
        if checkpoint.architecture
        else what
    )


def _title(checkpoint: Checkpoint) -> str:
    family = checkpoint.family
    if family is None:
        return f"{checkpoint.architecture} (a family that vlmserve knows no tensors of)"
    found: Mapping[str, Shape] = {}
    with suppress(CheckpointError):
        found = {family.canonical(name): info.shape for name, info in checkpoint.tensors.items()}
    variant = family.variant(checkpoint.config, found, checkpoint.model.path)
    said = checkpoint.architecture if variant is None else f"{variant}; {checkpoint.architecture}"
    return f"{family.title} ({said})"


def _article(checkpoint: Checkpoint) -> str:
    """``a`` or ``an``, for what ``_title`` says."""
    name = checkpoint.architecture if checkpoint.family is None else checkpoint.family.title
    return "an" if name.startswith((*"AEIOaeio", "mPLUG")) else "a"


def _model_kind(checkpoint: Checkpoint) -> str:
    saved = checkpoint.config.get("transformers_version")
    by = f", saved by transformers {saved}" if saved else ""
    layout = f" in the layout of transformers {_layout(checkpoint)}" if by else ""
    step = CHECKPOINT_NAME.fullmatch(checkpoint.path.name)
    when = f", step {step[1]} of its run" if step is not None else ""
    return f"{_run(checkpoint)} {_title(checkpoint)} model: {_size(checkpoint)}{by}{layout}{when}."


def _run(checkpoint: Checkpoint) -> str:
    """``A full`` model, or more where the trainer tells how it came about."""
    arguments = {}
    with suppress(CheckpointError):
        arguments = read_json_if_present(checkpoint.path / "args.json")
    tuner = next((arguments[key] for key in _TUNER_KEYS if key in arguments), None)
    if checkpoint.path.name.endswith("-merged") or (tuner is not None and tuner != "full"):
        return "A merged adapter, that is a full"
    return "A full"


def _layout(checkpoint: Checkpoint) -> str:
    """``5.x`` or ``4.x``: by settings that transformers 5 has renamed."""
    sections = (checkpoint.config, checkpoint.config.get("text_config"))
    is_new = any(isinstance(part, Mapping) and "rope_parameters" in part for part in sections)
    return "5.x" if is_new else "4.x"


def _adapter_kind(checkpoint: Checkpoint, adapter: AdapterInfo) -> str:
    try:
        count = len(adapter.pairs)
        modules = f"{count} module{'' if count == 1 else 's'}"
        parts = ["vision tower"] if adapter.touches_vision_tower else []
        parts += ["projector"] if adapter.touches_projector else []
        where = f", {' and '.join(parts)} included" if parts else ", the language model's alone"
    except CheckpointError:
        modules, where = "modules unknown: its weights cannot be read", ""
    kind = f"A LoRA adapter of rank {adapter.rank} (alpha {adapter.alpha:g}; {modules}{where})"
    step = CHECKPOINT_NAME.fullmatch(checkpoint.path.name)
    kind += f", step {step[1]} of its run," if step is not None else ""
    if checkpoint.base is None:
        title = f" for {_article(checkpoint)} {_title(checkpoint)} model"
        model = title if checkpoint.architecture else ""
        named = f"its base, {checkpoint.base_ref}," if checkpoint.base_ref else "its base"
        return f"{kind}{model}; {named} is not at hand."
    return (
        f"{kind} for {_article(checkpoint)} {_title(checkpoint)} model of {_size(checkpoint)}, "
        f"{checkpoint.model.path}, named by {checkpoint.base_ref_source}."
    )


def _size(checkpoint: Checkpoint) -> str:
    try:
        tensors = checkpoint.tensors
        files = len(checkpoint.weights.files)
    except CheckpointError:
        return "weights that cannot be read"
    parameters: Counter[str] = Counter()
    for tensor in tensors.values():
        parameters[tensor.dtype] += math.prod(tensor.shape)
    total = parameters.total()
    amount = f"{total / _BILLION:.1f} billion" if total >= _BILLION / 10 else f"{total:,}"
    types = " and ".join(dtype for dtype, _ in parameters.most_common(2))
    kind = "" if checkpoint.weights.shards else " pickled"
    return f"{amount} parameters, {types}, in {files}{kind} file{'' if files == 1 else 's'}"


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


def _served(checkpoint: Checkpoint) -> str:
    """What of the directory vLLM would load."""
    family = checkpoint.family
    if family is not None and not family.served:
        return f"vLLM 0.32 has no such model.{_beside(checkpoint)}"
    if checkpoint.leftover is not None:
        return f"vLLM can load nothing from it as it is.{_beside(checkpoint)}"
    if checkpoint.adapter is not None:
        return f"Of this directory vLLM loads the adapter's weights alone.{_beside(checkpoint)}"
    return "" if family is None else "vLLM loads all of its weight files."


def _beside(checkpoint: Checkpoint) -> str:
    """Weights beside an adapter, which are no part of it and which vLLM leaves out."""
    if checkpoint.adapter is None:
        return ""
    paths = [checkpoint.path / name for name in _BESIDE_ADAPTER]
    said = [_contents(path) for path in paths if path.is_file()]
    if not said:
        return ""
    verb = "was" if len(said) == 1 else "were"
    return f" {' and '.join(said)} {verb} trained beside the adapter and {verb} left out of it."


def _contents(path: Path) -> str:
    tensors: Mapping[str, TensorInfo]
    try:
        is_pickle = path.suffix == ".bin"
        tensors = read_pickle_header(path) if is_pickle else read_header(path)
    except CheckpointError:
        return path.name
    return f"{path.name} ({len(tensors)} tensors)"
