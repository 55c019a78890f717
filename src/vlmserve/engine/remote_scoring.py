"""Asks an endpoint how likely an answer is, through the chat API with vLLM's additions to it.

The conversation is sent with its answer, for the log-probabilities of its tokens, and without, for
where the answer begins.
"""

from collections.abc import Mapping
from typing import Any

from openai.types.chat import ChatCompletion

from vlmserve.chat import Message, TextPart
from vlmserve.engine.answer_span import find_answer, finite_logprobs
from vlmserve.engine.base import ScoringRequest, TargetLogprobs
from vlmserve.engine.openai_messages import openai_messages
from vlmserve.errors import EngineError, ScoringUnsupportedError

_ADDITIONS = ("return_token_ids", "prompt_logprobs", "add_generation_prompt")


def question_body(request: ScoringRequest) -> dict[str, Any]:
    """The request whose answer tells the tokens before the answer."""
    return _body(request, request.messages, {"return_token_ids": True})


def answer_body(request: ScoringRequest) -> dict[str, Any]:
    """The request whose answer tells the log-probabilities."""
    answer = Message(role="assistant", parts=(TextPart(text=request.target),))
    additions = {
        "return_token_ids": True,
        "prompt_logprobs": 0,
        "add_generation_prompt": False,
    }
    return _body(request, (*request.messages, answer), additions)


def read_logprobs(request: ScoringRequest, question: Any, answer: Any) -> TargetLogprobs:
    """Read both answers of an endpoint.

    Args:
        request: What was asked.
        question: The chat completion for ``question_body``.
        answer: The chat completion for ``answer_body``.

    Raises:
        EngineError: One is no chat completion.
        ScoringUnsupportedError: It does not tell tokens or their log-probabilities.
        RequestError: The answer cannot be found in the conversation.
        LookupError, TypeError, ValueError: What it tells is not of vLLM's shape.
    """
    prompt_ids = _addition(question, "prompt_token_ids")
    full_ids = _addition(answer, "prompt_token_ids")
    told = _addition(answer, "prompt_logprobs")
    if len(told) != len(full_ids):
        raise ValueError("there are not as many log-probabilities as tokens")
    entries = [_entry(told[place], full_ids[place]) for place in range(len(prompt_ids), len(told))]
    pieces = [str(entry.get("decoded_token") or "") for entry in entries]
    span = find_answer(prompt_ids, full_ids, pieces, request.target)
    found = entries[: span.end - span.start]
    own = found[:-1] if span.has_end else found
    return TargetLogprobs(
        token_ids=tuple(full_ids[span.start : span.end]),
        logprobs=finite_logprobs(entry["logprob"] for entry in found),
        has_end=span.has_end,
        is_greedy=all(entry.get("rank") == 1 for entry in own),
        n_bytes=len(request.target.encode()),
        prompt_tokens=span.start,
    )


def names_an_addition(message: str) -> bool:
    """Tell whether an endpoint refuses a request for what vLLM adds to the API."""
    return any(name in message for name in _ADDITIONS)


def _body(
    request: ScoringRequest, messages: tuple[Message, ...], additions: Mapping[str, Any]
) -> dict[str, Any]:
    template = request.chat_template_kwargs
    return {
        "model": request.model,
        "messages": openai_messages(messages),
        "temperature": 0.0,
        "max_tokens": 1,
        "extra_body": {**additions, **({"chat_template_kwargs": template} if template else {})},
    }


def _addition(completion: Any, name: str) -> Any:
    # The client does not check what an endpoint sends against its own types.
    if not isinstance(completion, ChatCompletion):
        raise EngineError("the endpoint's answer is not a chat completion")
    value = getattr(completion, name, None)
    if not isinstance(value, list):
        raise ScoringUnsupportedError(f"the endpoint does not tell {name}, as vLLM does")
    return value


def _entry(told: Any, token_id: int) -> Mapping[str, Any]:
    entry = told[str(token_id)]
    if not isinstance(entry, Mapping):
        raise TypeError("a token's log-probability is not an object")
    return entry
