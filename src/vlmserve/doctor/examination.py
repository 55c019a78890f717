"""A checkpoint under examination, with all that it is held against."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from vlmserve.checkpoint.provenance import VisionLimits
from vlmserve.checkpoint.source import Checkpoint
from vlmserve.config.serve import ServeConfig
from vlmserve.datasets.sample import Dataset

if TYPE_CHECKING:
    from vlmserve.doctor.model_scan import ModelScan

Progress = Callable[[str, int, int], None]
"""Told what is being read, how much of it is done and how much there is, in bytes or samples."""


def no_progress(what: str, done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Examination:
    """What the checks look at.

    Everything but the checkpoint may be absent: a check that cannot do without says ``Unknown``, or
    nothing where the user did not ask for it.
    """

    checkpoint: Checkpoint
    """The checkpoint; its base model is ``checkpoint.base``."""

    fast: bool = True
    """Leave out what reads every weight: only headers, small files and an adapter's weights."""

    data: Dataset | None = None
    """What it was trained on."""

    heldout: Dataset | None = None
    """What it will be judged on."""

    max_length: int | None = None
    """Longest sample of the training in tokens, where the user says so; wins over its files."""

    train_env: VisionLimits | None = None
    """What the training took from its environment, where the user says so; wins over its files."""

    serve: ServeConfig = field(default_factory=ServeConfig)
    """How it would be served."""

    progress: Progress = no_progress

    @cached_property
    def scan(self) -> "ModelScan":
        """Every weight, read once for all checks that need their values. Not for the fast pass.

        Raises:
            CheckpointError: A weight file is missing or broken.
        """
        from vlmserve.doctor.model_scan import scan_model

        return scan_model(self)
