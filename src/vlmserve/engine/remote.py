"""Any endpoint with OpenAI's chat API as an engine, through OpenAI's own client."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import httpx2
import openai
from openai.types.chat import ChatCompletion

from vlmserve.chat import Completion, FinishReason, Usage
from vlmserve.engine.base import (
    GenerationFailure,
    GenerationRequest,
    GenerationResult,
    ScoringRequest,
    ScoringResult,
    TargetLogprobs,
)
from vlmserve.engine.openai_messages import openai_messages
from vlmserve.engine.remote_scoring import (
    answer_body,
    names_an_addition,
    question_body,
    read_logprobs,
)
from vlmserve.errors import (
    AuthenticationError,
    ConfigError,
    ContextLengthError,
    EngineError,
    EngineUnavailableError,
    MediaError,
    ModelNotFoundError,
    RequestError,
    ScoringUnsupportedError,
    VlmserveError,
)

if TYPE_CHECKING:
    from vlmserve.engine.base import Engine

T = TypeVar("T")
Q = TypeVar("Q", GenerationRequest, ScoringRequest)
Answer = TypeVar("Answer", Completion, TargetLogprobs)

_CONNECT_TIMEOUT_S = 10.0

# OpenAI's client insists on a key; endpoints without one ignore what is sent.
_NO_API_KEY = "none"

_GONE = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE)

# A request with all its tries may take this many times an answer's own limit: the client would send
# what took too long again and again, and the server may still be at work on the first.
_PATIENCE = 2

# What reading a body raises that is not of OpenAI's shape; the client does not check it.
_MALFORMED = (AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a model is served, and how patiently to ask it."""

    url: str
    """Base of the API: ``http://host:8000/v1``. Without a path ``/v1`` is meant."""

    api_key: str | None = field(default=None, repr=False)
    concurrency: int = 16
    """Requests in flight at once."""

    timeout_s: float = 600.0
    """Seconds that one answer may take; a request with all its tries ends after twice that."""

    max_retries: int = 4
    """How often a request is sent again when the endpoint is busy or fails; OpenAI's client waits
    half a second before the first, twice as long before each further one, 8 s at most."""

    has_fixed_sampling: bool = False
    """Whether the model takes no temperature and the like, as OpenAI's reasoning models do, which
    also know the limit of tokens as ``max_completion_tokens`` alone."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", _normal_url(self.url))
        # A file or a shell's $(...) leaves a line's end behind the key.
        key = (self.api_key or "").strip()
        if not (key.isascii() and key.isprintable()):
            # Without the key: the message ends up in logs.
            raise ConfigError("the API key has characters other than printable ASCII")
        object.__setattr__(self, "api_key", key or None)


def _normal_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port  # parsed, and refused, only when it is asked for
        httpx2.URL(url)
    except (ValueError, httpx2.InvalidURL) as error:
        raise ConfigError(f"{url}: not a URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ConfigError(f"{url}: expected a URL such as http://host:8000/v1")
    if parts.path in ("", "/"):
        return f"{parts.scheme}://{parts.netloc}/v1"
    return url


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
            timeout=openai.Timeout(endpoint.timeout_s, connect=_CONNECT_TIMEOUT_S),
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
            raise self._translate(error) from error
        except _MALFORMED as error:
            raise EngineError(f"{self._endpoint.url}/models is not OpenAI's list") from error

    async def _answer(self, request: GenerationRequest) -> GenerationResult:
        started = time.perf_counter()
        body = _body(request, has_fixed_sampling=self._endpoint.has_fixed_sampling)

        async def ask() -> Completion:
            return _completion(await self._client.chat.completions.create(**body))

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
                if names_an_addition(_message(error)):
                    said = f"{self._endpoint.url}: {_message(error)}"
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
            translated = self._translate(error)
            if _ends_the_run(error, translated):
                raise translated from error
            return GenerationFailure.from_error(translated)
        except ScoringUnsupportedError:
            raise
        except (EngineError, RequestError) as error:
            return GenerationFailure.from_error(error)
        except TimeoutError:
            return GenerationFailure.from_error(self._too_slow())
        except _MALFORMED as error:
            return GenerationFailure.from_error(
                EngineError(
                    f"the endpoint's answer is not a chat completion: {type(error).__name__}"
                )
            )

    def _too_slow(self) -> EngineError:
        return EngineError(f"{self._endpoint.url}: no answer within {self._endpoint.timeout_s:g} s")

    def _translate(self, error: openai.OpenAIError) -> VlmserveError:
        url, cause = self._endpoint.url, error.__cause__
        match error:
            case openai.APITimeoutError() if isinstance(cause, httpx2.ConnectTimeout):
                return EngineUnavailableError(
                    f"{url}: no connection within {_CONNECT_TIMEOUT_S:g} s"
                )
            case openai.APITimeoutError():
                return self._too_slow()
            case openai.APIConnectionError() if isinstance(cause, httpx2.DecodingError):
                return EngineError(f"{url}: the answer cannot be decoded: {cause}")
            case openai.APIConnectionError():
                return EngineUnavailableError(f"{url}: no connection: {cause or error}")
            case openai.APIStatusError():
                return _status_error(error, url)
            case _:
                return EngineError(f"{url}: {error}")


def _status_error(error: openai.APIStatusError, url: str) -> VlmserveError:
    said = f"{url}: {_message(error)}"
    match error:
        case openai.AuthenticationError() | openai.PermissionDeniedError():
            return AuthenticationError(said)
        case openai.NotFoundError():
            return ModelNotFoundError(said, param="model")
        case openai.InternalServerError() if error.status_code not in _GONE:
            return EngineError(said)
        case openai.InternalServerError() | openai.RateLimitError():
            return EngineUnavailableError(said)
        case _:
            return _request_error(error)


def _body(request: GenerationRequest, *, has_fixed_sampling: bool = False) -> dict[str, Any]:
    params = request.params
    body: dict[str, Any] = {
        "model": request.model,
        "messages": openai_messages(request.messages),
    }
    if has_fixed_sampling:
        return {**body, "max_completion_tokens": params.max_tokens}
    body |= {
        "temperature": params.temperature,
        "top_p": params.top_p,
        "max_tokens": params.max_tokens,
    }
    if params.stop:
        body["stop"] = list(params.stop)
    if params.seed is not None:
        body["seed"] = params.seed
    if request.chat_template_kwargs:
        # vLLM's addition to OpenAI's API; an endpoint that does not know it should say so.
        body["extra_body"] = {"chat_template_kwargs": request.chat_template_kwargs}
    return body


def _completion(answer: Any) -> Completion:
    # The client does not check what an endpoint sends against its own types.
    if not isinstance(answer, ChatCompletion) or not answer.choices:
        raise EngineError("the endpoint's answer is not a chat completion")
    if answer.usage is None:
        raise EngineError("the endpoint's answer states no token usage")
    choice = answer.choices[0]
    reasons: dict[str, FinishReason] = {"stop": "stop", "length": "length", "abort": "abort"}
    reason = reasons.get(choice.finish_reason)
    if reason is None:
        raise EngineError(f"the endpoint ended the answer because of {choice.finish_reason}")
    text = choice.message.content or choice.message.refusal or ""
    reasoning = _reasoning(choice.message)
    if reasoning is not None and not text and reason == "stop":
        # A trace that was never closed has used up all there was, whatever ended it.
        reason = "length"
    return Completion(
        # No content and no error is an answer of no words, as when thinking used up the limit.
        text=text,
        reasoning=reasoning,
        finish_reason=reason,
        usage=Usage(
            prompt_tokens=answer.usage.prompt_tokens,
            completion_tokens=answer.usage.completion_tokens,
        ),
    )


def _reasoning(message: Any) -> str | None:
    """What the endpoint tells apart: vLLM's name for it, and the older one that others use."""
    extra = message.model_extra or {}
    found = extra.get("reasoning") or extra.get("reasoning_content")
    return found if isinstance(found, str) else None


def _model_name(entry: Any) -> str:
    if not isinstance(entry.id, str):
        raise TypeError("a model's id is not a string")
    return entry.id


def _ends_the_run(error: openai.OpenAIError, translated: VlmserveError) -> bool:
    """Whether every other request would fare the same."""
    if isinstance(error, openai.RateLimitError):
        return False
    return isinstance(translated, EngineUnavailableError | AuthenticationError | ModelNotFoundError)


def _request_error(error: openai.APIStatusError) -> RequestError:
    message = _message(error)
    # vLLM's own server gives a number as the code; its sentence is all there is to go by.
    if error.code == ContextLengthError.code or "maximum context length" in message:
        return ContextLengthError(message, param=error.param)
    if error.code == MediaError.code:
        return MediaError(message, param=error.param)
    return RequestError(message, param=error.param, code=error.code)


def _message(error: openai.APIStatusError) -> str:
    if isinstance(error.body, dict) and isinstance(error.body.get("message"), str):
        return str(error.body["message"])
    return f"HTTP {error.status_code}"


def _conforms(engine: RemoteEngine) -> "Engine":
    return engine
