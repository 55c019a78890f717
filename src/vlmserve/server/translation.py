"""Reads vLLM 0.32's error bodies and says the same in OpenAI's shape.

vLLM puts the HTTP status into ``code`` where OpenAI's clients expect a string, leaves out the place
in the request, lists every branch of a failed validation, and answers some faults of the caller
with other statuses than 400. Its sentences are recognised here; a test provokes each of them, so
that a new wording is noticed.
"""

import json
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmserve.server.request_body import RequestBody

Answer = tuple[int, dict[str, Any]]
"""HTTP status and body."""

# How vLLM says that a prompt is too long: renderers/params.py, v1/engine/input_processor.py and
# entrypoints/serve/utils/api_utils.py.
_TOO_LONG = (
    re.compile(
        r"maximum context length is (?P<limit>\d+) tokens.*?contains (?P<total>\d+ characters)"
    ),
    re.compile(
        r"maximum context length is (?P<limit>\d+) tokens.*?contains (?P<total>(at least )?\d+)"
    ),
    re.compile(r"prompt \(length (?P<total>\d+)\).*?longer than the maximum.*? of (?P<limit>\d+)"),
    re.compile(r"Input length \((?P<total>\d+)\) exceeds.*?\((?P<limit>\d+)\)"),
)
# How engine/prompt_budget.py says it.
_BUDGET_CODES = {
    re.compile(r"the prompt has \d+ tokens, and this model's context"): "context_length_exceeded",
    re.compile(r"the images and videos of this request take \d+ tokens"): "too_many_visual_tokens",
}
_TOO_MANY_MEDIA = re.compile(r"At most (?P<limit>\d+) (?P<kind>\w+)\(s\) may be provided")
_UNKNOWN_MODEL = re.compile(r"The model `.*` does not exist", re.DOTALL)
_ENGINE_GONE = re.compile(r"EngineCore encountered an issue|EngineDead|engine is dead")
_BRANCHES = re.compile(r"^\d+ validation errors? for ")
# What str() of vLLM's validation error appends to its sentence.
_FIELDS = re.compile(r" \((parameter=|value=).*\)$", re.DOTALL)
# Python's words, of which the rest names array or object.
_NESTED_TEXT = re.compile(r"while (decoding|encoding) a JSON ")
_STATUSES = frozenset(HTTPStatus)
# entrypoints/openai/*/protocol.py check_structured_outputs_count takes it for an object unseen.
_OBJECT_FIELD = "structured_outputs"
_MEDIA_CODES = {
    "this image cannot be used": "invalid_image",
    "this video cannot be used": "invalid_video",
    "this audio cannot be used": "invalid_audio",
    "the model's processor cannot take": "invalid_media",
}


def openai_error(message: str, type_: str, param: str | None, code: str | None) -> dict[str, Any]:
    """OpenAI's error body."""
    return {"error": {"message": message, "type": type_, "param": param, "code": code}}


def translate(status: int, content: bytes, request: "RequestBody") -> Answer:
    """Turn vLLM's error into OpenAI's.

    Args:
        status: The HTTP status that vLLM chose, 400 or above.
        content: The body that vLLM wrote; anything, also empty.
        request: The request's body, to find the place in it that is at fault.

    Returns:
        The status and the body to send.
    """
    message, param, code = _read(status, content)
    message = _FIELDS.sub("", message).strip()
    recognised = (
        _over_budget(message, request)
        or _too_long(message, request)
        or _too_many_media(message, request)
    )
    if recognised is not None:
        return recognised
    if unknown := _UNKNOWN_MODEL.search(message):
        # What follows names the base alone, although adapters and aliases can be asked for, too.
        sentence = f"{unknown[0]}; GET /v1/models lists those that do"
        return _caller(sentence, "model", "model_not_found", HTTPStatus.NOT_FOUND)
    if _ENGINE_GONE.search(message):
        body = openai_error("the engine is gone; try again later", "server_error", None, None)
        return HTTPStatus.SERVICE_UNAVAILABLE, body
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return status, openai_error(message, "server_error", None, code)
    if _BRANCHES.match(message):
        return _unknown_part(request) or _caller(message.partition("\n")[0], "messages", None)
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        status = HTTPStatus.BAD_REQUEST
    return _caller(message, param, code or _media_code(message), status)


