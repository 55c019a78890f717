"""The words every floor speaks: messages in, completions out."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

FinishReason = Literal["stop", "length", "abort"]
"""Why generation ended: an end token or stop string, the token limit, or the caller left."""

Role = Literal["system", "user", "assistant"]


class Value(BaseModel):
    """Base of the plain values: frozen, no unknown fields, docstrings become descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class TextPart(Value):
    """A run of text in a message."""

    kind: Literal["text"] = "text"
    text: str


class ImagePart(Value):
    """An image in a message, already fetched."""

    kind: Literal["image"] = "image"
    data: bytes = Field(repr=False)
    """The encoded file (PNG, JPEG, WebP, ...) as it was found, never re-encoded; not pixels."""

    content_type: str
    """MIME type of ``data``, such as ``image/png``."""


class VideoPart(Value):
    """A video in a message, already fetched."""

    kind: Literal["video"] = "video"
    data: bytes = Field(repr=False)
    """The encoded file (MP4, WebM, ...) as it was found, never re-encoded; not frames."""

    content_type: str
    """MIME type of ``data``, such as ``video/mp4``."""


class FramesPart(Value):
    """A video in a message that is given as pictures, already fetched."""

    kind: Literal["frames"] = "frames"
    frames: tuple[bytes, ...] = Field(repr=False)
    """The encoded files (JPEG, PNG, ...) as they were found, in order, all of one size."""

    frames_per_second: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    """How densely they were taken; the server's own idea when unset."""


Part = Annotated[TextPart | ImagePart | VideoPart | FramesPart, Field(discriminator="kind")]
"""One piece of a message; the order of parts is the order the model sees."""


class Message(Value):
    """One turn of a conversation."""

    role: Role
    parts: tuple[Part, ...]


class SamplingParams(Value):
    """How to sample; names and meanings are vLLM's and OpenAI's."""

    temperature: float = Field(default=0.0, ge=0.0)
    """0 is greedy."""

    top_p: float = Field(default=1.0, gt=0.0, le=1.0)

    max_tokens: int = Field(default=256, gt=0)
    """Tokens to generate at most."""

    stop: tuple[str, ...] = ()
    """Strings that end the answer; they are not part of it."""

    seed: int | None = None


class Usage(Value):
    """What one answer cost, in tokens."""

    prompt_tokens: int = Field(ge=0)
    """Includes the tokens that images and videos expand to."""

    completion_tokens: int = Field(ge=0)


class ChoiceLikelihood(Value):
    """How likely a model finds one of the answers that it was given to choose from."""

    logprob: float
    """In nats, over the tokens of the answer without the one that ends it."""

    is_greedy: bool
    """Whether each of them is the likeliest one at its place."""


class Completion(Value):
    """What a model answered."""

    text: str
    finish_reason: FinishReason
    usage: Usage
    choices: tuple[ChoiceLikelihood, ...] = ()
    """Where it chose from given answers: of each of them, in their order; ``text`` is the likeliest
    one."""

    latency_s: float | None = Field(default=None, ge=0.0)
    """Seconds from the submission of the request to its end, waiting and retries among them;
    ``None`` where nobody measured."""

    reasoning: str | None = None
    """What the model thought before it answered, where that is told apart; no part of ``text``."""
