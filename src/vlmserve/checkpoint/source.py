"""What a checkpoint reference is: a full model, or an adapter and the base it is laid on."""

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
    is_llava_original,
)
from vlmserve.checkpoint.files import read_json, read_json_if_present
from vlmserve.checkpoint.leftovers import (
    Leftover,
    find_leftover,
    missing_base,
    projector_leftover,
)
from vlmserve.checkpoint.provenance import TrainingInfo, load_training
from vlmserve.checkpoint.references import resolve, resolve_base, served_name
from vlmserve.checkpoint.tensors import TensorInfo
from vlmserve.checkpoint.weights import (
    PROJECTOR_NAME,
    Headers,
    WeightFiles,
    find_weights,
    merge_headers,
    read_headers,
)
from vlmserve.errors import CheckpointError


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint on disk."""

    path: Path
    """The directory, absolute; symbolic links in it are kept."""

    name: str
    """A name to serve it under, from the directory's; letters, digits, ``.``, ``_`` and ``-``."""

    architecture: str
    """The model class that vLLM would build; the base's for an adapter. Empty where nothing tells
    (``leftover``)."""

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
    leftover: Leftover | None = None
    """What is here in place of a model that can be loaded; ``config`` may then be empty, and an
    adapter's base absent."""

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
        return find_weights(self.path) if self.model is self else self.model.weights

    @cached_property
    def headers(self) -> Headers:
        """Header of each weight file of the model that is loaded, or why it cannot be read.

        Raises:
            CheckpointError: The index is broken.
        """
        return read_headers(self.weights) if self.model is self else self.model.headers

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The tensors of the model that is loaded, by name, from the headers.

        Raises:
            CheckpointError: A weight file is missing or broken, or is a pickle that cannot be
                followed without running it.
        """
        if self.model is not self:
            return self.model.tensors
        return merge_headers(self.weights, self.headers)


def load_checkpoint(
    ref: str | Path,
    *,
    base_model: str | Path | None = None,
    path_map: Mapping[str, str] | None = None,
    leftovers: bool = False,
) -> Checkpoint:
    """Read what a checkpoint is. Weights are not opened.

    Args:
        ref: A directory, or a hub id that lies in the local Hugging Face cache.
        base_model: What the checkpoint was trained from, a directory or a hub id; wins over what
            the checkpoint itself names.
        path_map: Prefixes of recorded paths that have moved, old to new; the longest match counts.
        leftovers: Also take directories of a training run that no model can be loaded from; the
            result's ``leftover`` says what they are.

    Raises:
        CheckpointError: There is no such checkpoint, a file is missing or broken, or an adapter's
            base cannot be found; the message names path and file.
    """
    path = resolve(str(ref), f"{ref}")
    checkpoint = _load(path, base_model, path_map or {})
    leftover = checkpoint.leftover
    if leftover is not None and not leftovers:
        # Of a missing base, the place where it is named is told as well.
        message = leftover.value if leftover.kind == "adapter" else f"{path}: {leftover.title}"
        raise CheckpointError(message, hint=leftover.remedy)
    return checkpoint


def _load(path: Path, base_model: str | Path | None, path_map: Mapping[str, str]) -> Checkpoint:
    training = load_training(path)
    if (path / CONFIG_NAME).is_file():
        return _load_adapter_checkpoint(path, training, base_model, path_map)
    if not (path / "config.json").is_file():
        return _load_leftover(path, training)
    checkpoint = _load_model(path, training)
    projector = path / PROJECTOR_NAME
    if projector.is_file() and not checkpoint.weights.files:
        return replace(checkpoint, leftover=projector_leftover([projector]))
    base, base_ref, source = _find_training_base(path, training, base_model, path_map)
    return replace(checkpoint, base=base, base_ref=base_ref, base_ref_source=source)


def _load_model(path: Path, training: TrainingInfo | None) -> Checkpoint:
    """A full model, without looking for what it was trained from."""
    config = _read_config(path)
    return replace(
        _bare(path, training),
        architecture=_architecture(config, path),
        model_type=str(config.get("model_type", "")),
        config=config,
    )


def _load_adapter_checkpoint(
    path: Path,
    training: TrainingInfo | None,
    base_model: str | Path | None,
    path_map: Mapping[str, str],
) -> Checkpoint:
    adapter = load_adapter(path)
    own = _own_config(path)
    base_ref, source = _name_base(adapter.base_ref, training, base_model)
    try:
        base_path = _find_base(base_ref, source, path, path_map)
    except CheckpointError as error:
        if base_model is not None:
            raise
        return replace(
            _bare(path, training),
            architecture=find_architecture(own) or "",
            model_type=str(own.get("model_type", "")),
            config=own,
            adapter=adapter,
            base_ref=base_ref,
            base_ref_source=source,
            leftover=missing_base(base_ref, error.message, error.hint),
        )
    if (base_path / CONFIG_NAME).is_file():
        raise CheckpointError(
            f"{base_path}: the base of adapter {path} is an adapter itself",
            hint="merge it into its own base first and give the result with --base-model",
        )
    base = _load_model(base_path, load_training(base_path))
    return Checkpoint(
        path=path,
        name=served_name(path),
        architecture=find_architecture(own) or base.architecture,
        model_type=str(own.get("model_type", base.model_type)),
        config=own or base.config,
        adapter=adapter,
        base=base,
        base_ref=base_ref,
        base_ref_source=source,
        training=training,
    )


def _own_config(path: Path) -> dict[str, Any]:
    """The whole model's configuration beside an adapter; empty where there is none that counts.

    LLaVA and its descendants save it, and the base that the adapter names may be text alone.
    """
    own = read_json_if_present(path / "config.json")
    family = find_family(own)
    is_foreign = family is not None and not family.served
    return own if is_foreign or is_llava_original(own) else {}


def _load_leftover(path: Path, training: TrainingInfo | None) -> Checkpoint:
    """A directory without ``config.json``.

    Raises:
        CheckpointError: It is none of those that training leaves.
    """
    leftover = find_leftover(path)
    if leftover is None:
        _read_config(path)
    return replace(_bare(path, training), leftover=leftover)


def _bare(path: Path, training: TrainingInfo | None) -> Checkpoint:
    """A directory that nothing is known of but its name and its training."""
    return Checkpoint(
        path=path,
        name=served_name(path),
        architecture="",
        model_type="",
        config={},
        adapter=None,
        base=None,
        base_ref=None,
        base_ref_source=None,
        training=training,
    )


def _find_base(
    base_ref: str | None, source: str | None, path: Path, path_map: Mapping[str, str]
) -> Path:
    """The directory of an adapter's base."""
    if base_ref is None or source is None:
        raise CheckpointError(
            f"{path / CONFIG_NAME}: base_model_name_or_path is empty and nothing else names the "
            "base model",
            hint="give it with --base-model DIR",
        )
    return resolve_base(base_ref, source, path, path_map)


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
        base_path = resolve_base(base_ref, source, path, path_map)
        # Resumed runs name their own directory.
        is_other = not base_path.samefile(path)
        base = _load_training_base(base_path, path, source) if is_other else None
    except CheckpointError:
        if base_model is not None:
            raise
        base = None
    return base, base_ref, source


