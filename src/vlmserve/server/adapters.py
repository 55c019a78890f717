"""Rolls adapters out while the server runs: check, load, ask, and only then move a stable name.

Built on the adapters of vLLM 0.32's ``OpenAIServingModels``: requests look a name up once and keep
what they found, so that moving a name changes nothing for those that run. vLLM keys its prefix
cache by the adapter's name, so that a name never stands for two contents.
"""

import asyncio
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmserve import metrics
from vlmserve.doctor.finding import SEVERITIES
from vlmserve.doctor.report import DoctorReport
from vlmserve.errors import (
    ConfigError,
    ConflictError,
    ModelNotFoundError,
    RequestError,
    VlmserveError,
)
from vlmserve.server.adapter_check import (
    find_directory,
    inspect_adapter,
    require_fit,
)
from vlmserve.server.adapter_start import start_adapter
from vlmserve.server.adapter_state import AdapterState, load_state, save_state
from vlmserve.server.identity import PENDING, Identity, ServedModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi import FastAPI

    from vlmserve.config.serve import ServeConfig

_LOG = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(slots=True)
class Alias:
    """A stable name and what it has stood for."""

    name: str
    history: list[str] = field(default_factory=list)
    """Names of adapters, the present one last."""

    @property
    def target(self) -> str:
        """The adapter that it stands for."""
        return self.history[-1]


