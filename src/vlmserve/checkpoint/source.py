"""What a checkpoint reference is: a full model, or an adapter and the base it is laid on."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vlmserve.checkpoint.adapter import CONFIG_NAME, AdapterInfo, load_adapter
from vlmserve.checkpoint.families import (
    Family,
    find_architecture,
    find_family,
    unsupported_reason,
)
from vlmserve.checkpoint.files import read_json
from vlmserve.checkpoint.provenance import TrainingInfo, load_training
from vlmserve.checkpoint.tensors import TensorInfo
from vlmserve.checkpoint.weights import WeightFiles, find_weights, read_tensors
from vlmserve.errors import CheckpointError

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_STEP = re.compile(r"checkpoint-\d+(-merged)?")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB_SNAPSHOT = re.compile(r"models--(?:.+?--)?(?P<name>.+)")


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint on disk."""

    path: Path
    """The directory, absolute; symbolic links in it are kept."""

    name: str
    """A name to serve it under, from the directory's; letters, digits, ``.``, ``_`` and ``-``."""

    architecture: str
    """The model class that vLLM would build; the base's for an adapter."""

    model_type: str
    config: Mapping[str, Any]
    """``config.json`` of the model that is loaded: the base's for an adapter."""

    adapter: AdapterInfo | None
    base: "Checkpoint | None"
    """An adapter's base; for a full fine-tune what it was trained from, where that is known and on
    disk."""

    base_ref: str | None
    """How the base was named, before ``path_map``; ``None`` when nothing names it."""

    base_ref_source: str | None
    """What named it, such as ``adapter_config.json: base_model_name_or_path``."""

    training: TrainingInfo | None

    @property
    def model(self) -> "Checkpoint":
        """The full model that is loaded: the base of an adapter, or this checkpoint."""
        if self.adapter is not None and self.base is not None:
            return self.base
        return self

    @property
    def family(self) -> Family | None:
        """The model's family, or ``None`` when it is not known here."""
        return find_family(self.config)

    @cached_property
    def weights(self) -> WeightFiles:
        """The weight files of the model that is loaded.

        Raises:
            CheckpointError: The index is broken.
        """
        return find_weights(self.model.path)

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The tensors of the model that is loaded, by name, from the headers.

        Raises:
            CheckpointError: A weight file is missing, broken or pickled.
        """
        return read_tensors(self.weights)


def load_checkpoint(
    ref: str | Path,
    *,
    base_model: str | Path | None = None,
    path_map: Mapping[str, str] | None = None,
) -> Checkpoint:
    """Read what a checkpoint is. Weights are not opened.

    Args:
        ref: A directory, or a hub id that lies in the local Hugging Face cache.
        base_model: What the checkpoint was trained from, a directory or a hub id; wins over what
            the checkpoint itself names.
        path_map: Prefixes of recorded paths that have moved, old to new; the longest match counts.

    Raises:
        CheckpointError: There is no such checkpoint, a file is missing or broken, or an adapter's
            base cannot be found; the message names path and file.
    """
    path = _resolve(str(ref), f"{ref}")
    path_map = path_map or {}
    training = load_training(path)
    if (path / CONFIG_NAME).is_file():
        return _load_adapter_checkpoint(path, training, base_model, path_map)
    checkpoint = _load_model(path, training)
    base, base_ref, source = _find_training_base(path, training, base_model, path_map)
    return replace(checkpoint, base=base, base_ref=base_ref, base_ref_source=source)


def check_supported(checkpoint: Checkpoint) -> None:
    """Refuse an architecture that is known to be absent from vLLM 0.32.

    Raises:
        CheckpointError: It is absent; the hint says what to do.
    """
    reason = unsupported_reason(checkpoint.architecture)
    if reason is not None:
        raise CheckpointError(
            f"{checkpoint.model.path}: vLLM 0.32 has no {checkpoint.architecture}", hint=reason
        )


def _load_model(path: Path, training: TrainingInfo | None) -> Checkpoint:
    """A full model, without looking for what it was trained from."""
    config = _read_config(path)
    return Checkpoint(
        path=path,
        name=_served_name(path),
        architecture=_architecture(config, path),
        model_type=str(config.get("model_type", "")),
        config=config,
        adapter=None,
        base=None,
        base_ref=None,
        base_ref_source=None,
        training=training,
    )


def _load_adapter_checkpoint(
    path: Path,
    training: TrainingInfo | None,
    base_model: str | Path | None,
    path_map: Mapping[str, str],
) -> Checkpoint:
    adapter = load_adapter(path)
    base_ref, source = _name_base(adapter.base_ref, training, base_model)
    if base_ref is None or source is None:
        raise CheckpointError(
            f"{path / CONFIG_NAME}: base_model_name_or_path is empty and nothing else names the "
            "base model",
            hint="give it with --base-model DIR",
        )
    base_path = _resolve_base(base_ref, source, path, path_map)
    if (base_path / CONFIG_NAME).is_file():
        raise CheckpointError(
            f"{base_path}: the base of adapter {path} is an adapter itself",
            hint="merge it into its own base first and give the result with --base-model",
        )
    base = _load_model(base_path, load_training(base_path))
    return Checkpoint(
        path=path,
        name=_served_name(path),
        architecture=base.architecture,
        model_type=base.model_type,
        config=base.config,
        adapter=adapter,
        base=base,
        base_ref=base_ref,
        base_ref_source=source,
        training=training,
    )


def _name_base(
    recorded: str | None, training: TrainingInfo | None, base_model: str | Path | None
) -> tuple[str | None, str | None]:
    """How the base is named, and by what."""
    if base_model is not None:
        return str(base_model), "--base-model"
    if recorded is not None:
        return recorded, f"{CONFIG_NAME}: base_model_name_or_path"
    if training is not None and training.model is not None:
        name = "args.json: model" if training.framework == "ms-swift" else "training_args.yaml"
        return training.model, name
    return None, None


def _find_training_base(
    path: Path,
    training: TrainingInfo | None,
    base_model: str | Path | None,
    path_map: Mapping[str, str],
) -> tuple[Checkpoint | None, str | None, str | None]:
    """What a full fine-tune was trained from; absent is no error unless the user gave it."""
    base_ref, source = _name_base(None, training, base_model)
    if base_ref is None or source is None:
        return None, None, None
    try:
        base_path = _resolve_base(base_ref, source, path, path_map)
        # Resumed runs name their own directory.
        is_other = not base_path.samefile(path)
        base = _load_model(base_path, load_training(base_path)) if is_other else None
    except CheckpointError:
        if base_model is not None:
            raise
        base = None
    return base, base_ref, source


def _resolve_base(ref: str, source: str, path: Path, path_map: Mapping[str, str]) -> Path:
    moved = _apply_path_map(ref, path_map)
    try:
        return _resolve(moved, f"{source}: {ref}")
    except CheckpointError as error:
        if source == "--base-model":
            raise
        shown = ref if moved == ref else f"{ref} (mapped to {moved})"
        raise CheckpointError(
            f"{path / source.partition(':')[0]}: base model {shown} is not on this machine",
            hint="give it with --base-model DIR, or say where it moved with --path-map "
            f"{Path(ref).parent}=NEW",
        ) from error


def _apply_path_map(ref: str, path_map: Mapping[str, str]) -> str:
    for old in sorted(path_map, key=len, reverse=True):
        prefix = old.rstrip("/")
        if ref == prefix or ref.startswith(f"{prefix}/"):
            return path_map[old].rstrip("/") + ref.removeprefix(prefix)
    return ref


def _resolve(ref: str, what: str) -> Path:
    """The directory that a reference means."""
    path = Path(ref).expanduser()
    if path.is_dir():
        return path.absolute()
    if path.exists():
        raise CheckpointError(f"{what}: a file; a checkpoint is a directory")
    if _HUB_ID.fullmatch(ref) is None:
        raise CheckpointError(f"{what}: no such directory")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise CheckpointError(
            f"{what}: no such directory; looking it up as a hub id needs huggingface_hub",
            hint="install huggingface_hub, or give the directory",
        ) from error
    try:
        return Path(snapshot_download(ref, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise CheckpointError(
            f"{what}: neither a directory nor a hub id in the local Hugging Face cache",
            hint=f"download it with: hf download {ref}",
        ) from error


def _read_config(path: Path) -> dict[str, Any]:
    config_path = path / "config.json"
    if config_path.is_file():
        return read_json(config_path)
    if (path / "non_lora_trainables.bin").is_file() or (path / "mm_projector.bin").is_file():
        hint = "these are parts of an original LLaVA run: merge them with its own scripts first"
    elif any(path.glob("checkpoint-*")):
        hint = f"it holds checkpoints: give one of them, such as {min(path.glob('checkpoint-*'))}"
    else:
        hint = "a checkpoint directory has a config.json, and an adapter an adapter_config.json"
    raise CheckpointError(f"{config_path}: no such file", hint=hint)


def _architecture(config: Mapping[str, Any], path: Path) -> str:
    architecture = find_architecture(config)
    if architecture is None:
        raise CheckpointError(
            f"{path / 'config.json'}: architectures: missing, so vLLM cannot tell what to build",
            hint="copy the key from the base model's config.json",
        )
    return architecture


def _served_name(path: Path) -> str:
    """The directory's name; a step's also says its run's, a hub snapshot's is the model's."""
    name = path.name
    snapshot = _HUB_SNAPSHOT.fullmatch(path.parent.parent.name)
    if path.parent.name == "snapshots" and snapshot is not None:
        name = snapshot["name"]
    elif _STEP.fullmatch(name):
        name = f"{path.parent.name}-{name}"
    return _UNSAFE.sub("-", name).strip("-.") or "model"
