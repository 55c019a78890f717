"""Samples: what is asked and expected, known by content and never by row number."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from vlmserve.chat import Message, Part, Role, SamplingParams, TextPart
from vlmserve.engine.base import GenerationRequest, ScoringRequest
from vlmserve.errors import MediaError
from vlmserve.evals.digests import content_digest
from vlmserve.evals.medium import Medium

# lm-eval's placeholder for an image, and ours for a video.
_PLACEHOLDER = re.compile(r"<(image|video)>")

_ID_HEX_DIGITS = 32

# The examples of a few-shot prompt are drawn with it: the same for both sides and for every run,
# or no answer would be found in the store again. The number is lm-eval's own default.
FEWSHOT_SEED = 1234


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
