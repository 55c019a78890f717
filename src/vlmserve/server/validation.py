"""Says what is wrong with a malformed request body: one field, one sentence.

For a field that may be one of many types, pydantic reports every branch; vLLM passes all of them
on, with its own class names in the path.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vlmserve.server.translation import openai_error

if TYPE_CHECKING:
    from fastapi import FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse

_MAX_REASONS = 3


def install(app: "FastAPI") -> None:
    """Answer malformed bodies of every route of the app with our sentence."""
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse

    @app.exception_handler(RequestValidationError)
    async def refuse(_: "Request", error: "RequestValidationError") -> "JSONResponse":
        field, reason = describe(error.errors(), error.body)
        message = reason if field is None else f"{field}: {reason}"
        return JSONResponse(
            openai_error(message, "invalid_request_error", field, None), status_code=400
        )


def describe(errors: Sequence[Any], body: Any) -> tuple[str | None, str]:
    """Pick the most specific of pydantic's errors.

    Args:
        errors: What ``ValidationError.errors()`` gave, or vLLM's ``validate_json_request``.
        body: The body that failed, as parsed.

    Returns:
        The dotted field, such as ``messages[0].content`` (``None``: the whole body), and what is
        wrong with it.
    """
    if errors and isinstance(errors[0], str):
        # vLLM's own, at a content type other than JSON's.
        return None, "the request's Content-Type must be application/json"
    placed = [(_place(error, body), str(error.get("msg", "invalid"))) for error in errors]
    if not placed:
        return None, "the request body is not valid"
    deepest = max(len(place) for place, _ in placed)
    place = next(place for place, _ in placed if len(place) == deepest)
    reasons = dict.fromkeys(
        reason.removeprefix("Value error, ") for other, reason in placed if other == place
    )
    return _dotted(place), "; or ".join(list(reasons)[:_MAX_REASONS])


def _place(error: Any, body: Any) -> tuple[str | int, ...]:
    """Keep those parts of pydantic's path that lead through the body."""
    here, place = body, []
    parts = list(error.get("loc", ()))
    for part in parts:
        if _leads_on(here, part):
            here = here[part]
            place.append(part)
    if error.get("type") == "missing" and parts and isinstance(parts[-1], str):
        place.append(parts[-1])
    return tuple(place)


def _leads_on(here: Any, part: str | int) -> bool:
    if isinstance(here, list):
        return isinstance(part, int) and part < len(here)
    return isinstance(here, dict) and part in here


def _dotted(place: Sequence[str | int]) -> str | None:
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".") or None
