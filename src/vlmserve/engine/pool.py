"""Several endpoints that serve the same as one engine: the least loaded one is asked."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from vlmserve.engine.base import GenerationRequest, GenerationResult, ScoringRequest, ScoringResult
from vlmserve.engine.remote import RemoteEngine
from vlmserve.errors import EngineUnavailableError

if TYPE_CHECKING:
    from vlmserve.engine.base import Engine

_LOG = logging.getLogger(__name__)

Q = TypeVar("Q", GenerationRequest, ScoringRequest)
T = TypeVar("T")


@dataclass(slots=True)
class _Member:
    engine: RemoteEngine
    model: str
    """What the endpoint calls the model."""

    n_running: int = 0
    is_gone: bool = False

    @property
    def load(self) -> float:
        return self.n_running / self.engine.concurrency


class EndpointPool:
    """Endpoints with OpenAI's chat API that all serve one model.

    One that is gone is asked no more, with a warning, and what it was asked goes to the others; the
    run ends when the last one is gone.

    Args:
        members: The endpoints, each with its own name of the model.
        name: What requests call the model.
    """

    def __init__(self, members: Sequence[tuple[RemoteEngine, str]], name: str) -> None:
        self._members = [_Member(engine, model) for engine, model in members]
        self.models = (name,)

    def __enter__(self) -> "EndpointPool":
        """Use the engine in a ``with`` block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close all endpoints."""
        self.close()

    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[GenerationResult]:
        """Answer many conversations at once; see ``Engine.generate``.

        Raises:
            EngineUnavailableError: The last endpoint is gone.
            AuthenticationError: A key is missing or wrong.
            ModelNotFoundError: The model is no longer served.
        """
        return self._run(requests, RemoteEngine.start_generation)

    def score(self, requests: Iterable[ScoringRequest]) -> Iterator[ScoringResult]:
        """Tell how likely given answers are; see ``Engine.score``."""
        return self._run(requests, RemoteEngine.start_scoring)

    def close(self) -> None:
        """Close the connections; safe to call twice."""
        for member in self._members:
            member.engine.close()

    def _run(
        self, requests: Iterable[Q], start: Callable[[RemoteEngine, Q], "Future[T]"]
    ) -> Iterator[T]:
        waiting = iter(requests)
        # What an endpoint that is gone has left unanswered.
        orphans: deque[Q] = deque()
        running: dict[Future[T], tuple[_Member, Q]] = {}
        try:
            while True:
                while (member := self._least_loaded()) is not None:
                    request = orphans.popleft() if orphans else next(waiting, None)
                    if request is None:
                        break
                    own = request.model_copy(update={"model": member.model})
                    running[start(member.engine, own)] = (member, request)
                    member.n_running += 1
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                # Answers before the error that may have come with them.
                for future in sorted(done, key=lambda future: future.exception() is not None):
                    member, request = running.pop(future)
                    member.n_running -= 1
                    error = future.exception()
                    if isinstance(error, EngineUnavailableError):
                        self._drop(member, error)
                        orphans.append(request)
                    else:
                        yield future.result()
        finally:
            for future, (member, _) in running.items():
                future.cancel()
                member.n_running -= 1

    def _least_loaded(self) -> _Member | None:
        """The endpoint to be asked next; ``None`` where all that live are busy."""
        free = [member for member in self._members if not member.is_gone and member.load < 1]
        return min(free, key=lambda member: member.load, default=None)

    def _drop(self, member: _Member, error: EngineUnavailableError) -> None:
        if member.is_gone:
            return
        member.is_gone = True
        n_left = sum(not other.is_gone for other in self._members)
        if n_left == 0:
            raise error
        _LOG.warning(
            "asked no more: %s; %d of %d endpoints are left", error, n_left, len(self._members)
        )


def _conforms(engine: EndpointPool) -> "Engine":
    return engine
