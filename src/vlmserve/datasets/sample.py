"""One sample of a data set: turns of text and media, and where it stands in its file."""

import base64
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vlmserve.errors import MediaError
from vlmserve.media.headers import ImageHeader

MediaKind = Literal["image", "video"]
"""What a placeholder in the text stands for."""

TurnRole = Literal["system", "user", "assistant", "tool"]
"""Who speaks; the formats' own words (``human``, ``gpt``, ...) are translated."""


URL_SCHEMES = ("http://", "https://", "s3://", "gs://", "oss://", "hdfs://")
"""How a reference begins that is neither a path nor data."""

_MOST_SHOWN = 120


@dataclass(frozen=True, slots=True)
class Medium:
    """An image or a video as a data set names it; nothing of it has been opened."""

    kind: MediaKind
    reference: str = field(repr=False)
    """As it stands in the file: a path, a URL or ``data:...``; a made-up name for embedded bytes.
    Of a video given as frames, the first frame's."""

    root: Path | None = None
    """What a relative path counts from; ``None`` where the reference is no path."""

    embedded: Callable[[], bytes] | None = field(default=None, repr=False)
    """Reads the encoded file out of the data set, where that holds it."""

    frames: tuple["Medium", ...] = ()
    """The frames of a video that is given as images, in order."""

    frames_per_second: float | None = None
    """How densely ``frames`` were taken, or are to be taken from a file, where the sample tells."""

    @property
    def path(self) -> Path | None:
        """The local file, for a path; it may not exist."""
        if self.root is None or self.embedded is not None:
            return None
        return self.root / self.reference.removeprefix("file://")

    @property
    def is_url(self) -> bool:
        """Whether it lies on another machine."""
        return self.reference.startswith(URL_SCHEMES)

    @property
    def source(self) -> Path | Callable[[], bytes] | None:
        """The local file, or what reads the encoded bytes; ``None`` for a URL and for frames."""
        if self.frames or self.is_url:
            return None
        return self._decode if self._is_data else self.embedded or self.path

    @property
    def data(self) -> bytes | None:
        """The encoded file, where the data set itself holds it. Read on each use.

        Raises:
            MediaError: A data URL is broken, or the file of the data set is gone.
        """
        if self.embedded is not None:
            return self.embedded()
        return self._decode() if self._is_data else None

    @property
    def shown(self) -> str:
        """The reference, short enough to print."""
        long = len(self.reference) > _MOST_SHOWN
        return f"{self.reference[:_MOST_SHOWN]}..." if long else self.reference

    @property
    def _is_data(self) -> bool:
        return self.embedded is None and self.reference.startswith("data:")

    def _decode(self) -> bytes:
        head, comma, body = self.reference.partition(",")
        if not comma or not head.endswith(";base64"):
            raise MediaError(f"{self.shown}: a data URL without ;base64,")
        try:
            return base64.b64decode(body, validate=True)
        except ValueError as error:
            raise MediaError(f"{self.shown}: not base64: {error}") from error


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said at once."""

    role: TurnRole
    parts: tuple[str | Medium, ...]
    """Text and media in the order of the file; a framework may move a turn's image to its head."""

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
    """Placeholders in the text; shared between samples, so not to be changed. Those without a
    medium stay in the text of ``turns``; media without a placeholder stand where the framework puts
    them, or in no turn where it drops or refuses them."""

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
    """``openai``, ``ms-swift``, ``sharegpt``, ``alpaca``, ``llava`` or ``vlmevalkit``."""

    rows: tuple[Sample | BadSample, ...] = field(repr=False)
    headers: dict[Hashable, ImageHeader | MediaError] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """Image headers that ``read_dataset_headers`` has read."""

    @property
    def samples(self) -> Iterator[Sample]:
        """The rows that are samples."""
        return (row for row in self.rows if isinstance(row, Sample))

    @property
    def bad(self) -> tuple[BadSample, ...]:
        """The rows that are none."""
        return tuple(row for row in self.rows if isinstance(row, BadSample))
