"""Questions and answers of OpenAI's chat API, as an endpoint takes and gives them."""

from typing import Any

from openai.types.chat import ChatCompletion

from vlmserve.chat import Completion, FinishReason, Usage
from vlmserve.engine.base import GenerationRequest
from vlmserve.engine.openai_messages import openai_messages
from vlmserve.errors import EngineError


def chat_body(request: GenerationRequest, *, has_fixed_sampling: bool) -> dict[str, Any]:
    """Build the body that asks one conversation.

    Args:
        request: The conversation.
        has_fixed_sampling: Whether the model takes no settings of sampling.
    """
    params = request.params
    body: dict[str, Any] = {
        "model": request.model,
        "messages": openai_messages(request.messages),
    }
    if has_fixed_sampling:
        return {**body, "max_completion_tokens": params.max_tokens}
    body |= {
        "temperature": params.temperature,
        "top_p": params.top_p,
        "max_tokens": params.max_tokens,
    }
    if params.stop:
        body["stop"] = list(params.stop)
    if params.seed is not None:
        body["seed"] = params.seed
    if request.chat_template_kwargs:
        # vLLM's addition to OpenAI's API; an endpoint that does not know it should say so.
        body["extra_body"] = {"chat_template_kwargs": request.chat_template_kwargs}
    return body


def read_completion(answer: Any) -> Completion:
    """Read an answer.

    Raises:
        EngineError: It is not of OpenAI's form, or ended for a reason that is no answer's.
    """
    # The client does not check what an endpoint sends against its own types.
    if not isinstance(answer, ChatCompletion) or not answer.choices:
        raise EngineError("the endpoint's answer is not a chat completion")
    if answer.usage is None:
        raise EngineError("the endpoint's answer states no token usage")
    choice = answer.choices[0]
    reasons: dict[str, FinishReason] = {"stop": "stop", "length": "length", "abort": "abort"}
    reason = reasons.get(choice.finish_reason)
    if reason is None:
        raise EngineError(f"the endpoint ended the answer because of {choice.finish_reason}")
    text = choice.message.content or choice.message.refusal or ""
    reasoning = _reasoning(choice.message)
    if reasoning is not None and not text and reason == "stop":
        # A trace that was never closed has used up all there was, whatever ended it.
        reason = "length"
    return Completion(
        # No content and no error is an answer of no words, as when thinking used up the limit.
        text=text,
        reasoning=reasoning,
        finish_reason=reason,
        usage=Usage(
            prompt_tokens=answer.usage.prompt_tokens,
            completion_tokens=answer.usage.completion_tokens,
        ),
    )


def _reasoning(message: Any) -> str | None:
    """What the endpoint tells apart: vLLM's name for it, and the older one that others use."""
    extra = message.model_extra or {}
    found = extra.get("reasoning") or extra.get("reasoning_content")
    return found if isinstance(found, str) else None
