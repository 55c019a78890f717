"""Samples: what is asked and expected, known by content and never by row number."""

import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from vlmserve.chat import (
    FramesPart,
    ImagePart,
    Message,
    Part,
    Role,
    SamplingParams,
    TextPart,
    VideoPart,
)
from vlmserve.engine.base import GenerationRequest, ScoringRequest
from vlmserve.errors import MediaError
from vlmserve.media.headers import read_image_header
from vlmserve.media.sniff import sniff_content_type

MediumKind = Literal["image", "video"]

# lm-eval's placeholder for an image, and ours for a video.
_PLACEHOLDER = re.compile(r"<(image|video)>")

_ID_HEX_DIGITS = 32

# The examples of a few-shot prompt are drawn with it: the same for both sides and for every run,
# or no answer would be found in the store again. The number is lm-eval's own default.
FEWSHOT_SEED = 1234


@dataclass(frozen=True, slots=True)
class Medium:
    """One image or video of a sample, as the file it was found in."""

    kind: MediumKind
    content_type: str
    sha256: str
    """Of the file's bytes, in hex."""

    source: bytes | Path | None
    """``None`` for a medium of a kept run, whose bytes are not at hand; empty for a video that is
    given as frames."""

    size_px: tuple[int, int] | None = None
    """Width and height, as far as a kept run knows them."""

    frames: tuple["Medium", ...] = ()
    """The pictures of a video that is given as such, in order."""

    frames_per_second: float | None = None
    """How densely ``frames`` were taken, where the data say."""

    @classmethod
    def load(cls, value: Any, folder: Path) -> "Medium":
        """Make a medium of what a data set holds, without re-encoding it where it is a file.

        Args:
            value: Bytes, a path, a ``{"bytes": ..., "path": ...}`` mapping as in ``datasets``, or a
                PIL image. An image that has left its file behind becomes a PNG.
            folder: What relative paths are relative to.

        Raises:
            MediaError: There is nothing there, or it is no image or video that is known here.
        """
        source = _source(value, folder)
        data = source if isinstance(source, bytes) else _read(source)
        content_type = sniff_content_type(data)
        if content_type is None:
            raise MediaError(f"{_name(source)} begins like no image or video ({len(data)} bytes)")
        kind = content_type.partition("/")[0]
        return cls(
            kind="video" if kind == "video" else "image",
            content_type=content_type,
            sha256=hashlib.sha256(data).hexdigest(),
            source=source,
        )

    @classmethod
    def of_frames(
        cls, frames: Sequence["Medium"], frames_per_second: float | None = None
    ) -> "Medium":
        """Make a video of pictures, which are sent as they are.

        Raises:
            MediaError: They differ in size, so that no model takes them for one video.
        """
        sizes = {read_image_header(frame.data()).upright_size_px for frame in frames}
        if len(sizes) > 1:
            listed = ", ".join(f"{width} x {height}" for width, height in sorted(sizes))
            raise MediaError(f"the frames of one video are of several sizes: {listed} pixels")
        return cls(
            kind="video",
            content_type="video/jpeg",
            sha256=content_digest([[frame.sha256 for frame in frames], frames_per_second]),
            source=b"",
            frames=tuple(frames),
            frames_per_second=frames_per_second,
        )

    def data(self) -> bytes:
        """Read the file, which a video of frames has not.

        Raises:
            MediaError: The file has gone or has changed since it was loaded.
        """
        source = self.source
        if source is None:
            raise MediaError("the medium is not at hand: it is known from a kept run alone")
        data = source if isinstance(source, bytes) else _read(source)
        if isinstance(source, Path) and hashlib.sha256(data).hexdigest() != self.sha256:
            raise MediaError(f"{source} has changed since the run began")
        return data

    def part(self) -> ImagePart | VideoPart | FramesPart:
        """Read the file, or the frames, into a message part.

        Raises:
            MediaError: A file has gone or has changed since it was loaded.
        """
        if self.frames:
            return FramesPart(
                frames=tuple(frame.data() for frame in self.frames),
                frames_per_second=self.frames_per_second,
            )
        data = self.data()
        part = VideoPart if self.kind == "video" else ImagePart
        return part(data=data, content_type=self.content_type)

    def upright_size_px(self) -> tuple[int, int] | None:
        """Width and height of an image as it is to be looked at.

        Raises:
            MediaError: The file has gone, or is no image that is known here.
        """
        if self.source is None or self.kind != "image":
            return self.size_px
        return read_image_header(self.source).upright_size_px


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a sample: text and media in the order the model sees them."""

    role: Role
    parts: tuple[str | Medium, ...]

    def text(self) -> str:
        """Return the turn as text, with a placeholder for each medium."""
        return "".join(part if isinstance(part, str) else f"<{part.kind}>" for part in self.parts)


@dataclass(frozen=True, slots=True)
class Sample:
    """One question with its expected answer."""

    sample_id: str
    """Digest of media, prompt and target; ``#2`` and up mark repetitions within a task."""

    request_digest: str
    """Digest of what is sent and how it is sampled, the same for equal requests of any task."""

    turns: tuple[Turn, ...]
    params: SamplingParams
    target: str
    spoken_target: str = ""
    """The target as a model would say it; empty where it is not one text, and for samples of kept
    runs."""

    choices: tuple[str, ...] = ()
    """Answers from which the model chooses the likeliest; empty where it answers in its words."""

    @property
    def question(self) -> str:
        """The last turn of the user, as text."""
        return self._last_asked.text()

    @property
    def question_text(self) -> str:
        """What the last turn of the user says in letters: without its media's placeholders."""
        return "".join(part for part in self._last_asked.parts if isinstance(part, str))

    @property
    def _last_asked(self) -> Turn:
        return next(turn for turn in reversed(self.turns) if turn.role == "user")

    @property
    def media(self) -> tuple[Medium, ...]:
        """The media of all turns, in order."""
        return tuple(part for turn in self.turns for part in turn.parts if isinstance(part, Medium))

    def request(self, model: str) -> GenerationRequest:
        """Make the request that asks a model; it is known by ``request_digest``.

        Raises:
            MediaError: A file of the sample has gone or has changed.
        """
        return GenerationRequest(
            request_id=self.request_digest,
            model=model,
            messages=self._messages(),
            params=self.params,
        )

    def scoring_digest(self, answer: str) -> str:
        """Digest of what is sent to learn how likely an answer is."""
        return content_digest([_asked(self.turns), answer])

    def scoring_request(self, model: str, answer: str) -> ScoringRequest:
        """Make the request that asks how likely an answer is; known by ``scoring_digest``.

        Raises:
            MediaError: A file of the sample has gone or has changed.
        """
        return ScoringRequest(
            request_id=self.scoring_digest(answer),
            model=model,
            messages=self._messages(),
            target=answer,
        )

    def _messages(self) -> tuple[Message, ...]:
        return tuple(
            Message(role=turn.role, parts=tuple(_part(part) for part in turn.parts))
            for turn in self.turns
        )


