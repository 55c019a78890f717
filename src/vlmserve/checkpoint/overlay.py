"""Completing a checkpoint that lacks its processor, in a directory of links beside it.

Trainers often save weights alone. What is missing is borrowed from the base model, never written
into the checkpoint itself.
"""

from dataclasses import dataclass
from pathlib import Path

from vlmserve.checkpoint.processor import CHAT_TEMPLATE, Part, ProcessorFiles, find_processor
from vlmserve.checkpoint.source import Checkpoint
from vlmserve.errors import CheckpointError


@dataclass(frozen=True)
class Overlay:
    """A directory that serves as the checkpoint with its gaps filled."""

    path: Path
    borrowed: list[str]
    """Names of the files that come from elsewhere."""


@dataclass(frozen=True)
class Gap:
    """A part that the model's directory lacks."""

    part: Part
    files: tuple[str, ...]
    """Names of the donor's files that would fill it; empty when it cannot be filled."""


def find_gaps(checkpoint: Checkpoint, *, has_template: bool = False) -> list[Gap]:
    """Which of processor, tokenizer and chat template are missing, and what would fill them.

    A full fine-tune borrows from its base. For an adapter it is the base's directory that is
    served, and the adapter's own may hold what that lacks.

    Args:
        checkpoint: The checkpoint.
        has_template: Whether a chat template is given beside it.

    Returns:
        The parts that can be filled, and those that vLLM cannot do without.

    Raises:
        CheckpointError: One of the files is broken.
    """
    own = find_processor(checkpoint.model.path)
    donor = _find_donor(checkpoint)
    gaps = [Gap(part, _filling(part, donor)) for part in own.missing]
    given = ("chat template",) if has_template else ()
    return [
        gap
        for gap in gaps
        if gap.part not in given and (gap.files or _is_needed(gap.part, checkpoint))
    ]


def missing_files(checkpoint: Checkpoint) -> list[str]:
    """Names of the files that the checkpoint lacks and that ``create_overlay`` would borrow.

    Raises:
        CheckpointError: One of the files is broken.
    """
    return [name for gap in find_gaps(checkpoint) for name in gap.files]


def borrowed_files(checkpoint: Checkpoint) -> dict[str, Path | str]:
    """What ``create_overlay`` would put beside the checkpoint's own files, by name.

    Returns:
        The donor's file, or the text of a template that is lifted out of one.

    Raises:
        CheckpointError: One of the files is broken.
    """
    donor = _find_donor(checkpoint)
    if donor is None:
        return {}
    return {name: _lifted(name, donor) for name in missing_files(checkpoint)}


def create_overlay(checkpoint: Checkpoint, parent: Path, *, has_template: bool = False) -> Overlay:
    """Make a directory with links to the checkpoint's files and to what it lacks.

    Args:
        checkpoint: The checkpoint; it is not touched.
        parent: Where the directory is made, under the checkpoint's name. It must not have one of
            that name yet.
        has_template: Whether a chat template is given beside the checkpoint.

    Returns:
        The new directory and what in it was borrowed.

    Raises:
        CheckpointError: There is nothing to borrow from, or the directory cannot be made.
    """
    gaps = find_gaps(checkpoint, has_template=has_template)
    unfilled = [gap.part for gap in gaps if not gap.files]
    if unfilled:
        raise CheckpointError(
            f"{checkpoint.model.path}: {' and '.join(unfilled)} missing, and nothing at hand to "
            "borrow from",
            hint="give the model it was trained from with --base-model DIR",
        )
    path = parent / checkpoint.model.name
    try:
        path.mkdir(parents=True)
        for file in sorted(checkpoint.model.path.iterdir()):
            if file.is_file():
                (path / file.name).symlink_to(file.resolve())
        for name, content in borrowed_files(checkpoint).items():
            _borrow(path / name, content)
        _keep_template(find_processor(checkpoint.model.path), path)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    return Overlay(path, [name for gap in gaps for name in gap.files])


def _find_donor(checkpoint: Checkpoint) -> ProcessorFiles | None:
    if checkpoint.adapter is not None:
        return find_processor(checkpoint.path)
    return None if checkpoint.base is None else find_processor(checkpoint.base.path)


def _is_needed(part: Part, checkpoint: Checkpoint) -> bool:
    """Whether vLLM is known to read the part from the model's directory.

    Other families may have a tokenizer of another format, no image processor, or a template in
    vLLM itself (vllm 0.32 transformers_utils/chat_templates/registry.py).
    """
    family = checkpoint.family
    return family is not None and (part != "image processor" or family.reads_image_processor)


def _filling(part: Part, donor: ProcessorFiles | None) -> tuple[str, ...]:
    if donor is None or part in donor.missing:
        return ()
    if part == "chat template":
        # It may sit inside a file that the checkpoint has an own version of: lifted out.
        return (CHAT_TEMPLATE,) if donor.template is not None else ()
    return donor.files[part]


def _lifted(name: str, donor: ProcessorFiles) -> Path | str:
    path = donor.directory / name
    return donor.template or "" if name == CHAT_TEMPLATE and not path.is_file() else path


def _borrow(target: Path, content: Path | str) -> None:
    # What the checkpoint has of an incomplete part gives way to the donor's complete one.
    target.unlink(missing_ok=True)
    if isinstance(content, str):
        target.write_text(content, encoding="utf-8")
    else:
        target.symlink_to(content.resolve())


def _keep_template(own: ProcessorFiles, path: Path) -> None:
    """Restore the checkpoint's own template where the file it was in was replaced."""
    if own.template is not None and find_processor(path).template != own.template:
        target = path / CHAT_TEMPLATE
        target.unlink(missing_ok=True)
        target.write_text(own.template, encoding="utf-8")
