"""The token formula of a checkpoint, also where its configuration alone does not tell which."""

from collections.abc import Mapping

from vlmserve.checkpoint.families.xcomposer2 import XComposer2
from vlmserve.checkpoint.processor_settings import ProcessorSettings, load_processor_settings
from vlmserve.checkpoint.source import Checkpoint
from vlmserve.checkpoint.visual_tokens.base import VisualTokens
from vlmserve.checkpoint.visual_tokens.xcomposer import (
    XCOMPOSER2,
    XCOMPOSER2_4KHD,
    XCOMPOSER2_4KHD_TRAINING,
    XCOMPOSER2_5,
    XCOMPOSER2_5_TRAINING,
    XCOMPOSER2_VL,
)
from vlmserve.errors import CheckpointError

# By the first word of what XComposer2.variant says; for inference and for the model's own training
# code.
_XCOMPOSER: Mapping[str, tuple[VisualTokens, VisualTokens]] = {
    "2": (XCOMPOSER2, XCOMPOSER2),
    "2-VL": (XCOMPOSER2_VL, XCOMPOSER2_VL),
    "4KHD": (XCOMPOSER2_4KHD, XCOMPOSER2_4KHD_TRAINING),
    "2.5": (XCOMPOSER2_5, XCOMPOSER2_5_TRAINING),
}


def load_visual_tokens(
    checkpoint: Checkpoint,
    settings: ProcessorSettings | None = None,
    *,
    is_training: bool = False,
) -> VisualTokens | None:
    """Find a checkpoint's token formula.

    Args:
        checkpoint: Of an adapter, the base counts.
        settings: The processor's settings; by default those that it would be served with.
        is_training: Whether the model's own training code is meant, where that differs from its
            inference (XComposer 4KHD and 2.5).

    Returns:
        The formula, or ``None`` where none is known.

    Raises:
        CheckpointError: A file or a setting that it needs is broken.
    """
    family = checkpoint.family
    if family is None:
        return None
    if isinstance(family, XComposer2):
        pair = _XCOMPOSER.get(_variant(checkpoint, family).partition(",")[0])
        return None if pair is None else pair[is_training]
    settings = load_processor_settings(checkpoint) if settings is None else settings
    return family.visual_tokens(checkpoint.config, settings)


def _variant(checkpoint: Checkpoint, family: XComposer2) -> str:
    try:
        tensors = checkpoint.tensors
    except CheckpointError:
        # Pickled weights; the directory's code may tell.
        tensors = {}
    found = {family.canonical(name): tensor.shape for name, tensor in tensors.items()}
    return family.variant(checkpoint.config, found, checkpoint.model.path) or ""