def create_turns(messages: Sequence[Mapping[str, str]], media: Sequence[Medium]) -> list[Turn]:
    """Put media in the place of their placeholders, ``<image>`` and ``<video>``, in reading order.

    Args:
        messages: ``role`` and ``content`` of each turn.
        media: As many as there are placeholders, in the same order.

    Raises:
        MediaError: Their numbers differ, or an image stands where a video is announced.
    """
    announced = [kind for message in messages for kind in _PLACEHOLDER.findall(message["content"])]
    if len(announced) != len(media):
        raise MediaError(
            f"the prompt has {len(announced)} placeholder(s) <image> or <video>, "
            f"and the sample has {len(media)} image(s) and video(s)"
        )
    for place, (kind, medium) in enumerate(zip(announced, media, strict=True), start=1):
        if kind != medium.kind:
            raise MediaError(f"placeholder {place} is <{kind}>, its medium {medium.content_type}")
    left = iter(media)
    return [
        Turn(role=_role(message["role"]), parts=tuple(_split(message["content"], left)))
        for message in messages
    ]


def create_sample(
    turns: Sequence[Turn],
    target: str,
    params: SamplingParams,
    *,
    occurrence: int = 1,
    spoken_target: str | None = None,
) -> Sample:
    """Make a sample and name it by its content.

    Args:
        turns: The conversation to be answered.
        target: The expected answer.
        params: How to sample.
        occurrence: 1 for the first sample of this content in a task, 2 for the next, ...
        spoken_target: The target as a model would say it; the target itself when ``None``.
    """
    asked = _asked(turns)
    identity = content_digest([asked, target])[:_ID_HEX_DIGITS]
    return Sample(
        sample_id=identity if occurrence == 1 else f"{identity}#{occurrence}",
        request_digest=content_digest([asked, params.model_dump(mode="json"), occurrence]),
        turns=tuple(turns),
        params=params,
        target=target,
        spoken_target=target if spoken_target is None else spoken_target,
    )


