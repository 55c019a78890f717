"""Answers a request that a guard does not let through."""

from typing import TYPE_CHECKING

from vlmserve import metrics
from vlmserve.errors import OverloadedError, RequestTimeoutError, VlmserveError
from vlmserve.server.context import context_of
from vlmserve.server.errors import error_body, send_error

if TYPE_CHECKING:
    from starlette.types import Scope, Send


async def refuse(
    scope: "Scope",
    send: "Send",
    error: VlmserveError,
    *,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    close: bool = False,
) -> None:
    """Answer a request with an error, and count it by the error's code.

    Args:
        scope: The request.
        send: Its answer's channel.
        error: What is wrong.
        headers: Further headers.
        close: Whether to end the connection, as where a body was not read to its end.
    """
    reason = error.code or error.type
    context_of(scope).refused = reason
    metrics.REFUSALS.labels(reason).inc()
    fields = list(headers)
    if isinstance(error, OverloadedError):
        fields.append((b"retry-after", str(error.retry_after_s).encode()))
    if isinstance(error, RequestTimeoutError):
        # OpenAI's clients ask again by themselves, and would wait as long for nothing.
        fields.append((b"x-should-retry", b"false"))
    if close:
        fields.append((b"connection", b"close"))
    await send_error(send, error.status, error_body(error), tuple(fields))