def _load_training_base(base_path: Path, path: Path, source: str) -> Checkpoint:
    """The base of a full fine-tune, if it can be one.

    Nothing compares with a model of another family, and all would look wrong.
    """
    if (base_path / CONFIG_NAME).is_file() and not (base_path / "config.json").is_file():
        raise CheckpointError(
            f"{source}: {base_path} is an adapter; a model to compare with is expected",
            hint="give the model that it was trained on",
        )
    base = _load_model(base_path, load_training(base_path))
    ours, theirs = find_family(_read_config(path)), base.family
    if ours is None or theirs is None or not (ours.served and theirs.served):
        return base
    # InternVL's two formats are one model.
    if ours.title.partition(" ")[0] != theirs.title.partition(" ")[0]:
        raise CheckpointError(
            f"{source}: {base_path} is a {theirs.title}, and {path} a {ours.title}, which was not "
            "trained from it",
            hint="give the model that it was trained from, or none",
        )
    return base


def _read_config(path: Path) -> dict[str, Any]:
    config_path = path / "config.json"
    if config_path.is_file():
        return read_json(config_path)
    leftover = find_leftover(path)
    hint = "a checkpoint directory has a config.json, and an adapter an adapter_config.json"
    raise CheckpointError(
        f"{config_path}: no such file", hint=hint if leftover is None else leftover.remedy
    )


def _architecture(config: Mapping[str, Any], path: Path) -> str:
    architecture = find_architecture(config)
    if architecture is None:
        raise CheckpointError(
            f"{path / 'config.json'}: architectures: missing, so vLLM cannot tell what to build",
            hint="copy the key from the base model's config.json",
        )
    return architecture
