"""Decides how a checkpoint is put in front of vLLM: directory, names, adapter, media settings."""

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmserve.checkpoint.families.qwen2_vl import QwenVL
from vlmserve.checkpoint.overlay import create_overlay, find_gaps
from vlmserve.checkpoint.processor_settings import load_processor_settings
from vlmserve.checkpoint.serving_limits import training_media_settings, with_processor_kwargs
from vlmserve.checkpoint.visual_tokens.formula import load_visual_tokens
from vlmserve.engine.media_options import check_video_settings, ignored_video_options
from vlmserve.engine.token_rules import PromptLimits
from vlmserve.errors import AdapterMismatchError, CheckpointError, ConfigError
from vlmserve.frameworks.image_reading import UNKNOWN, find_image_reader
from vlmserve.media.normalise import VLLM, Normalisation

if TYPE_CHECKING:
    from vlmserve.checkpoint.provenance import VisionLimits
    from vlmserve.checkpoint.source import Checkpoint
    from vlmserve.checkpoint.visual_tokens.base import VisualTokens
    from vlmserve.config.serve import ServeConfig

_LOG = logging.getLogger(__name__)

# vllm/config/lora.py, MaxLoRARanks: the engine reserves room for one of these.
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True, slots=True)
class PlannedAdapter:
    """A PEFT adapter that is served beside its base."""

    name: str
    """Its name in requests."""

    path: Path
    max_rank: int
    """The room that vLLM must reserve, at least the adapter's rank."""

    in_vision: bool
    """It has weights in the vision tower or the projector, which vLLM skips unless told."""


@dataclass(frozen=True, slots=True)
class ServingPlan:
    """What vLLM is given, and what was decided on the way."""

    model_path: Path
    """A directory with weights, tokenizer, processor and template: the checkpoint, its base where
    it is an adapter, or an overlay over it."""

    base_name: str
    """Name of the model at ``model_path`` in requests."""

    adapter: PlannedAdapter | None
    """The checkpoint itself, where it is one."""

    mm_processor_kwargs: Mapping[str, Any]
    media_io_kwargs: Mapping[str, Mapping[str, Any]]
    normalisation: Normalisation
    """How image files become RGB."""

    notes: tuple[str, ...]
    """Sentences for the user: what was borrowed, and which settings come from the training."""

    beside: tuple[PlannedAdapter, ...] = ()
    """Other adapters of the same base that are served as well."""

    @property
    def adapters(self) -> tuple[PlannedAdapter, ...]:
        """All adapters; the checkpoint itself comes last."""
        return self.beside if self.adapter is None else (*self.beside, self.adapter)

    @property
    def names(self) -> tuple[str, ...]:
        """The names that requests may ask for; the checkpoint itself comes last."""
        return (self.base_name, *(adapter.name for adapter in self.adapters))

    @property
    def candidate_name(self) -> str:
        """The name of the checkpoint itself: the adapter where there is one."""
        return self.names[-1]


def plan_serving(
    checkpoint: "Checkpoint",
    config: "ServeConfig",
    scratch: Path,
    *,
    train_env: "VisionLimits | None" = None,
    beside: "Sequence[Checkpoint]" = (),
) -> ServingPlan:
    """Plan how to serve a checkpoint.

    Args:
        checkpoint: The checkpoint, already found servable.
        config: The operator's settings; they win over what the training recorded.
        scratch: A directory of this process for overlays; it must outlive the engine.
        train_env: What the training framework took from its environment; wins over its files.
        beside: Other adapters of its base, where it is an adapter. They see media as it does.

    Returns:
        The plan.

    Raises:
        AdapterMismatchError: The adapter cannot be laid on a base, or its rank is too high.
        CheckpointError: Files are missing and there is no base to borrow them from.
        ConfigError: Two models would be served under one name, or a setting would change nothing.
    """
    if checkpoint.adapter is not None and checkpoint.base is None:
        raise AdapterMismatchError(f"{checkpoint.path}: the adapter's base is not known")
    adapter = _plan_adapter(checkpoint, config)
    base_name = _base_name(checkpoint, config)
    taken = [base_name] if adapter is None else [base_name, adapter.name]
    others: list[PlannedAdapter] = []
    for other in beside:
        name = _free_name(other.name, taken)
        others.append(_planned(other, name))
        taken.append(name)
    notes = [*check_video_settings(config.engine, _ignored_video_options(checkpoint))]
    has_template = config.server.chat_template is not None
    model_path = _complete_directory(checkpoint, scratch, notes, has_template=has_template)
    chosen = config.engine.mm_processor_kwargs
    training = training_media_settings(checkpoint, train_env, chosen=chosen)
    media_io = {kind: dict(settings) for kind, settings in training.media_io_kwargs.items()}
    for kind, settings in config.engine.media_io_kwargs.items():
        media_io.setdefault(kind, {}).update(settings)
    normalisation = _choose_normalisation(checkpoint, config, notes)
    return ServingPlan(
        model_path=model_path,
        base_name=base_name,
        adapter=adapter,
        mm_processor_kwargs={**training.mm_processor_kwargs, **chosen},
        media_io_kwargs=media_io,
        normalisation=normalisation,
        notes=(*notes, *training.notes),
        beside=tuple(others),
    )


