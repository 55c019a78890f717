"""One shape for every error of the HTTP API: OpenAI's.

vLLM 0.32 answers most errors in a shape of its own: the HTTP status in ``code`` where OpenAI's
clients expect a string, ``param`` without the place in the request, messages that list processor
internals. ``ErrorTranslator`` sits outside vLLM's app and rewrites bodies of status 400 and above;
successful answers and streams pass untouched.
"""

import json
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from vlmserve.engine.media_connector import locate_media
from vlmserve.errors import RequestError, VlmserveError
from vlmserve.server.request_body import RequestBody

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# How vLLM 0.32 says that a prompt is too long: renderers/params.py, v1/engine/input_processor.py
# and entrypoints/serve/utils/api_utils.py.
_TOO_LONG = (
    re.compile(r"maximum context length is (?P<limit>\d+) tokens.*?contains (?P<total>.*? tokens)"),
    re.compile(r"maximum context length is (?P<limit>\d+) tokens.*?contains (?P<total>\d+ char)"),
    re.compile(r"prompt \(length (?P<total>\d+)\).*?longer than the maximum.*?of (?P<limit>\d+)"),
    re.compile(r"Input length \((?P<total>\d+)\) exceeds.*?\((?P<limit>\d+)\)"),
)
_TOO_MANY_MEDIA = re.compile(r"At most (?P<limit>\d+) (?P<kind>\w+)\(s\) may be provided")
_UNKNOWN_MODEL = re.compile(r"The model `.*` does not exist")
_FIELDS_SUFFIX = re.compile(r" \((?:parameter=[^()]*)?(?:, )?(?:value=.*)?\)$", re.DOTALL)
_MEDIA_KINDS = {"image": "invalid_image", "video": "invalid_video", "audio": "invalid_audio"}


def error_body(error: VlmserveError) -> dict[str, Any]:
    """Render the body that OpenAI's clients expect.

    Args:
        error: Any error raised on purpose.

    Returns:
        ``{"error": {"message", "type", "param", "code"}}``; send it with ``error.status``.
    """
    message = error.message if error.hint is None else f"{error.message} {error.hint}"
    param = error.param if isinstance(error, RequestError) else None
    return _body(message, error.type, param, error.code)


def _body(message: str, type_: str, param: str | None, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": type_, "param": param, "code": code}}


async def send_error(
    send: "Send", status: int, body: dict[str, Any], headers: tuple[tuple[bytes, bytes], ...] = ()
) -> None:
    """Answer a request with an error body."""
    content = json.dumps(body).encode()
    fields = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": content})


class ErrorTranslator:
    """Pure ASGI middleware that rewrites the bodies of failed responses."""

    def __init__(self, app: "ASGIApp") -> None:
        self._app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass the request on, and rewrite its answer if that is an error."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = RequestBody(receive)
        token = locate_media.set(body.locate)
        answer = _Answer(send, body)
        try:
            await self._app(scope, body.receive, answer.send)
        finally:
            locate_media.reset(token)


class _Answer:
    """Holds back a failed response until it is whole, then sends it rewritten."""

    def __init__(self, send: "Send", body: RequestBody) -> None:
        self._send = send
        self._body = body
        self._failed: Message | None = None
        self._content = b""

    async def send(self, message: "Message") -> None:
        if message["type"] == "http.response.start" and message["status"] >= HTTPStatus.BAD_REQUEST:
            self._failed = message
            return
        if self._failed is None:
            await self._send(message)
            return
        if message["type"] != "http.response.body":
            return
        self._content += message.get("body", b"")
        if message.get("more_body", False):
            return
        status, body = translate(self._failed["status"], self._content, self._body)
        kept = tuple(
            (name, value)
            for name, value in self._failed["headers"]
            if name.lower() not in (b"content-type", b"content-length")
        )
        await send_error(self._send, status, body, kept)


def translate(
    status: int, content: bytes, request: RequestBody | None = None
) -> tuple[int, dict[str, Any]]:
    """Turn vLLM's error body into OpenAI's.

    Args:
        status: The HTTP status that vLLM chose, 400 or above.
        content: The body that vLLM wrote; anything, also empty.
        request: The request's body, to find the place in it that is at fault.

    Returns:
        The status and the body to send.
    """
    message, param, code = _read(status, content)
    message = _FIELDS_SUFFIX.sub("", message).strip()
    for pattern in _TOO_LONG:
        if found := pattern.search(message):
            return _too_long(found)
    if found := _TOO_MANY_MEDIA.search(message):
        return _too_many_media(found, request)
    if _UNKNOWN_MODEL.search(message):
        return 404, _body(message, "invalid_request_error", "model", "model_not_found")
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        status = HTTPStatus.BAD_REQUEST
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return status, _body(
            message, _error_type(status), _dotted(param), code or _media_code(message)
        )
    return status, _body(message, "server_error", None, code)


def _read(status: int, content: bytes) -> tuple[str, str | None, str | None]:
    phrase = HTTPStatus(status).phrase
    try:
        parsed = json.loads(content)
    except ValueError:
        return content.decode("utf-8", "replace")[:500] or phrase, None, None
    error = parsed.get("error", parsed) if isinstance(parsed, dict) else None
    if not isinstance(error, dict):
        return str(error or parsed or phrase), None, None
    message = str(error.get("message") or error.get("detail") or phrase)
    param, code = error.get("param"), error.get("code")
    # vLLM puts the HTTP status into ``code``; only a string is OpenAI's.
    return (
        message,
        param if isinstance(param, str) else None,
        code if isinstance(code, str) else None,
    )


def _error_type(status: int) -> str:
    if status == HTTPStatus.UNAUTHORIZED:
        return "authentication_error"
    return "invalid_request_error"


def _media_code(message: str) -> str | None:
    for kind, code in _MEDIA_KINDS.items():
        if message.startswith(f"this {kind} cannot be used"):
            return code
    return "invalid_media" if "cannot take this image or video" in message else None


def _dotted(param: str | None) -> str | None:
    """Spell pydantic's ``body.messages.0.content`` as ``messages[0].content``."""
    if param is None:
        return None
    return re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", param.removeprefix("body."))


def _too_long(found: re.Match[str]) -> tuple[int, dict[str, Any]]:
    total = found["total"].replace(" input", "").removesuffix(" char").removesuffix(" tokens")
    unit = "characters" if found["total"].endswith("char") else "tokens"
    message = (
        f"the prompt has {total} {unit}, and this model's context is {found['limit']} tokens, of "
        "which the answer needs at least one; nothing was cut"
    )
    return 400, _body(message, "invalid_request_error", "messages", "context_length_exceeded")


def _too_many_media(
    found: re.Match[str], request: RequestBody | None
) -> tuple[int, dict[str, Any]]:
    limit, kind = int(found["limit"]), found["kind"]
    places = [] if request is None else request.media_fields(kind)
    given = f"{len(places)} {kind}s are given" if len(places) > limit else f"too many {kind}s"
    message = (
        f"{given}, and one request may hold {limit}; the operator can raise "
        f"engine.limit_mm_per_prompt.{kind}"
    )
    param = places[limit] if len(places) > limit else "messages"
    return 400, _body(message, "invalid_request_error", param, f"too_many_{kind}s")
