"""The token formula of a checkpoint, also where its configuration alone does not tell which."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from vlmserve.checkpoint.families.internvl import InternVLChat
from vlmserve.checkpoint.families.xcomposer2 import XComposer2
from vlmserve.checkpoint.processor_settings import ProcessorSettings, load_processor_settings
from vlmserve.checkpoint.source import Checkpoint
from vlmserve.checkpoint.visual_tokens.base import VisualTokens
from vlmserve.checkpoint.visual_tokens.internvl import InternVLTokens
from vlmserve.checkpoint.visual_tokens.xcomposer import (
    XCOMPOSER2,
    XCOMPOSER2_4KHD,
    XCOMPOSER2_4KHD_SWIFT,
    XCOMPOSER2_4KHD_TRAINING,
    XCOMPOSER2_5,
    XCOMPOSER2_5_TRAINING,
    XCOMPOSER2_VL,
)
from vlmserve.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class _Formulas:
    """One model, and three programs that cut up its images."""

    inference: VisualTokens
    own_training: VisualTokens
    swift: VisualTokens


# By the first word of what XComposer2.variant says. For ms-swift: swift/template/templates/
# internlm.py, unless the environment variable hd_num says otherwise.
_XCOMPOSER: Mapping[str, _Formulas] = {
    "2": _Formulas(XCOMPOSER2, XCOMPOSER2, XCOMPOSER2),
    "2-VL": _Formulas(XCOMPOSER2_VL, XCOMPOSER2_VL, XCOMPOSER2_VL),
    "4KHD": _Formulas(XCOMPOSER2_4KHD, XCOMPOSER2_4KHD_TRAINING, XCOMPOSER2_4KHD_SWIFT),
    "2.5": _Formulas(XCOMPOSER2_5, XCOMPOSER2_5_TRAINING, XCOMPOSER2_5),
}


def load_visual_tokens(
    checkpoint: Checkpoint,
    settings: ProcessorSettings | None = None,
    *,
    program: Literal["inference", "own training", "framework"] = "inference",
) -> VisualTokens | None:
    """Find a checkpoint's token formula.

    Args:
        checkpoint: Of an adapter, the base counts.
        settings: The processor's settings; by default those that it would be served with.
        program: Which program is meant where they differ: the model's inference, its own training
            code (XComposer 4KHD and 2.5, InternVL's original format), or a training framework.

    Returns:
        The formula, or ``None`` where none is known.

    Raises:
        CheckpointError: A file or a setting that it needs is broken.
    """
    family = checkpoint.family
    if family is None:
        return None
    if isinstance(family, XComposer2):
        formulas = _XCOMPOSER.get(_variant(checkpoint, family).partition(",")[0])
        if formulas is None:
            return None
        by_program = {"inference": formulas.inference, "own training": formulas.own_training}
        return by_program.get(program, formulas.swift)
    settings = load_processor_settings(checkpoint) if settings is None else settings
    formula = family.visual_tokens(checkpoint.config, settings)
    if (
        program == "own training"
        and isinstance(family, InternVLChat)
        and isinstance(formula, InternVLTokens)
    ):
        return replace(formula, shares_tiles=True)
    return formula


def _variant(checkpoint: Checkpoint, family: XComposer2) -> str:
    try:
        tensors = checkpoint.tensors
    except CheckpointError:
        # Pickled weights; the directory's code may tell.
        tensors = {}
    found = {family.canonical(name): tensor.shape for name, tensor in tensors.items()}
    return family.variant(checkpoint.config, found, checkpoint.model.path) or ""
