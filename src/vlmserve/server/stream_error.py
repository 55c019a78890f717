"""Says in a stream that has begun what went wrong, in the form of its API."""

import json
from typing import TYPE_CHECKING

from vlmserve.errors import VlmserveError
from vlmserve.server.errors import error_body

if TYPE_CHECKING:
    from starlette.types import Message

_DONE = b"data: [DONE]\n\n"


def stream_error(route: str, started: "Message", error: VlmserveError) -> bytes | None:
    """The last event of a stream.

    Args:
        route: The request's route.
        started: The answer's first message.
        error: What went wrong.

    Returns:
        Server-sent events; ``None`` where the answer is no stream of such events, so that cutting
        it is all that can be done.
    """
    headers = {name.lower(): value for name, value in started["headers"]}
    if not headers.get(b"content-type", b"").startswith(b"text/event-stream"):
        return None
    fields = error_body(error)["error"]
    if route.startswith("/v1/responses"):
        return _event("error", {**fields, "type": "error", "sequence_number": 0})
    if route.startswith("/v1/messages"):
        inner = {"type": fields["type"], "message": fields["message"]}
        return _event("error", {"type": "error", "error": inner})
    return f"data: {json.dumps({'error': fields})}\n\n".encode() + _DONE


def _event(name: str, data: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
