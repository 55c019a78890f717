"""One sample of a data set: turns of text and media, and where it stands in its file."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

MediaKind = Literal["image", "video"]
"""What a placeholder in the text stands for."""

TurnRole = Literal["system", "user", "assistant", "tool"]
"""Who speaks; the formats' own words (``human``, ``gpt``, ...) are translated."""


@dataclass(frozen=True, slots=True)
class Medium:
    """An image or a video as a data set names it; nothing of it has been opened."""

    kind: MediaKind
    reference: str
    """As it stands in the file: a path, a URL or ``data:...``; a made-up name for embedded bytes.
    Of a video given as frames, the first frame's."""

    path: Path | None = None
    """The local file, for a path; it may not exist."""

    data: bytes | None = field(default=None, repr=False)
    """The encoded file, where the data set itself holds it."""

    frames: tuple["Medium", ...] = ()
    """The frames of a video that is given as images, in order."""

    frames_per_second: float | None = None
    """How densely ``frames`` were taken, where the sample tells."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said at once."""

    role: TurnRole
    parts: tuple[str | Medium, ...]
    """Text and media in the order in which the model sees them."""

    is_trained: bool = True
    """Whether the format lets an assistant's turn be learned from: ms-swift's ``loss`` and
    LLaMA-Factory's ``mask_history`` can turn it off. Without meaning for other roles."""

    @property
    def text(self) -> str:
        """The turn's text without its media."""
        return "".join(part for part in self.parts if isinstance(part, str))


@dataclass(frozen=True, slots=True)
class Sample:
    """One conversation of a data set."""

    file: Path
    row: int
    """Line of a JSONL file, else place in the list or table; counted from 1."""

    turns: tuple[Turn, ...]
    media: tuple[Medium, ...]
    """Every medium that the sample lists, in its order, whether or not a placeholder takes it."""

    n_placeholders: Counter[MediaKind]
    """Placeholders in the text. Those without a medium stay in the text of ``turns``; media without
    a placeholder stand where the framework puts them."""

    @property
    def where(self) -> str:
        """File and row, for messages."""
        return f"{self.file}:{self.row}"

    @property
    def answers(self) -> tuple[str, ...]:
        """The texts that are learned from."""
        return tuple(
            turn.text for turn in self.turns if turn.role == "assistant" and turn.is_trained
        )


@dataclass(frozen=True, slots=True)
class BadSample:
    """A row that is no sample: it is counted and shown, never skipped in silence."""

    file: Path
    row: int
    reason: str
    """What is wrong, with the field's name."""

    @property
    def where(self) -> str:
        """File and row, for messages."""
        return f"{self.file}:{self.row}"


@dataclass(frozen=True)
class Dataset:
    """The samples of one file or directory, in order."""

    path: Path
    format: str
    """``openai``, ``ms-swift``, ``sharegpt``, ``alpaca`` or ``llava``."""

    rows: tuple[Sample | BadSample, ...] = field(repr=False)

    @property
    def samples(self) -> Iterator[Sample]:
        """The rows that are samples."""
        return (row for row in self.rows if isinstance(row, Sample))

    @property
    def bad(self) -> tuple[BadSample, ...]:
        """The rows that are none."""
        return tuple(row for row in self.rows if isinstance(row, BadSample))