def prompt_limits(
    checkpoint: "Checkpoint", plan: ServingPlan, max_visual_tokens: int | None
) -> PromptLimits:
    """What is known of a plan's prompts before the engine is loaded.

    Args:
        checkpoint: The checkpoint.
        plan: How it is served.
        max_visual_tokens: ``media.max_request_visual_tokens``.
    """
    return PromptLimits(
        _served_formula(checkpoint, plan.mm_processor_kwargs),
        max_visual_tokens,
        _ignored_video_options(checkpoint),
    )


def _ignored_video_options(checkpoint: "Checkpoint") -> frozenset[str]:
    return ignored_video_options(samples_by_time=isinstance(checkpoint.family, QwenVL))


def _served_formula(
    checkpoint: "Checkpoint", mm_processor_kwargs: Mapping[str, Any]
) -> "VisualTokens | None":
    """The family's token formula with the settings that are served, if it is known and whole."""
    try:
        settings = with_processor_kwargs(load_processor_settings(checkpoint), mm_processor_kwargs)
        return load_visual_tokens(checkpoint, settings)
    except CheckpointError as error:
        _LOG.warning("tokens of images are known only after they are processed: %s", error.message)
        return None


def _free_name(name: str, taken: Sequence[str]) -> str:
    """The name, or the first with a number behind it: directories of two runs are often alike."""
    names = itertools.chain((name,), (f"{name}-{number}" for number in itertools.count(2)))
    return next(each for each in names if each not in taken)


def _choose_normalisation(
    checkpoint: "Checkpoint", config: "ServeConfig", notes: list[str]
) -> Normalisation:
    if config.media.normalise == "vllm":
        return VLLM
    if "image" in config.engine.media_io_kwargs:
        raise ConfigError(
            "media.normalise: training decides how images are read, and so does "
            "engine.media_io_kwargs.image; set one of them"
        )
    training, family = checkpoint.training, checkpoint.family
    reader = find_image_reader(
        None if training is None else training.framework,
        "" if family is None else family.name,
        shrinks=training is not None and training.limits.max_pixels is not None,
    )
    chosen = Normalisation(
        reader.name, rotates=bool(reader.rotates), fills_white=bool(reader.fills_white)
    )
    who = "its framework is not known: plain convert" if reader is UNKNOWN else chosen.reader
    turned = "turned by their EXIF orientation" if chosen.rotates else "left as they are stored"
    alpha = "put on white" if chosen.fills_white else "dropped"
    notes.append(f"images are read as in training ({who}): {turned}, transparency {alpha}")
    return chosen


def _complete_directory(
    checkpoint: "Checkpoint", scratch: Path, notes: list[str], *, has_template: bool
) -> Path:
    if not find_gaps(checkpoint, has_template=has_template):
        return checkpoint.model.path
    overlay = create_overlay(checkpoint, scratch, has_template=has_template)
    notes.append(
        f"{checkpoint.model.path.name} lacks {', '.join(overlay.borrowed)}: borrowed; the "
        "checkpoint itself was not changed"
    )
    return overlay.path


def _base_name(checkpoint: "Checkpoint", config: "ServeConfig") -> str:
    if checkpoint.adapter is None:
        return config.server.served_model_name or checkpoint.name
    chosen = config.server.base_served_name
    name = chosen or checkpoint.model.name
    if name != _adapter_name(checkpoint, config):
        return name
    if chosen is not None:
        raise ConfigError(f"server.base_served_name: {chosen!r} is the adapter's name too")
    return f"{name}-base"


def _adapter_name(checkpoint: "Checkpoint", config: "ServeConfig") -> str:
    return config.server.served_model_name or checkpoint.name


def lora_room(rank: int) -> int | None:
    """The room that vLLM reserves for an adapter of a rank; ``None`` where it has none so large."""
    return next((room for room in _LORA_RANKS if room >= rank), None)


def _plan_adapter(checkpoint: "Checkpoint", config: "ServeConfig") -> PlannedAdapter | None:
    if checkpoint.adapter is None:
        return None
    return _planned(checkpoint, _adapter_name(checkpoint, config))


def _planned(checkpoint: "Checkpoint", name: str) -> PlannedAdapter:
    adapter = checkpoint.adapter
    if adapter is None:
        raise AdapterMismatchError(f"{checkpoint.path}: not an adapter")
    max_rank = lora_room(adapter.rank)
    if max_rank is None:
        raise AdapterMismatchError(
            f"{checkpoint.path}: the adapter's rank {adapter.rank} is above vLLM's limit of "
            f"{_LORA_RANKS[-1]}",
            hint="merge the adapter into its base and serve the merged checkpoint",
        )
    return PlannedAdapter(
        name=name,
        path=checkpoint.path,
        max_rank=max_rank,
        in_vision=adapter.touches_vision_tower or adapter.touches_projector,
    )