class AdapterRollout:
    """The adapters of a running server.

    Args:
        app: vLLM's app, its state initialised.
        client: vLLM's engine.
        config: Says where adapters may lie, how many fit, and which rank.
        identity: Told of what is served.
    """

    def __init__(
        self, app: "FastAPI", client: Any, config: "ServeConfig", identity: Identity
    ) -> None:
        self._app = app
        self._client = client
        self._models = app.state.openai_serving_models
        self._config = config
        self._identity = identity
        self._root = Path(config.server.adapter_root or ".").resolve()
        self._aliases: dict[str, Alias] = {}
        self._known = {model.name: model.fingerprint for model in identity.models.values()}
        self._rolled_out: dict[str, str] = {}
        self._lock = asyncio.Lock()

    @property
    def _base(self) -> ServedModel:
        return next(model for model in self._identity.models.values() if model.parent is None)

    def describe(self) -> dict[str, Any]:
        """The body of ``GET /admin/adapters``."""
        return {
            "adapters": [
                {
                    "name": model.name,
                    "path": self._rolled_out.get(model.name),
                    "fingerprint": model.fingerprint,
                    "aliases": sorted(
                        alias.name for alias in self._aliases.values() if alias.target == model.name
                    ),
                }
                for model in self._identity.models.values()
                if model.parent is not None
            ],
            "aliases": [
                {"name": alias.name, "target": alias.target, "history": alias.history}
                for alias in self._aliases.values()
            ],
            "max_adapters": self._config.server.max_adapters,
        }

    async def restore(self) -> None:
        """Bring back what the state file holds, before the server listens.

        Raises:
            ConfigError: The file is broken, or what it names cannot be served any more.
        """
        server = self._config.server
        first = [model.name for model in self._identity.models.values() if model.parent is not None]
        if server.adapter_alias is not None and first:
            self._point(server.adapter_alias, first[0])
        state = load_state(server.adapter_state)
        try:
            for name, path in state.adapters.items():
                # What was accepted once is not judged by newer checks.
                await self._load(path, name, tuple(SEVERITIES))
            for name, history in state.aliases.items():
                self._restore_alias(name, history)
        except VlmserveError as error:
            raise ConfigError(
                f"server.adapter_state: {server.adapter_state}: {error.message}",
                hint="remove the file to start without what was rolled out",
            ) from error

    def _restore_alias(self, name: str, history: list[str]) -> None:
        if history[-1] not in self._models.lora_requests:
            raise ConflictError(f"the alias {name} stands for {history[-1]}, which is not served")
        kept = [target for target in history if target in self._models.lora_requests]
        self._point(name, kept[-1])
        self._aliases[name].history = kept

    async def roll_out(
        self, path: str, name: str | None, alias: str | None, allow: "Sequence[str]"
    ) -> dict[str, Any]:
        """Check an adapter, load it, ask it a first question, and move the alias to it.

        Args:
            path: Its directory, below the operator's root.
            name: Its own name, for good; the directory's by default.
            alias: A stable name that shall stand for it from then on.
            allow: Ids of blocking findings that are accepted.

        Returns:
            What ``describe`` gives, with the report of the checks.

        Raises:
            RequestError: The checks, the engine or the model's answer speak against it; nothing has
                changed then.
            ConflictError: The name is taken, or there is no room.
        """
        async with self._lock:
            try:
                if alias is not None:
                    self._require_alias(alias)
                loaded, report = await self._load(path, name, allow)
                if alias is not None:
                    self._point(alias, loaded)
            except VlmserveError:
                metrics.ADAPTER_CHANGES.labels("roll_out", "refused").inc()
                raise
            metrics.ADAPTER_CHANGES.labels("roll_out", "done").inc()
            self._save()
        _LOG.info("adapter %s is served%s", loaded, f" as {alias}" if alias else "")
        return {
            "name": loaded,
            "check": {
                "warn": [finding.id for finding in report.warnings],
                "allowed": [finding.id for finding in report.blocking],
                "unknown": [unknown.id for unknown in report.unknown],
            },
            **self.describe(),
        }

    async def move(self, alias: str, target: str) -> dict[str, Any]:
        """Let an alias stand for a loaded adapter.

        Raises:
            ModelNotFoundError: No adapter of that name is loaded.
            ConflictError: The alias is the name of a model.
        """
        async with self._lock:
            self._require_alias(alias)
            if target not in self._identity.models or target not in self._models.lora_requests:
                raise ModelNotFoundError(f"no adapter {target!r} is loaded", param="target")
            self._point(alias, target)
            metrics.ADAPTER_CHANGES.labels("move", "done").inc()
            self._save()
        _LOG.info("%s stands for %s", alias, target)
        return self.describe()

    async def roll_back(self, alias: str) -> dict[str, Any]:
        """Let an alias stand for what it stood for before.

        Raises:
            ModelNotFoundError: There is no such alias.
            ConflictError: It has stood for nothing else, or for what is no longer loaded.
        """
        async with self._lock:
            found = self._aliases.get(alias)
            if found is None:
                raise ModelNotFoundError(f"there is no alias {alias!r}", param="alias")
            if len(found.history) == 1:
                raise ConflictError(f"{alias} has stood for nothing but {found.target}")
            before = found.history[-2]
            if before not in self._models.lora_requests:
                raise ConflictError(f"{alias} stood for {before}, which is no longer loaded")
            self._models.lora_requests[alias] = self._models.lora_requests[before]
            found.history.pop()
            self._identity.aliases[alias] = before
            metrics.ADAPTER_CHANGES.labels("roll_back", "done").inc()
            self._save()
        _LOG.info("%s is back at %s", alias, before)
        return self.describe()

    async def forget(self, alias: str) -> dict[str, Any]:
        """Take an alias away; what it stands for goes on under its own name.

        Raises:
            ModelNotFoundError: There is no such alias.
        """
        async with self._lock:
            if alias not in self._aliases:
                raise ModelNotFoundError(f"there is no alias {alias!r}", param="alias")
            for names in (self._aliases, self._identity.aliases, self._models.lora_requests):
                del names[alias]
            self._save()
        _LOG.info("the alias %s is gone", alias)
        return self.describe()

    async def unload(self, name: str) -> dict[str, Any]:
        """Forget an adapter; requests that run with it go on.

        Raises:
            ModelNotFoundError: No adapter of that name is loaded.
            ConflictError: An alias stands for it.
        """
        async with self._lock:
            model = self._identity.models.get(name)
            if model is None or model.parent is None or name not in self._models.lora_requests:
                raise ModelNotFoundError(f"no adapter {name!r} is loaded", param="name")
            for alias in self._aliases.values():
                if alias.target == name:
                    raise ConflictError(f"{alias.name} stands for {name}; move it first")
            del self._models.lora_requests[name]
            del self._identity.models[name]
            self._rolled_out.pop(name, None)
            metrics.ADAPTER_CHANGES.labels("unload", "done").inc()
            self._save()
        _LOG.info("adapter %s is no longer served", name)
        return self.describe()

    async def _load(
        self, path: str, name: str | None, allow: "Sequence[str]"
    ) -> tuple[str, DoctorReport]:
        directory = find_directory(self._root, path)
        base = self._base.checkpoint.model
        checkpoint, report = await asyncio.to_thread(
            inspect_adapter, directory, base, self._config, allow
        )
        model = ServedModel(name or checkpoint.name, checkpoint, parent=self._base.name)
        self._require_name(model.name)
        self._require_room()
        require_fit(checkpoint, self._client.vllm_config.lora_config)
        fingerprint = await self._identity.take_fingerprint(model)
        if self._known.get(model.name, fingerprint) not in (fingerprint, PENDING):
            raise ConflictError(
                f"{model.name} has been the name of other weights since this server started; "
                "cached answers of theirs may be left: choose another name",
                param="name",
            )
        await start_adapter(self._app, self._client, model)
        self._known[model.name] = fingerprint
        self._identity.models[model.name] = model
        self._rolled_out[model.name] = str(directory.relative_to(self._root))
        return model.name, report

    def _require_name(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise RequestError(
                f"{name[:64]!r} is no name: letters, digits, '.', '_' and '-'", param="name"
            )
        if name in self._models.lora_requests or name in self._identity.models:
            raise ConflictError(f"the name {name} is taken", param="name")

    def _require_alias(self, alias: str) -> None:
        if not _NAME.fullmatch(alias):
            raise RequestError(
                f"{alias[:64]!r} is no name: letters, digits, '.', '_' and '-'", param="alias"
            )
        if alias in self._identity.models:
            raise ConflictError(f"{alias} is the name of a model", param="alias")

    def _require_room(self) -> None:
        server = self._config.server
        n_loaded = sum(model.parent is not None for model in self._identity.models.values())
        if n_loaded >= server.max_adapters:
            raise ConflictError(
                f"{n_loaded} adapters are loaded, which is all that server.max_adapters allows; "
                "unload one first"
            )

    def _point(self, alias: str, target: str) -> None:
        """Move an alias: one assignment, between two requests."""
        self._models.lora_requests[alias] = self._models.lora_requests[target]
        found = self._aliases.setdefault(alias, Alias(alias))
        if not found.history or found.target != target:
            found.history.append(target)
        self._identity.aliases[alias] = target

    def _save(self) -> None:
        aliases = {alias.name: list(alias.history) for alias in self._aliases.values()}
        state = AdapterState(adapters=dict(self._rolled_out), aliases=aliases)
        save_state(self._config.server.adapter_state, state)
