"""Bounds how many answers one request may ask for, through vLLM 0.32's handlers.

A request has one turn, however many sequences the engine computes for it: ``n`` may be 16,384 in
vLLM, for each of as many prompts as the body holds.
"""

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI

_HANDLERS = {
    "openai_serving_chat": "create_chat_completion",
    "openai_serving_chat_batch": "create_batch_chat_completion",
    "openai_serving_completion": "create_completion",
    "serving_tokens": "serve_tokens",
}
"""Handlers of the app's state whose requests say how many answers they want."""

Check = Callable[[Any], None]
"""Refuses a request, given as vLLM's model of it."""


def install(app: "FastAPI", max_choices: int) -> Check:
    """Have every handler refuse requests for more answers.

    Args:
        app: vLLM's app, its state initialised.
        max_choices: Answers of one request, over all its prompts.

    Returns:
        What they ask before they begin; it raises vLLM's validation error.
    """
    from vllm.exceptions import VLLMValidationError

    def check(request: Any) -> None:
        found = find_excess(request, max_choices)
        if found is not None:
            field, sentence = found
            raise VLLMValidationError(sentence, parameter=field)

    for name, method in _HANDLERS.items():
        handler = getattr(app.state, name, None)
        if handler is not None:
            setattr(handler, method, _checked(getattr(handler, method), check))
    return check


def find_excess(request: Any, max_choices: int) -> tuple[str, str] | None:
    """Find what asks for too many answers.

    Args:
        request: vLLM's model of a request.
        max_choices: Answers that one request may ask for.

    Returns:
        The field and a sentence that names it; ``None`` where the request asks for few enough.
    """
    end = f"and one request may ask for {max_choices}; the operator can raise server.max_choices"
    most = 1
    for field, n in _numbers(request):
        if n > max_choices:
            return field, f"{field}: {n} answers are asked for, {end}"
        most = max(most, n)
    field, n_prompts = _prompts(request)
    if n_prompts * most > max_choices:
        each = f" with {most} answers each" if most > 1 else ""
        return field, f"{field}: {n_prompts} prompts{each} are given, {end}"
    return None


def _checked(handle: Any, check: Check) -> Any:
    @functools.wraps(handle)
    async def checked(request: Any, *args: Any, **kw: Any) -> Any:
        check(request)
        return await handle(request, *args, **kw)

    return checked


def _numbers(request: Any) -> Iterator[tuple[str, int]]:
    # best_of is none of a chat's fields for vLLM, and comes along as an extra one.
    for field in ("n", "best_of"):
        yield from _number(field, getattr(request, field, None))
    sampling = getattr(request, "sampling_params", None)
    yield from _number("sampling_params.n", getattr(sampling, "n", None))


def _number(field: str, value: Any) -> Iterator[tuple[str, int]]:
    if isinstance(value, int):
        yield field, value


def _prompts(request: Any) -> tuple[str, int]:
    """The field that holds prompts, and how many there are."""
    prompt = getattr(request, "prompt", None)
    embeds = getattr(request, "prompt_embeds", None)
    if isinstance(embeds, list):
        return "prompt_embeds", len(embeds) + _count(prompt)
    if prompt is not None:
        return "prompt", _count(prompt)
    messages = getattr(request, "messages", None)
    if isinstance(messages, list) and messages and isinstance(messages[0], list):
        return "messages", len(messages)
    return "messages", 1


def _count(prompt: Any) -> int:
    if prompt is None:
        return 0
    # A list of numbers is one prompt, as token ids.
    is_many = isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)
    return len(prompt) if is_many else 1
