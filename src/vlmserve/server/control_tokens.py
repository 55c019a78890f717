"""Keeps callers from writing a tokenizer's special tokens into the prompt.

A chat template's text and the caller's are tokenised as one, so that ``<|im_end|>`` in a user's
text ends the user's turn, and what follows may speak as the system. A ``prompt``, as of
``/v1/completions``, is left alone: it is all that the model sees, special tokens included.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from vlmserve.errors import RequestError
from vlmserve.server.context import context_of
from vlmserve.server.refusal import refuse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

Policy = Literal["refuse", "neutralise", "allow"]

# What reaches a prompt: of chat completions, responses, messages and /tokenize.
_FIELDS = (
    "messages", "input", "instructions", "system", "tools", "functions", "documents",
    "chat_template_kwargs",
)  # fmt: skip

_JOINED_FIELDS = ("messages", "input", "system")
"""Lists of texts in these become one text in the prompt."""

_TEXT_KEYS = ("text", "refusal", "thinking")
"""What holds the text of a part."""

_INVISIBLE = "\u200b"
"""A zero-width space: not seen, and between two characters no token spans it."""


@dataclass(frozen=True, slots=True)
class Spelled:
    """A special token that a caller's text spells."""

    token: str
    field: str
    """Dotted, such as ``messages[0].content[1].text``."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A text in the list or object that holds it."""

    holder: Any
    key: int | str

    @property
    def text(self) -> str:
        return str(self.holder[self.key])


def special_tokens(tokenizer: Any) -> tuple[str, ...]:
    """The special tokens of a transformers tokenizer, longest first."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    names = {str(token) for token in added.values() if getattr(token, "special", False)}
    names |= {str(token) for token in getattr(tokenizer, "all_special_tokens", ())}
    return tuple(sorted((name for name in names if name.strip()), key=len, reverse=True))


def find_spelled(body: Any, tokens: Sequence[str]) -> Spelled | None:
    """Find the first special token in those parts of a request that reach the prompt.

    Texts of one list, such as the parts of a message, count as one: templates and endpoints join
    them.
    """
    for field, text in _texts(body):
        if token := _first(text, tokens):
            return Spelled(token, field)
    for field, pieces in _runs(body):
        if token := _first("".join(piece.text for piece in pieces), tokens):
            return Spelled(token, field)
    return None


def neutralise(body: Any, tokens: Sequence[str]) -> Any:
    """Put an invisible space into every special token that a caller's text spells.

    Returns:
        A copy of the body; what a reader sees of it is the same.
    """

    def broken(text: str) -> str:
        for token in tokens:
            text = text.replace(token, f"{token[0]}{_INVISIBLE}{token[1:]}")
        return text

    copy = {name: _map(value, broken) if name in _FIELDS else value for name, value in body.items()}
    for _, pieces in _runs(copy):
        if _first("".join(piece.text for piece in pieces), tokens):
            for piece in pieces[1:]:
                piece.holder[piece.key] = f"{_INVISIBLE}{piece.text}"
    return copy


class ControlTokenGuard:
    """Pure ASGI middleware that keeps special tokens out of callers' texts.

    Args:
        app: What comes behind; the request's body must have been read.
        tokens: The special tokens of the served tokenizer.
        policy: ``refuse`` or ``neutralise``.
    """

    def __init__(self, app: "ASGIApp", tokens: Iterable[str], policy: Policy) -> None:
        self._app = app
        self._tokens = tuple(tokens)
        beginnings = {token[0] for token in self._tokens}
        # JSON may spell any character as \uXXXX, and these two behind a backslash as well.
        escapes = b"\\" if beginnings & {"/", '"', "\\"} else b"\\u"
        self._beginnings = (escapes, *(beginning.encode() for beginning in beginnings))
        self._policy = policy

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass the request on as the policy says."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = context_of(scope)
        if not self._may_spell(context.body):
            await self._app(scope, receive, send)
            return
        try:
            body = json.loads(context.body)
        except ValueError:
            body = None  # vLLM says what is wrong with it
        spelled = find_spelled(body, self._tokens) if isinstance(body, dict) else None
        if spelled is None:
            await self._app(scope, receive, send)
        elif self._policy == "refuse":
            await refuse(scope, send, _refusal(spelled))
        else:
            await self._pass_neutralised(scope, body, receive, send)

    def _may_spell(self, body: bytes) -> bool:
        """Whether it is worth parsing: a token may be escaped, or in pieces. Base64 is neither."""
        return any(beginning in body for beginning in self._beginnings)

    async def _pass_neutralised(
        self, scope: "Scope", body: Any, receive: "Receive", send: "Send"
    ) -> None:
        context = context_of(scope)
        await receive()
        context.body = json.dumps(neutralise(body, self._tokens)).encode()
        given = False

        async def replay() -> Any:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": context.body, "more_body": False}

        length = (b"content-length", str(len(context.body)).encode())
        others = [pair for pair in scope["headers"] if pair[0] != b"content-length"]
        await self._app({**scope, "headers": [*others, length]}, replay, send)


def _refusal(spelled: Spelled) -> RequestError:
    return RequestError(
        f"{spelled.field}: the text spells {spelled.token}, which is a control token of this "
        "model; the operator can set server.control_tokens to neutralise or allow",
        param=spelled.field,
        code="control_token",
    )


def _first(text: str, tokens: Sequence[str]) -> str | None:
    # One byte is found some fifty times faster than a token, and base64 holds none of these.
    content = text.encode(errors="surrogatepass")
    if not any(beginning in content for beginning in {token[0].encode() for token in tokens}):
        return None
    return next((token for token in tokens if token in text), None)


def _texts(body: Any) -> Iterator[tuple[str, str]]:
    for name in _FIELDS:
        if name in body:
            yield from _walk(body[name], name)


def _walk(value: Any, field: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _walk(item, f"{field}[{i}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield field, key
            yield from _walk(item, f"{field}.{key}")
            if (arguments := _escaped_arguments(key, item)) is not None:
                yield from _walk(arguments, f"{field}.{key}")


def _escaped_arguments(key: str, value: Any) -> Any:
    """What a tool call's arguments say, where JSON escapes may hide it: vLLM decodes them."""
    if key != "arguments" or not isinstance(value, str) or "\\" not in value:
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None  # vLLM takes none of it


