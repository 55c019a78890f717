"""Puts vlmserve's routes and guards around vLLM 0.32's own OpenAI app."""

from typing import TYPE_CHECKING, Any

from vlmserve.engine import prompt_meter
from vlmserve.engine.prompt_meter import TokenRules
from vlmserve.server import budget, page, usage_details, validation
from vlmserve.server.admission import Admission, AdmissionGate
from vlmserve.server.auth import ApiKeyGuard
from vlmserve.server.errors import ErrorTranslator

if TYPE_CHECKING:
    from argparse import Namespace

    from fastapi import FastAPI
    from starlette.types import ASGIApp

    from vlmserve.engine.prompt_meter import PromptLimits


async def create_app(  # noqa: PLR0913 - what a server is made of; called once
    engine_client: Any,
    args: "Namespace",
    admission: Admission,
    key: str | None,
    limits: "PromptLimits",
    *,
    has_page: bool = False,
) -> "FastAPI":
    """Build vLLM's app over a running engine and add ours.

    Args:
        engine_client: vLLM's asynchronous engine, loaded.
        args: vLLM's own arguments.
        admission: Shared with whoever decides to stop the server.
        key: The API key that requests must carry; ``None`` leaves the API open.
        limits: What prompts are held to beside the model's context.
        has_page: Serve the playground at ``/``.

    Returns:
        The app; its lifespan is vLLM's.
    """
    from vllm.entrypoints.launchers import app as vllm_app
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state

    # The last step of ``build_app`` prepares a hosting service that would execute a ``model.py``
    # from a fixed folder if one lies there, and builds the middleware stack before ours is added.
    vllm_app.sagemaker_standards_bootstrap = _unchanged
    tasks = await engine_client.get_supported_tasks()
    app: FastAPI = vllm_app.build_app(args, tasks, engine_client.model_config)
    await init_app_state(engine_client, app.state, args, tasks)
    rules = TokenRules(engine_client.model_config.max_model_len, limits)
    prompt_meter.install(rules)
    usage_details.install()
    _hide_paths(app)
    validation.install(app)
    _add_routes(app, admission)
    budget.add_route(app, rules)
    if has_page:
        page.add_page(app)
    # Starlette runs the middleware added last first.
    app.add_middleware(AdmissionGate, admission=admission)
    app.add_middleware(ErrorTranslator)
    if key is not None:
        app.add_middleware(ApiKeyGuard, key=key, open_paths=page.PATHS if has_page else frozenset())
    return app


def _unchanged(app: "ASGIApp") -> "ASGIApp":
    return app


def _hide_paths(app: "FastAPI") -> None:
    """Keep this host's directories out of ``/v1/models``, which gives them as ``root``."""
    models = app.state.openai_serving_models
    show = models.show_available_models

    async def show_without_paths() -> Any:
        listed = await show()
        for card in listed.data:
            card.root = card.id
        return listed

    models.show_available_models = show_without_paths


def _add_routes(app: "FastAPI", admission: Admission) -> None:
    from fastapi.responses import JSONResponse

    @app.get("/ready", include_in_schema=False)
    async def ready() -> JSONResponse:
        """200 while requests are taken. The server listens only after its models were probed."""
        if admission.is_open:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "draining"}, status_code=503)
