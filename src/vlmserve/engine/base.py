"""The one seam between vlmserve and whatever generates text."""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from pydantic import Field

from vlmserve.chat import Completion, Message, SamplingParams, Value
from vlmserve.errors import VlmserveError


class GenerationRequest(Value):
    """One conversation to be answered."""

    request_id: str
    """The caller's own name for it; unique within one call of ``generate``."""

    model: str
    """The served name of a base model or an adapter; one of ``Engine.models``."""

    messages: tuple[Message, ...]
    params: SamplingParams
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the chat template, on top of the served ones."""

    reasoning_parser: str | None = None
    """vLLM's name of the format by which reasoning is told from the answer. Endpoints do that by
    themselves, or not at all."""


class GenerationFailure(Value):
    """One conversation that could not be answered; the others are not affected."""

    error_type: str
    """Name of the error's class in ``vlmserve.errors``, such as ``ContextLengthError``."""

    message: str

    @classmethod
    def from_error(cls, error: VlmserveError) -> "GenerationFailure":
        """Keep what the user needs of an error."""
        return cls(error_type=type(error).__name__, message=error.message)


class GenerationResult(Value):
    """What became of one request."""

    request_id: str
    outcome: Completion | GenerationFailure
    latency_s: float
    """Seconds from the submission of the request to its end."""


class ScoringRequest(Value):
    """One conversation and an answer to it, of which the model's log-probability is asked."""

    request_id: str
    """The caller's own name for it; unique within one call of ``score``."""

    model: str
    """The served name of a base model or an adapter; one of ``Engine.models``."""

    messages: tuple[Message, ...]
    """Up to the answer."""

    target: str
    """The answer."""

    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the chat template, on top of the served ones."""


class TargetLogprobs(Value):
    """How likely a model finds each token of an answer, given what comes before it."""

    token_ids: tuple[int, ...]
    """The answer as the served chat template writes it, and then the token that ends it; shape
    ``(n,)``."""

    logprobs: tuple[float, ...]
    """Of each of them, in nats, at most 0, finite; shape ``(n,)``."""

    has_end: bool
    """Whether the last one ends the answer; a template may write no such token."""

    is_greedy: bool
    """Whether every token of the answer itself is the likeliest one at its place."""

    n_bytes: int = Field(gt=0)
    """Length of the answer in UTF-8."""

    prompt_tokens: int = Field(ge=0)
    """Tokens before the answer, media included."""


class ScoringResult(Value):
    """What became of one scoring request."""

    request_id: str
    outcome: TargetLogprobs | GenerationFailure
    latency_s: float
    """Seconds from the submission of the request to its end."""


class Engine(Protocol):
    """Something that answers conversations; the eval runner knows only this."""

    @property
    def models(self) -> tuple[str, ...]:
        """The names that requests may ask for."""
        ...

    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[GenerationResult]:
        """Answer many conversations at once.

        Results come as they finish, in no stated order, exactly one for each request: a failure
        that concerns one request (too long, undecodable image) is a result, not an exception.
        Closing the iterator aborts what is still running.

        Raises:
            EngineError: The engine or endpoint is gone; requests without a result were not
                answered.
        """
        ...

    def score(self, requests: Iterable[ScoringRequest]) -> Iterator[ScoringResult]:
        """Tell how likely given answers are, token by token (teacher forcing).

        The answer is written as the served chat template writes a turn of the assistant, its end
        token included. Where the template changes the answer, or the text before it, the request
        fails: a number would be about something else. Results come as those of ``generate`` do.

        Raises:
            ScoringUnsupportedError: The endpoint gives no log-probabilities of a prompt's tokens.
            EngineError: The engine or endpoint is gone.
        """
        ...

    def close(self) -> None:
        """Release devices, memory and processes; safe to call twice."""
        ...