def translate_exception(error: Exception, request: "RequestBody") -> Answer | None:
    """Turn what vLLM raised at a request's fields into the caller's error.

    Args:
        error: What it raised before anything was answered.
        request: The request's body.

    Returns:
        The status and the body to send; ``None`` where it is no fault of the caller's.
    """
    if isinstance(error, RecursionError):
        if _NESTED_TEXT.search(str(error)) is None:
            return None
        sentence = "JSON in a text of the request, such as a tool call's arguments, nests too deep"
        return _caller(sentence, request.prompt_field, "json_too_deep")
    value = request.content.get(_OBJECT_FIELD)
    if value is None or isinstance(value, dict) or "has no attribute 'get'" not in str(error):
        return None
    return _caller(f"{_OBJECT_FIELD}: an object is expected", _OBJECT_FIELD, None)


def _read(status: int, content: bytes) -> tuple[str, str | None, str | None]:
    phrase = HTTPStatus(status).phrase if status in _STATUSES else f"HTTP {status}"
    try:
        parsed = json.loads(content)
    except ValueError:
        return content.decode("utf-8", "replace")[:500] or phrase, None, None
    error = parsed.get("error", parsed) if isinstance(parsed, dict) else parsed
    if not isinstance(error, dict):
        return str(error or phrase), None, None
    message = str(error.get("message") or error.get("detail") or phrase)
    param, code = error.get("param"), error.get("code")
    return (
        message,
        param if isinstance(param, str) else None,
        code if isinstance(code, str) else None,
    )


def _caller(
    message: str, param: str | None, code: str | None, status: int = HTTPStatus.BAD_REQUEST
) -> Answer:
    kind = "authentication_error" if status == HTTPStatus.UNAUTHORIZED else "invalid_request_error"
    return status, openai_error(message, kind, param, code)


def _media_code(message: str) -> str | None:
    return next((code for start, code in _MEDIA_CODES.items() if message.startswith(start)), None)


def _over_budget(message: str, request: "RequestBody") -> Answer | None:
    code = next((code for rule, code in _BUDGET_CODES.items() if rule.match(message)), None)
    return None if code is None else _caller(message, request.prompt_field, code)


def _too_long(message: str, request: "RequestBody") -> Answer | None:
    found = next((hit for rule in _TOO_LONG if (hit := rule.search(message))), None)
    if found is None:
        return None
    total = found["total"] if "char" in found["total"] else f"{found['total']} tokens"
    sentence = (
        f"the prompt has {total}, and this model's context holds {found['limit']} tokens with at "
        "least one for the answer; nothing was cut"
    )
    return _caller(sentence, request.prompt_field, "context_length_exceeded")


def _too_many_media(message: str, request: "RequestBody") -> Answer | None:
    found = _TOO_MANY_MEDIA.search(message)
    if found is None:
        return None
    limit, kind = int(found["limit"]), found["kind"]
    fields = request.media_fields(kind)
    over = len(fields) > limit
    given = f"{len(fields)} {kind}s are given" if over else f"too many {kind}s are given"
    sentence = (
        f"{given}, and one request may hold {limit}; the operator can raise "
        f"engine.limit_mm_per_prompt.{kind}"
    )
    return _caller(sentence, fields[limit] if over else request.prompt_field, f"too_many_{kind}s")


def _unknown_part(request: "RequestBody") -> Answer | None:
    found = request.first_unknown_part()
    if found is None:
        return None
    field, kind = found
    sentence = f"{kind!r} is no part of a message; use text, image_url or video_url"
    return _caller(sentence, f"{field}.type", None)
