"""``POST /v1/chat/completions/budget``: what a chat takes of the context, without running it.

Takes the body of ``/v1/chat/completions`` and renders it with vLLM 0.32's own renderer, template
and processor, so that the number is the one of the real call; only the engine is not asked. With
``?frames=thumbnails``, small pictures of the frames that were sampled from each video come along.
"""

import asyncio
from typing import TYPE_CHECKING, Any, Literal

from vlmserve.engine.prompt_meter import Media, PromptMeter, current_meter
from vlmserve.engine.token_rules import TokenRules
from vlmserve.server.thumbnails import frame_thumbnails

if TYPE_CHECKING:
    from fastapi import FastAPI

    from vlmserve.server.choices import Check


def add_route(app: "FastAPI", rules: TokenRules, check_choices: "Check") -> None:
    """Add the route.

    Args:
        app: vLLM's app, its state initialised.
        rules: What prompts are held to; the meter is installed.
        check_choices: Refuses what asks for too many answers, as the real call does.
    """
    from fastapi import Depends
    from fastapi.responses import JSONResponse
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.serve.engine.protocol import ErrorResponse
    from vllm.entrypoints.serve.utils.api_utils import validate_json_request

    async def budget(
        request: ChatCompletionRequest, frames: Literal["thumbnails"] | None = None
    ) -> JSONResponse:
        check_choices(request)
        found = await measure(
            app.state.openai_serving_chat, request, rules, with_frames=frames is not None
        )
        if isinstance(found, ErrorResponse):
            return JSONResponse(found.model_dump(), status_code=found.error.code)
        return JSONResponse(found)

    app.post("/v1/chat/completions/budget", dependencies=[Depends(validate_json_request)])(budget)


async def measure(
    serving: Any, request: Any, rules: TokenRules, *, with_frames: bool = False
) -> Any:
    """Render a chat and add up its parts.

    Args:
        serving: vLLM's chat handler.
        request: The chat, as vLLM's model of it.
        rules: What prompts are held to.
        with_frames: Add a small picture of each sampled frame.

    Returns:
        The answer's body, or vLLM's error where the real call would be refused for another reason
        than its size.

    Raises:
        VLLMError: As the real call does.
    """
    from vllm.exceptions import VLLMValidationError

    error = await serving._check_model(request)
    if error is not None:
        return error
    serving._preflight(request.n or 1)
    meter = PromptMeter(rules)
    token = current_meter.set(meter)
    try:
        # Not through the cache of media that the engine is taken to have received.
        rendered = await serving.online_renderer.render_chat(request, skip_mm_cache=True)
        if not isinstance(rendered, tuple):
            return rendered
        if meter.budget is None:
            # Token ids of the caller's own are not rendered.
            meter.check_after(serving.renderer, rendered[1][0], Media({}))
    except VLLMValidationError:
        if meter.budget is None:
            raise
    finally:
        current_meter.reset(token)
    body = _body(serving, request, meter, rules)
    if with_frames:
        await asyncio.to_thread(_add_frames, body["parts"], meter.video_frames)
    return body


def _add_frames(parts: list[dict[str, Any]], videos: list[Any]) -> None:
    own = [part for part in parts if part["type"] == "video"]
    # A refused prompt's videos were not decoded.
    for part, frames in zip(own, videos, strict=False):
        for position, picture in frame_thumbnails(frames).items():
            part["sampled_frames"][position]["image"] = picture


def _body(serving: Any, request: Any, meter: PromptMeter, rules: TokenRules) -> dict[str, Any]:
    budget = meter.lay_out()
    if budget is None:
        raise RuntimeError("a chat was rendered without its meter")
    most = max(budget.limit - budget.prompt_tokens, 0)
    if budget.fits:
        most = _max_tokens(serving, request, budget.prompt_tokens)
        # What the real call says of its sampling parameters, it says here.
        request.to_sampling_params(most, serving.default_sampling_params)
    return {
        "object": "chat.completion.budget",
        "model": request.model or serving.models.model_name(),
        "prompt_tokens": budget.prompt_tokens,
        "limit": budget.limit,
        "visual_tokens": budget.visual_tokens,
        "max_visual_tokens": budget.max_visual_tokens,
        "max_completion_tokens": most,
        "fits": budget.fits,
        "message": None if budget.fits else budget.refusal(rules.formula),
        "parts": budget.parts_json(),
    }


def _max_tokens(serving: Any, request: Any, n_tokens: int) -> int:
    from vllm.entrypoints.serve.utils.api_utils import get_max_tokens

    asked = request.max_completion_tokens
    most: int = get_max_tokens(
        serving.model_config.max_model_len,
        request.max_tokens if asked is None else asked,
        n_tokens,
        serving.default_sampling_params,
        serving.override_max_tokens,
        truncate_prompt_tokens=request.truncate_prompt_tokens,
    )
    return most
