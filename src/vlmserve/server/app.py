"""Puts vlmserve's routes and guards around vLLM 0.32's own OpenAI app."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlmserve.config.serve import ServeConfig
from vlmserve.engine import prompt_meter
from vlmserve.engine.token_rules import PromptLimits, TokenRules
from vlmserve.server import budget, choices, log_privacy, page, usage_details, validation
from vlmserve.server.adapter_start import HIDDEN
from vlmserve.server.adapters import AdapterRollout
from vlmserve.server.admin_routes import add_admin_routes
from vlmserve.server.admission import Admission
from vlmserve.server.auth import KeyGuard, Keys
from vlmserve.server.control_tokens import ControlTokenGuard, special_tokens
from vlmserve.server.errors import ErrorTranslator
from vlmserve.server.gate import AdmissionGate, TurnGate
from vlmserve.server.identity import Identity
from vlmserve.server.request_log import RequestLog
from vlmserve.server.request_reader import RequestReader
from vlmserve.server.routes import add_probe_routes
from vlmserve.server.security_headers import SecurityHeaders

if TYPE_CHECKING:
    from argparse import Namespace

    from fastapi import FastAPI
    from starlette.types import ASGIApp

# They change how many engines there are, for every caller with an API key.
_CLUSTER_ROUTES = ("/scale_elastic_ep", "/is_scaling_elastic_ep")


@dataclass(frozen=True, slots=True)
class Service:
    """What is served to whom."""

    config: ServeConfig
    keys: Keys
    identity: Identity
    limits: PromptLimits
    """What prompts are held to beside the model's context."""

    @property
    def names(self) -> tuple[str, ...]:
        """The served names."""
        return tuple(self.identity.models)


async def create_app(
    engine_client: Any, args: "Namespace", admission: Admission, service: Service
) -> "FastAPI":
    """Build vLLM's app over a running engine and add ours.

    Args:
        engine_client: vLLM's asynchronous engine, loaded.
        args: vLLM's own arguments.
        admission: Shared with whoever decides to stop the server.
        service: What is served to whom.

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
    rules = TokenRules(engine_client.model_config.max_model_len, service.limits)
    prompt_meter.install(rules)
    usage_details.install()
    _hide_paths(app)
    validation.install(app)
    if not args.enable_log_requests:
        log_privacy.install()
    add_probe_routes(app, admission, service.identity)
    check_choices = choices.install(app, service.config.server.max_choices)
    budget.add_route(app, rules, check_choices)
    if service.config.server.playground:
        page.add_page(app)
    if service.config.server.adapter_root is not None:
        adapters = AdapterRollout(app, engine_client, service.config, service.identity)
        await adapters.restore()
        add_admin_routes(app, adapters)
    _take_away(app, _CLUSTER_ROUTES)
    if service.config.server.metrics_port is not None:
        _take_away(app, ("/metrics",))
    _add_guards(app, admission, service, special_tokens(engine_client.get_tokenizer()))
    return app


def _add_guards(
    app: "FastAPI", admission: Admission, service: Service, tokens: tuple[str, ...]
) -> None:
    """Add the guards from the inside out: Starlette runs the one added last first."""
    from starlette.middleware.cors import CORSMiddleware

    config, server = service.config, service.config.server
    # vLLM lets every page read its answers; and inside our guards, so that refusals cannot be read.
    cors: Any = CORSMiddleware
    app.user_middleware = [entry for entry in app.user_middleware if entry.cls is not cors]
    app.add_middleware(ErrorTranslator)
    if server.control_tokens != "allow":
        app.add_middleware(ControlTokenGuard, tokens=tokens, policy=server.control_tokens)
    app.add_middleware(TurnGate, admission=admission, timeout_s=server.request_timeout_s)
    app.add_middleware(RequestReader, config=server, max_body_bytes=config.max_body_bytes)
    app.add_middleware(AdmissionGate, admission=admission)
    open_paths = page.PATHS if server.playground else frozenset()
    app.add_middleware(KeyGuard, keys=service.keys, open_paths=open_paths)
    if server.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(server.allowed_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after"],
        )
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RequestLog, enabled=server.access_log)


def _unchanged(app: "ASGIApp") -> "ASGIApp":
    return app


def _take_away(app: "FastAPI", beginnings: tuple[str, ...]) -> None:
    """Close the routes that begin so; ``/metrics`` may have a port of its own."""
    app.router.routes = [
        route
        for route in app.router.routes
        if not str(getattr(route, "path", "")).startswith(beginnings)
    ]


def _hide_paths(app: "FastAPI") -> None:
    """Show names in ``/v1/models``, not this host's directories, which vLLM gives as ``root``.

    An alias is listed under its own name, with the adapter that it stands for as ``root``.
    """
    models = app.state.openai_serving_models
    show = models.show_available_models

    async def show_without_paths() -> Any:
        listed = await show()
        for card in listed.data:
            card.root = card.id
        # vLLM lists adapters by what they hold, in the order of the names.
        adapters = listed.data[len(listed.data) - len(models.lora_requests) :]
        for name, card in zip(models.lora_requests, adapters, strict=True):
            card.id = name
        listed.data = [card for card in listed.data if HIDDEN not in card.id]
        return listed

    models.show_available_models = show_without_paths
