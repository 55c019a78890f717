"""A deterministic engine for unit tests: it answers from a function of the request."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from vlmserve.chat import Completion, Usage
from vlmserve.engine.base import (
    GenerationFailure,
    GenerationRequest,
    GenerationResult,
    ScoringRequest,
    ScoringResult,
    TargetLogprobs,
)
from vlmserve.errors import RequestError, ScoringUnsupportedError

if TYPE_CHECKING:
    from vlmserve.engine.base import Engine


class ScriptedEngine:
    """Answers each request with ``answer(request)``.

    Args:
        answer: Gives the text for a request; a ``RequestError`` that it raises becomes that
            request's failure, any other error ends the run as it would with a real engine.
        models: The names it serves.
        logprob: Gives the log-probability of each token of a given answer, in nats; a
            ``RequestError`` that it raises becomes that request's failure. Answers cannot be scored
            where it is ``None``.
    """

    def __init__(
        self,
        answer: Callable[[GenerationRequest], str],
        *,
        models: tuple[str, ...] = ("scripted",),
        logprob: Callable[[ScoringRequest], float] | None = None,
    ) -> None:
        self.models = models
        self.n_scored = 0
        """Answers scored so far."""
        self._logprob = logprob
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

    def score(self, requests: Iterable[ScoringRequest]) -> Iterator[ScoringResult]:
        """Tell the likelihood of each answer in the order of the requests.

        A word is a token, and an end token follows; all have the log-probability ``logprob(r)``.

        Raises:
            ScoringUnsupportedError: There is no ``logprob``.
        """
        if self._logprob is None:
            raise ScoringUnsupportedError("the scripted engine was given no log-probabilities")
        for request in requests:
            self.n_scored += 1
            yield ScoringResult(
                request_id=request.request_id,
                outcome=_likelihood(request, self._logprob),
                latency_s=0.0,
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


def _likelihood(
    request: ScoringRequest, logprob: Callable[[ScoringRequest], float]
) -> TargetLogprobs | GenerationFailure:
    try:
        each = logprob(request)
    except RequestError as error:
        return GenerationFailure.from_error(error)
    n = len(request.target.split()) + 1
    return TargetLogprobs(
        token_ids=tuple(range(n)),
        logprobs=(each,) * n,
        has_end=True,
        is_greedy=each == 0.0,
        n_bytes=len(request.target.encode()),
        prompt_tokens=sum(len(message.parts) for message in request.messages),
    )


def _conforms(engine: ScriptedEngine) -> "Engine":
    return engine
