"""Every error vlmserve raises on purpose.

The tree, with the exit status a command ends with and the HTTP status a route answers with:

    VlmserveError               70  500
      ConfigError                2    -   a command line, a file in configs/ or evals/ is wrong
      CheckpointError            4    -   the checkpoint cannot be served as it lies on disk
        AdapterMismatchError     4    -   the adapter does not fit the base it is laid on
      EngineError                5  500   the engine or endpoint failed while running
        EngineUnavailableError   5  503   it is loading, overloaded or gone
        ScoringUnsupportedError  5    -   it cannot tell how likely a given answer is
          OverloadedError        5  429   more requests wait than the server takes
          DeadlineError          5  503   the request's turn would not come in its time
          RequestTimeoutError    5  504   the request was computed longer than its time
      RequestError               2  400   one request is wrong
        UnsupportedParameterError    400  a known parameter that this server does not honour
        ContextLengthError           400  prompt and media exceed max_model_len
        MediaError                   400  an image or a video cannot be read or is over a limit
        ModelNotFoundError           404  no such model or adapter is served
        AuthenticationError          401  the API key is missing or wrong
        ConflictError                409  it contradicts what is loaded or named already
        BodyTooLargeError            413  the body is larger than the server reads
        SlowRequestError             408  the body did not arrive in time

A regression is not an error: it is a verdict (see vlmserve.evals.gate), with exit status 1.
"""

from http import HTTPStatus
from typing import ClassVar

__all__ = [
    "AdapterMismatchError",
    "AuthenticationError",
    "BodyTooLargeError",
    "CheckpointError",
    "ConfigError",
    "ConflictError",
    "ContextLengthError",
    "DeadlineError",
    "EngineError",
    "EngineUnavailableError",
    "MediaError",
    "ModelNotFoundError",
    "OverloadedError",
    "RequestError",
    "RequestTimeoutError",
    "ScoringUnsupportedError",
    "SlowRequestError",
    "UnsupportedParameterError",
    "VlmserveError",
]


class VlmserveError(Exception):
    """Base of every error vlmserve raises on purpose.

    Args:
        message: One sentence naming the thing at fault; shown to the user as it is.
        hint: What to do about it, if that is known.
    """

    exit_code: ClassVar[int] = 70
    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR
    type: ClassVar[str] = "server_error"
    code: str | None = None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(VlmserveError):
    """A configuration file, suite or command line is wrong; the message names file and field."""

    exit_code = 2


class CheckpointError(VlmserveError):
    """The checkpoint cannot be served as it lies on disk."""

    exit_code = 4


class AdapterMismatchError(CheckpointError):
    """The adapter does not fit the base model it is laid on."""


class EngineError(VlmserveError):
    """The engine or endpoint failed while loading or generating."""

    exit_code = 5


class EngineUnavailableError(EngineError):
    """The engine is loading, overloaded or gone; the same request may succeed later."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class ScoringUnsupportedError(EngineError):
    """The endpoint cannot tell how likely a given answer is; it may answer all the same."""


class OverloadedError(EngineUnavailableError):
    """More requests wait than the server takes.

    Args:
        message: One sentence for the caller.
        retry_after_s: Whole seconds after which to try again.
    """

    status = HTTPStatus.TOO_MANY_REQUESTS
    type = "rate_limit_error"
    code = "queue_full"

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineError(OverloadedError):
    """The request's turn would not come, or did not come, within its time."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    type = "server_error"
    code = "deadline_unmeetable"


class RequestTimeoutError(EngineUnavailableError):
    """The request was computed for longer than its time; it was given up in the engine, too."""

    status = HTTPStatus.GATEWAY_TIMEOUT
    code = "request_timeout"


class RequestError(VlmserveError):
    """One request cannot be honoured as it stands.

    Args:
        message: One sentence for the caller.
        param: The request field at fault, dotted: ``messages[0].content[1].image_url``.
        code: OpenAI's machine-readable string, where the class has none of its own.
        hint: What to do about it, if that is known.
    """

    exit_code = 2
    status = HTTPStatus.BAD_REQUEST
    type = "invalid_request_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.param = param
        if code is not None:
            self.code = code


class UnsupportedParameterError(RequestError):
    """A known OpenAI parameter that this server does not honour was given a value."""

    code = "unsupported_parameter"


class ContextLengthError(RequestError):
    """Prompt, media and requested output exceed ``max_model_len`` tokens."""

    code = "context_length_exceeded"


class MediaError(RequestError):
    """An image or a video cannot be fetched or decoded, or is over a limit."""

    code = "invalid_media"


class ModelNotFoundError(RequestError):
    """No model or adapter of that name is served here."""

    status = HTTPStatus.NOT_FOUND
    code = "model_not_found"


class AuthenticationError(RequestError):
    """The API key is missing or wrong."""

    status = HTTPStatus.UNAUTHORIZED
    type = "authentication_error"
    code = "invalid_api_key"


class ConflictError(RequestError):
    """The request contradicts what is loaded or named already."""

    status = HTTPStatus.CONFLICT
    code = "conflict"


class BodyTooLargeError(RequestError):
    """The body is larger than the server reads."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    code = "body_too_large"


class SlowRequestError(RequestError):
    """The body did not arrive in time."""

    status = HTTPStatus.REQUEST_TIMEOUT
    code = "body_timeout"
