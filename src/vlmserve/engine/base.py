"""The one seam between vlmserve and whatever generates text."""

from collections.abc import Iterable, Iterator
from typing import Protocol

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

    def close(self) -> None:
        """Release devices, memory and processes; safe to call twice."""
        ...