def _runs(body: Any) -> Iterator[tuple[str, list[_Piece]]]:
    """Texts that are joined, with nothing between them: all of a list, and those of one kind."""
    for name in _JOINED_FIELDS:
        yield from _runs_in(body.get(name), name)


def _runs_in(value: Any, field: str) -> Iterator[tuple[str, list[_Piece]]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _runs_in(item, f"{field}.{key}")
    if not isinstance(value, list):
        return
    pieces = [piece for i, item in enumerate(value) for piece in _pieces(value, i, item)]
    # Thoughts are joined apart from what stands between them.
    for run in (pieces, *([p for p in pieces if p.key == kind] for kind in _TEXT_KEYS)):
        if len(run) > 1:
            yield field, run
    for i, item in enumerate(value):
        yield from _runs_in(item, f"{field}[{i}]")


def _pieces(parts: list[Any], i: int, part: Any) -> Iterator[_Piece]:
    if isinstance(part, str):
        yield _Piece(parts, i)
    elif isinstance(part, dict):
        yield from (_Piece(part, key) for key in _TEXT_KEYS if isinstance(part.get(key), str))


def _map(value: Any, change: Callable[[str], str], name: str = "") -> Any:
    if isinstance(value, str):
        arguments = _escaped_arguments(name, value)
        changed = _map(arguments, change)
        return change(value) if changed == arguments else json.dumps(changed)
    if isinstance(value, list):
        return [_map(item, change) for item in value]
    if isinstance(value, dict):
        return {change(key): _map(item, change, key) for key, item in value.items()}
    return value
