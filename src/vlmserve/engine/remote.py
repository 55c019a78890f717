"""Any endpoint with OpenAI's chat API as an engine, through OpenAI's own client."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import openai

from vlmserve.chat import Completion
from vlmserve.engine.base import (
    GenerationFailure,
    GenerationRequest,
    GenerationResult,
    ScoringRequest,
    ScoringResult,
    TargetLogprobs,
)
from vlmserve.engine.endpoint import Endpoint
from vlmserve.engine.remote_chat import chat_body, read_completion
from vlmserve.engine.remote_errors import ends_the_run, error_message, too_slow, translate_error
from vlmserve.engine.remote_scoring import (
    answer_body,
    names_an_addition,
    question_body,
    read_logprobs,
)
from vlmserve.errors import (
    EngineError,
    RequestError,
    ScoringUnsupportedError,
)

if TYPE_CHECKING:
    from vlmserve.engine.base import Engine

T = TypeVar("T")
Q = TypeVar("Q", GenerationRequest, ScoringRequest)
Answer = TypeVar("Answer", Completion, TargetLogprobs)

# OpenAI's client insists on a key; endpoints without one ignore what is sent.
_NO_API_KEY = "none"

# A request with all its tries may take this many times an answer's own limit: the client would send
# what took too long again and again, and the server may still be at work on the first.
_PATIENCE = 2

# What reading a body raises that is not of OpenAI's shape; the client does not check it.
_MALFORMED = (AttributeError, LookupError, TypeError, ValueError)


class RemoteEngine:
    """An endpoint with OpenAI's chat API.

    Busy or failing answers are retried. What concerns one request becomes that request's failure;
    an endpoint that is gone, refuses the key or has no such model ends the run.

    Args:
        endpoint: Where and how to ask. Nothing is sent before the first question.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._client = openai.AsyncOpenAI(
            base_url=endpoint.url,
            api_key=endpoint.api_key or _NO_API_KEY,
            timeout=openai.Timeout(endpoint.timeout_s, connect=endpoint.connect_timeout_s),
            max_retries=endpoint.max_retries,
        )
        self._models: tuple[str, ...] | None = None
        # The asynchronous client, because closing a run must also close its connections: that is
        # what makes a server stop generating.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    @property
    def models(self) -> tuple[str, ...]:
        """The names that the endpoint lists; it is asked once.

        Raises:
            AuthenticationError: The key is missing or wrong.
            EngineError: The endpoint is gone or does not list its models.
        """
        if self._models is None:
            self._models = self._submit(self._list_models()).result()
        return self._models

    def __enter__(self) -> "RemoteEngine":
        """Use the engine in a ``with`` block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the engine."""
        self.close()

    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[GenerationResult]:
        """Answer many conversations at once; see ``Engine.generate``.

        Requests are taken from the iterable as connections become free.

        Raises:
            EngineUnavailableError: The endpoint is gone or keeps saying that it is.
            AuthenticationError: The key is missing or wrong.
            ModelNotFoundError: A request asks for a model that is not served.
        """
        return self._run(requests, self._answer)

    def score(self, requests: Iterable[ScoringRequest]) -> Iterator[ScoringResult]:
        """Tell how likely given answers are; see ``Engine.score``.

        The endpoint must be vLLM's, or one that tells a prompt's log-probabilities as it does. Each
        answer takes two requests of one generated token.

        Raises:
            ScoringUnsupportedError: It does not tell them.
            EngineUnavailableError: The endpoint is gone or keeps saying that it is.
            AuthenticationError: The key is missing or wrong.
            ModelNotFoundError: A request asks for a model that is not served.
        """
        return self._run(requests, self._likelihood)

    @property
    def concurrency(self) -> int:
        """Requests in flight at once, at most."""
        return self._endpoint.concurrency

    def start_generation(self, request: GenerationRequest) -> "Future[GenerationResult]":
        """Ask one conversation, whatever else is in flight; raises what ``generate`` does."""
        return self._submit(self._answer(request))

    def start_scoring(self, request: ScoringRequest) -> "Future[ScoringResult]":
        """Score one answer, whatever else is in flight; raises what ``score`` does."""
        return self._submit(self._likelihood(request))

    def _run(
        self, requests: Iterable[Q], work: Callable[[Q], Coroutine[Any, Any, T]]
    ) -> Iterator[T]:
        if self._loop.is_closed():
            raise EngineError("the engine is closed")
        waiting = iter(requests)
        running: set[Future[T]] = set()
        try:
            while True:
                for request in islice(waiting, self._endpoint.concurrency - len(running)):
                    running.add(self._submit(work(request)))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                # Answers before the error that may have come with them.
                for future in sorted(done, key=lambda future: future.exception() is not None):
                    yield future.result()
        finally:
            for future in running:
                future.cancel()

    def close(self) -> None:
        """Close the connections; safe to call twice."""
        if self._loop.is_closed():
            return
        self._submit(self._shut_down()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _shut_down(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()

    async def _list_models(self) -> tuple[str, ...]:
        try:
            # The first contact: an endpoint that is not there should be said at once.
            page = await self._client.with_options(max_retries=1).models.list()
            return tuple(_model_name(entry) for entry in page.data)
        except openai.NotFoundError as error:
            raise EngineError(f"{self._endpoint.url} has no /models: is this the API?") from error
        except openai.OpenAIError as error:
            raise translate_error(error, self._endpoint) from error
        except _MALFORMED as error:
            raise EngineError(f"{self._endpoint.url}/models is not OpenAI's list") from error

    async def _answer(self, request: GenerationRequest) -> GenerationResult:
        started = time.perf_counter()
        body = chat_body(request, has_fixed_sampling=self._endpoint.has_fixed_sampling)

        async def ask() -> Completion:
            return read_completion(await self._client.chat.completions.create(**body))

        outcome = await self._outcome(ask)
        return GenerationResult(
            request_id=request.request_id,
            outcome=outcome,
            latency_s=time.perf_counter() - started,
        )

    async def _likelihood(self, request: ScoringRequest) -> ScoringResult:
        started = time.perf_counter()

        async def ask() -> TargetLogprobs:
            create = self._client.chat.completions.create
            try:
                question = await create(**question_body(request))
                answer = await create(**answer_body(request))
            except openai.BadRequestError as error:
                if names_an_addition(error_message(error)):
                    said = f"{self._endpoint.url}: {error_message(error)}"
                    raise ScoringUnsupportedError(said) from error
                raise
            return read_logprobs(request, question, answer)

        outcome = await self._outcome(ask)
        return ScoringResult(
            request_id=request.request_id,
            outcome=outcome,
            latency_s=time.perf_counter() - started,
        )

    async def _outcome(
        self, ask: Callable[[], Coroutine[Any, Any, Answer]]
    ) -> Answer | GenerationFailure:
        """Ask in time; what concerns this request alone is its failure."""
        try:
            async with asyncio.timeout(_PATIENCE * self._endpoint.timeout_s):
                return await ask()
        except openai.OpenAIError as error:
            translated = translate_error(error, self._endpoint)
            if ends_the_run(error, translated):
                raise translated from error
            return GenerationFailure.from_error(translated)
        except ScoringUnsupportedError:
            raise
        except (EngineError, RequestError) as error:
            return GenerationFailure.from_error(error)
        except TimeoutError:
            return GenerationFailure.from_error(too_slow(self._endpoint))
        except _MALFORMED as error:
            return GenerationFailure.from_error(
                EngineError(
                    f"the endpoint's answer is not a chat completion: {type(error).__name__}"
                )
            )


def _model_name(entry: Any) -> str:
    if not isinstance(entry.id, str):
        raise TypeError("a model's id is not a string")
    return entry.id


def _conforms(engine: RemoteEngine) -> "Engine":
    return engine
