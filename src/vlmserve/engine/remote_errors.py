"""What goes wrong between OpenAI's client and an endpoint, in this program's own errors."""

from http import HTTPStatus

import httpx2
import openai

from vlmserve.engine.endpoint import Endpoint
from vlmserve.errors import (
    AuthenticationError,
    ContextLengthError,
    EngineError,
    EngineUnavailableError,
    MediaError,
    ModelNotFoundError,
    RequestError,
    VlmserveError,
)

_GONE = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE)


def translate_error(error: openai.OpenAIError, endpoint: Endpoint) -> VlmserveError:
    """Say what went wrong between OpenAI's client and an endpoint, the endpoint named."""
    url, cause = endpoint.url, error.__cause__
    match error:
        case openai.APITimeoutError() if isinstance(cause, httpx2.ConnectTimeout):
            return EngineUnavailableError(
                f"{url}: no connection within {endpoint.connect_timeout_s:g} s"
            )
        case openai.APITimeoutError():
            return too_slow(endpoint)
        case openai.APIConnectionError() if isinstance(cause, httpx2.DecodingError):
            return EngineError(f"{url}: the answer cannot be decoded: {cause}")
        case openai.APIConnectionError():
            return EngineUnavailableError(f"{url}: no connection: {cause or error}")
        case openai.APIStatusError():
            return _status_error(error, url)
        case _:
            return EngineError(f"{url}: {error}")


def ends_the_run(error: openai.OpenAIError, translated: VlmserveError) -> bool:
    """Whether every other request would fare the same."""
    if isinstance(error, openai.RateLimitError):
        return False
    return isinstance(translated, EngineUnavailableError | AuthenticationError | ModelNotFoundError)


def too_slow(endpoint: Endpoint) -> EngineError:
    """The error of an answer that did not come in time."""
    return EngineError(f"{endpoint.url}: no answer within {endpoint.timeout_s:g} s")


def error_message(error: openai.APIStatusError) -> str:
    """What the endpoint said, or the status where it said nothing."""
    if isinstance(error.body, dict) and isinstance(error.body.get("message"), str):
        return str(error.body["message"])
    return f"HTTP {error.status_code}"


def _status_error(error: openai.APIStatusError, url: str) -> VlmserveError:
    said = f"{url}: {error_message(error)}"
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


def _request_error(error: openai.APIStatusError) -> RequestError:
    message = error_message(error)
    # vLLM's own server gives a number as the code; its sentence is all there is to go by.
    if error.code == ContextLengthError.code or "maximum context length" in message:
        return ContextLengthError(message, param=error.param)
    if error.code == MediaError.code:
        return MediaError(message, param=error.param)
    return RequestError(message, param=error.param, code=error.code)
