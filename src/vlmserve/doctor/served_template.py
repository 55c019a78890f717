"""Which chat template is served, and where it is kept."""

from dataclasses import dataclass
from pathlib import Path

from vlmserve.checkpoint.processor import find_processor
from vlmserve.doctor.examination import Examination


@dataclass(frozen=True)
class Side:
    """A chat template of a checkpoint, and where it is."""

    directory: Path
    file: Path
    template: str


def find_served(exam: Examination) -> Side | str | None:
    """The chat template that is served.

    An adapter is served with its base's, and a template that the serve configuration names goes
    before all.

    Returns:
        The template, ``None`` where there is none, or why it cannot be told.

    Raises:
        CheckpointError: A file that may hold it is broken.
    """
    checkpoint = exam.checkpoint
    named = exam.serve.server.chat_template
    if named is not None and Path(named).is_file():
        text = Path(named).read_text(encoding="utf-8", errors="replace")
        return Side(checkpoint.model.path, Path(named), text)
    places = [checkpoint.model.path]
    if checkpoint.adapter is not None:
        places.append(checkpoint.path)
    elif checkpoint.base is not None:
        places.append(checkpoint.base.path)
    for place in places:
        side = find_side(place)
        if side is not None:
            return side
    return None


def find_side(directory: Path) -> Side | str | None:
    """The chat template of one directory, wherever it is kept.

    Returns:
        The template, ``None`` where there is none, or why it cannot be told.

    Raises:
        CheckpointError: A file that may hold it is broken.
    """
    processor = find_processor(directory)
    files = processor.files["chat template"]
    if not files:
        return None
    if processor.template is None:
        return f"{directory / files[0]} holds several chat templates by name"
    return Side(directory, directory / files[0], processor.template)


def find_served_tokenizer(exam: Examination) -> Path:
    """The directory whose tokenizer is served: the model's, or what it is borrowed from."""
    checkpoint = exam.checkpoint
    places = [checkpoint.model.path, checkpoint.path]
    if checkpoint.base is not None:
        places.append(checkpoint.base.path)
    for place in places:
        if "tokenizer" not in find_processor(place).missing:
            return place
    return checkpoint.model.path
