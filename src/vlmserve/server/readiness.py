"""Asks each served model a first question before the server listens."""

from typing import TYPE_CHECKING, Any

from vlmserve.engine.offline import takes_images
from vlmserve.engine.openai_messages import openai_messages
from vlmserve.engine.probe import check_logprob, probe_messages
from vlmserve.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi import FastAPI


async def probe_models(app: "FastAPI", model_config: Any, names: "Sequence[str]") -> None:
    """Send one short multimodal request to each served name, through vLLM's chat handler.

    Args:
        app: The app, its state initialised.
        model_config: vLLM's model configuration.
        names: The served names.

    Raises:
        CheckpointError: A log-probability is not finite.
        EngineError: A model cannot answer at all.
    """
    from vllm.entrypoints.openai.chat_completion.protocol import (
        ChatCompletionRequest,
        ChatCompletionResponse,
    )

    messages = openai_messages(probe_messages(with_image=takes_images(model_config)))
    for name in names:
        request = ChatCompletionRequest(
            model=name,
            messages=messages,
            max_completion_tokens=1,
            temperature=0.0,
            logprobs=True,
            top_logprobs=0,
        )
        try:
            response = await app.state.openai_serving_chat.create_chat_completion(request)
        except Exception as error:
            raise EngineError(f"{name} cannot answer a first question: {error}") from error
        if not isinstance(response, ChatCompletionResponse):
            reason = getattr(getattr(response, "error", None), "message", "no answer")
            raise EngineError(f"{name} cannot answer a first question: {reason}")
        logprobs = response.choices[0].logprobs
        content = [] if logprobs is None else logprobs.content or []
        check_logprob(content[0].logprob if content else None, name)