def give_choices(sample: Sample, choices: Sequence[str]) -> Sample:
    """Have a sample answered by choosing the likeliest of given answers."""
    digest = content_digest([sample.request_digest, list(choices)])
    return replace(sample, choices=tuple(choices), request_digest=digest)


def content_digest(value: Any) -> str:
    """Give the SHA-256 of a JSON value in a canonical spelling, in hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _asked(turns: Sequence[Turn]) -> list[Any]:
    return [[turn.role, [_identity(part) for part in turn.parts]] for turn in turns]


def _identity(part: str | Medium) -> list[str]:
    return ["text", part] if isinstance(part, str) else [part.kind, part.sha256]


def _part(part: str | Medium) -> Part:
    return TextPart(text=part) if isinstance(part, str) else part.part()


def _split(content: str, media: Iterator[Medium]) -> Iterator[str | Medium]:
    # re.split with a group gives text, kind, text, kind, ..., text.
    for index, piece in enumerate(_PLACEHOLDER.split(content)):
        if index % 2:
            yield next(media)
        elif piece:
            yield piece


def _role(name: str) -> Role:
    for role in get_args(Role):
        if name == role:
            return role  # type: ignore[no-any-return]
    raise MediaError(f"a turn has the role {name!r}; known are {', '.join(get_args(Role))}")


def _source(value: Any, folder: Path) -> bytes | Path:
    if isinstance(value, Mapping):
        return _mapping_source(value, folder)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, Path):
        return folder / value
    if isinstance(value, str):
        if "://" in value:
            raise MediaError(f"{value}: held-out media must be files, not addresses")
        return folder / value
    if value is None:
        raise MediaError("the medium is missing (null)")
    from PIL import Image

    if isinstance(value, Image.Image):
        return _image_source(value)
    raise MediaError(
        f"a {type(value).__name__} is no medium: bytes, a path, a mapping of bytes and path, or a "
        "PIL image is expected"
    )


def _mapping_source(value: Mapping[str, Any], folder: Path) -> bytes | Path:
    data, path = value.get("bytes"), value.get("path")
    if data:
        return bytes(data)
    if path:
        return _source(str(path), folder)
    raise MediaError("the medium is empty: it has neither bytes nor a path")


def _image_source(image: Any) -> bytes | Path:
    from PIL import Image

    path = Path(getattr(image, "filename", "") or "")
    if path.is_file():
        # The file is the original only while nobody has drawn on the image or scaled it in place.
        with Image.open(path) as original:
            if original.mode == image.mode and original.tobytes() == image.tobytes():
                return path
    buffer = io.BytesIO()
    try:
        image.save(buffer, format="PNG")
    except OSError as error:
        raise MediaError(
            f"an image of mode {image.mode} cannot be written as PNG; let doc_to_image name the "
            "column, so that the original file is sent"
        ) from error
    return buffer.getvalue()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MediaError(f"{path}: {error.strerror or error}") from error


def _name(source: bytes | Path) -> str:
    return "the medium" if isinstance(source, bytes) else str(source)
