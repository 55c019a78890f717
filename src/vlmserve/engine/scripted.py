"""A deterministic engine for unit tests: it answers from a function of the request."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from vlmserve.chat import Completion, Usage
from vlmserve.engine.base import GenerationFailure, GenerationRequest, GenerationResult
from vlmserve.errors import RequestError

if TYPE_CHECKING:
    from vlmserve.engine.base import Engine


class ScriptedEngine:
    """Answers each request with ``answer(request)``.

    Args:
        answer: Gives the text for a request; a ``RequestError`` that it raises becomes that
            request's failure, any other error ends the run as it would with a real engine.
        models: The names it serves.
    """

    def __init__(
        self, answer: Callable[[GenerationRequest], str], *, models: tuple[str, ...] = ("scripted",)
    ) -> None:
        self.models = models
        self.n_requests = 0
        """Requests seen so far."""
        self._answer = answer

    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[GenerationResult]:
        """Answer in the order of the requests."""
        for request in requests:
            self.n_requests += 1
            yield GenerationResult(
                request_id=request.request_id, outcome=self._outcome(request), latency_s=0.0
            )

    def _outcome(self, request: GenerationRequest) -> Completion | GenerationFailure:
        try:
            words = self._answer(request).split()
        except RequestError as error:
            return GenerationFailure.from_error(error)
        kept = words[: request.params.max_tokens]
        n_parts = sum(len(message.parts) for message in request.messages)
        return Completion(
            text=" ".join(kept),
            finish_reason="stop" if kept == words else "length",
            usage=Usage(prompt_tokens=n_parts, completion_tokens=len(kept)),
        )

    def close(self) -> None:
        """Nothing to release."""


def _conforms(engine: ScriptedEngine) -> "Engine":
    return engine
