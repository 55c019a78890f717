"""Starts an adapter in vLLM 0.32's running engine, and serves it only after a first answer."""

import secrets
from typing import TYPE_CHECKING, Any

from vlmserve.errors import CheckpointError, EngineError
from vlmserve.server.adapter_check import refused
from vlmserve.server.identity import ServedModel
from vlmserve.server.readiness import probe_models

if TYPE_CHECKING:
    from fastapi import FastAPI

HIDDEN = "#"
"""In no name; marks an adapter that is asked its first question."""


async def start_adapter(app: "FastAPI", client: Any, model: ServedModel) -> None:
    """Load an adapter and ask it a first question under a name that nobody knows.

    Args:
        app: vLLM's app, its state initialised; serves the adapter from then on.
        client: vLLM's engine.
        model: The adapter and the name of its base.

    Raises:
        RequestError: vLLM cannot load it, or it cannot answer; nothing has changed then.
    """
    from vllm.lora.request import LoRARequest

    models = app.state.openai_serving_models
    request = LoRARequest(
        lora_name=model.name,
        lora_int_id=models.lora_id_counter.inc(1),
        lora_path=str(model.checkpoint.path),
        base_model_name=model.parent,
    )
    try:
        await client.add_lora(request)
    except Exception as error:
        # vLLM raises dozens of kinds here.
        raise refused(f"vLLM cannot load it: {error}") from error
    hidden = f"{model.name}{HIDDEN}{secrets.token_hex(16)}"
    models.lora_requests[hidden] = request
    try:
        await probe_models(app, client.model_config, [hidden])
    except (CheckpointError, EngineError) as error:
        await client.remove_lora(request.lora_int_id)
        raise refused(error.message.replace(hidden, model.name)) from error
    finally:
        del models.lora_requests[hidden]
    models.lora_requests[model.name] = request
