"""The directory that a training writes its checkpoints into, while it may still be writing.

transformers' Trainer, and with it ms-swift, LLaMA-Factory and TRL, saves ``checkpoint-N`` in place:
the weights, then optimizer, scheduler and random states, and last ``trainer_state.json``
(transformers 5, trainer.py, ``_save_checkpoint``). With ``save_total_limit`` older ones are removed
at any time.
"""

import json
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmserve.checkpoint.files import read_json
from vlmserve.checkpoint.leftovers import (
    CHECKPOINT_NAME,
    find_checkpoints,
    find_zero_shards,
)
from vlmserve.checkpoint.tensors import read_header
from vlmserve.checkpoint.torch_pickle import OpaquePickleError, read_pickle_header
from vlmserve.checkpoint.weights import find_weights
from vlmserve.errors import CheckpointError

STATE_NAME = "trainer_state.json"

# Without the Trainer's last word, files that rest for so many settling times are taken for whole.
_PATIENCE = 12

Signature = tuple[tuple[str, int, int], ...]
"""Of each file: relative name, size in bytes, time of change in ns."""


@dataclass(frozen=True, slots=True)
class SeenCheckpoint:
    """A checkpoint as it was seen once."""

    step: int
    path: Path
    missing: str | None
    """What it still lacks; ``None`` once it is complete."""

    is_settling: bool = False
    """Whether it lacks nothing but that its files have not rested long enough."""


@dataclass(slots=True)
class _Watched:
    signature: Signature
    since_s: float
    """When the files were first seen like this."""


@dataclass(slots=True)
class TrainingOutput:
    """Looks at a training's directory again and again.

    Args:
        folder: The directory; it need not be there yet.
        settle_s: For how long the files of a checkpoint must not change.
        clock: Seconds that only grow.
    """

    folder: Path
    settle_s: float = 5.0
    clock: Callable[[], float] = time.monotonic
    _watched: dict[Path, _Watched] = field(default_factory=dict)

    def look(self, done: Collection[int] = ()) -> list[SeenCheckpoint]:
        """List the checkpoints that are there, by step, and what they lack.

        Args:
            done: Steps whose checkpoints need not be looked into again.

        Raises:
            CheckpointError: They are of several runs.
        """
        now = self.clock()
        seen = []
        for step, path in _steps(self.folder):
            if step in done:
                seen.append(SeenCheckpoint(step, path, None))
                continue
            signature = _signature(path)
            if signature is None:
                continue  # removed while it was looked at
            known = self._watched.get(path)
            if known is None or known.signature != signature:
                known = self._watched[path] = _Watched(signature, now)
            missing, unrest = missing_part(path), self._unrest(path, now - known.since_s)
            seen.append(
                SeenCheckpoint(
                    step=step,
                    path=path,
                    missing=missing or unrest,
                    is_settling=missing is None and unrest is not None,
                )
            )
        return seen

    def _unrest(self, path: Path, resting_s: float) -> str | None:
        has_state = (path / STATE_NAME).is_file()
        needed_s = self.settle_s if has_state else _PATIENCE * self.settle_s
        if resting_s >= needed_s:
            return None
        said = "" if has_state else f", and without {STATE_NAME} nothing else says that it is whole"
        return f"its files changed less than {needed_s:g} s ago{said}"

    def is_finished(self) -> bool:
        """Whether the training says that it has come to its last step.

        Told by ``global_step`` and ``max_steps`` of the last checkpoint, or of the directory's own
        ``trainer_state.json``, which the usual scripts write at the end.
        """
        checkpoints = [path for _, path in _steps(self.folder)]
        places = [self.folder, *(path for last in checkpoints[-1:] for path in (last, last.parent))]
        return any(map(_is_last, places))


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """Checkpoints by step, without copies that ms-swift merged."""
    found = []
    for path in find_checkpoints(folder):
        match = CHECKPOINT_NAME.fullmatch(path.name)
        if match is not None and match[2] is None:
            found.append((int(match[1]), path))
    if len(runs := sorted({path.parent for _, path in found})) > 1:
        names = ", ".join(run.name for run in runs)
        raise CheckpointError(f"{folder}: holds several runs: {names}", hint="name one of them")
    return found


def missing_part(path: Path) -> str | None:
    """Say what a checkpoint's directory still lacks, as far as its files tell; ``None`` if nothing.

    Args:
        path: A ``checkpoint-N``.
    """
    try:
        state = _read_state(path)
        match = CHECKPOINT_NAME.fullmatch(path.name)
        if state is not None and match is not None and state.get("global_step") != int(match[1]):
            return f"{STATE_NAME} is of step {state.get('global_step')}"
        return _missing_weights(path)
    except CheckpointError as error:
        return error.message


def _missing_weights(path: Path) -> str | None:
    files = [*path.glob("adapter_model.safetensors"), *find_weights(path).files]
    if not files:
        if find_zero_shards(path):
            return None  # said by whoever reads it: DeepSpeed's shards have to be put together
        return "it has no weights"
    for file in files:
        if file.suffix == ".safetensors":
            read_header(file)
        else:
            try:
                read_pickle_header(file)
            except OpaquePickleError:
                continue
    return None


def _read_state(path: Path) -> dict[str, Any] | None:
    file = path / STATE_NAME
    return read_json(file) if file.is_file() else None


def _is_last(path: Path) -> bool:
    try:
        state = json.loads((path / STATE_NAME).read_text(encoding="utf-8"))
        return 0 < int(state["max_steps"]) <= int(state["global_step"])
    except (OSError, ValueError, TypeError, KeyError):
        return False


def _signature(path: Path) -> Signature | None:
    try:
        stats = [
            (str(file.relative_to(path)), file.stat())
            for file in sorted(path.rglob("*"))
            if file.is_file()
        ]
    except OSError:
        return None
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def changed_at(path: Path) -> float:
    """When the newest file of a checkpoint changed, in seconds since 1970; 0 where it is empty."""
    signature = _signature(path) or ()
    return max((changed_ns for _, _, changed_ns in signature), default=0) / 1e9
