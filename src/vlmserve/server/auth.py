"""API keys: every route asks for one, but for the health probes."""

import hashlib
import os
import re
import secrets
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlmserve.config.server import ServerConfig
from vlmserve.errors import AuthenticationError, ConfigError, ModelNotFoundError
from vlmserve.server.context import context_of, header
from vlmserve.server.refusal import refuse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_OPEN_ROUTES = frozenset({"/health", "/ready"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HASHED = re.compile(r"sha256:([0-9a-f]{64})")
_MIN_KEY_CHARS = 8


@dataclass(frozen=True, slots=True)
class _Key:
    name: str
    digest: bytes


class KeyRing:
    """The keys that requests may carry, some of which can change while the server runs.

    Args:
        fixed: Keys by name, from the environment.
        path: A file of further keys, a line each: ``name:key``, or ``name:sha256:`` and the digest
            of the key in hexadecimal digits. Empty lines and lines that begin with ``#`` count not.

    Raises:
        ConfigError: The file cannot be read, or a line is wrong. Keys are not told.
    """

    def __init__(self, fixed: dict[str, str] | None = None, path: Path | None = None) -> None:
        self._fixed = tuple(
            _Key(name, _digest(key.encode())) for name, key in (fixed or {}).items()
        )
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self._keys = self._fixed
        if path is not None:
            self.reload()

    def __bool__(self) -> bool:
        """Whether a key is asked for at all."""
        return bool(self._fixed) or self._path is not None

    def __len__(self) -> int:
        """How many keys there are."""
        return len(self._keys)

    def reload(self) -> None:
        """Read the file again; after an error the keys stay as they were.

        Raises:
            ConfigError: As for the class.
        """
        if self._path is None:
            return
        self._seen = _state_of(self._path)
        self._keys = self._fixed + _read_keys(self._path, {key.name for key in self._fixed})

    def has_changed(self) -> bool:
        """Whether the file is another one than at the last reading."""
        return self._path is not None and _state_of(self._path) != self._seen

    def find(self, key: bytes) -> str | None:
        """Name of the key that a request carries, or ``None``.

        The time says nothing about which key it is or how much of it is right: digests of one
        length are compared, and all of them.
        """
        digest, found = _digest(key), None
        for known in self._keys:
            if secrets.compare_digest(digest, known.digest):
                found = known.name
        return found


@dataclass(frozen=True, slots=True)
class Keys:
    """Who may ask what."""

    api: KeyRing
    """For everything that is not named below; without any the API is open."""

    metrics: KeyRing
    """For ``/metrics``; without any it asks for an API key."""

    admin: KeyRing
    """For ``/admin/``; without any there are no such routes."""


def take_keys(config: ServerConfig, environ: MutableMapping[str, str] | None = None) -> Keys:
    """Read the keys from the environment and from the operator's file.

    vLLM's own variable is read where ours is not set, and taken away in any case: its guard covers
    a part of the routes only, and would ask for a second key.

    Args:
        config: Names variables and file.
        environ: The environment to read and change; the process's own when ``None``.

    Returns:
        The keys.

    Raises:
        ConfigError: A variable that was named on purpose is not set, a key is unusable, or the file
            is broken.
    """
    environ = os.environ if environ is None else environ
    vllm_key = environ.pop("VLLM_API_KEY", "")
    defaults = ServerConfig()
    fields = ("api_key_env", "metrics_key_env", "admin_key_env")
    found = {}
    for field in fields:
        name = getattr(config, field)
        key = environ.get(name, "").strip()
        if not key and name != getattr(defaults, field):
            raise ConfigError(f"server.{field}: the variable {name} holds no key")
        found[field] = _usable(key, f"server.{field}: the key in {name}")
    api = found["api_key_env"] or _usable(vllm_key.strip(), "VLLM_API_KEY: the key in it")
    path = None if config.api_key_file is None else Path(config.api_key_file)
    return Keys(
        api=KeyRing({"default": api} if api else {}, path),
        metrics=_ring("metrics", found["metrics_key_env"]),
        admin=_ring("admin", found["admin_key_env"]),
    )


class KeyGuard:
    """Pure ASGI middleware that refuses requests without the key that their route asks for.

    vLLM's own guard covers a few prefixes and leaves ``/invocations``, ``/tokenize``, ``/metrics``
    and others open. This one is closed by default.

    Args:
        app: What it guards.
        keys: Who may ask what.
        open_paths: Further routes that hold nothing to be guarded.
    """

    def __init__(
        self, app: "ASGIApp", keys: Keys, open_paths: frozenset[str] = frozenset()
    ) -> None:
        self._app = app
        self._keys = keys
        self._open_routes = _OPEN_ROUTES | open_paths

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass the request on, or answer 401."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        context = context_of(scope)
        is_admin = context.route == "/admin" or context.route.startswith("/admin/")
        if is_admin and not self._keys.admin and scope["type"] == "http":
            error = ModelNotFoundError("there are no admin routes: no admin key is set")
            error.code = "not_found"
            await refuse(scope, send, error)
            return
        ring = self._ring_of(context.route, is_admin=is_admin)
        if ring:
            context.key_name = ring.find(_key_of(scope))
        if not ring or context.key_name is not None:
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        missing = AuthenticationError("the API key is missing or wrong")
        await refuse(scope, send, missing, headers=((b"www-authenticate", b"Bearer"),), close=True)

    def _ring_of(self, route: str, *, is_admin: bool) -> KeyRing | None:
        if route in self._open_routes:
            return None
        if is_admin:
            return self._keys.admin
        if route.startswith("/metrics") and self._keys.metrics:
            return self._keys.metrics
        return self._keys.api


def _key_of(scope: "Scope") -> bytes:
    """The key of ``Authorization: Bearer``, or of Anthropic's ``X-Api-Key``."""
    scheme, _, key = (header(scope, b"authorization") or "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip().encode("latin-1")
    return (header(scope, b"x-api-key") or "").strip().encode("latin-1")


def _ring(name: str, key: str) -> KeyRing:
    return KeyRing({name: key} if key else {})


def _usable(key: str, where: str) -> str:
    if not key.isascii() or (key and not key.isprintable()):
        raise ConfigError(f"{where} has characters that no HTTP header can carry")
    return key


def _state_of(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read_keys(path: Path, taken: set[str]) -> tuple[_Key, ...]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"server.api_key_file: {path}: {reason}") from error
    keys: list[_Key] = []
    names = set(taken)
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key = _parse_line(line.strip(), f"{path}, line {number}")
        if key.name in names:
            raise ConfigError(f"{path}, line {number}: the name {key.name} is taken already")
        names.add(key.name)
        keys.append(key)
    if not keys:
        raise ConfigError(f"server.api_key_file: {path} holds no key")
    return tuple(keys)


def _parse_line(line: str, where: str) -> _Key:
    name, colon, key = line.partition(":")
    if not colon or not _NAME.fullmatch(name):
        # The line is not shown: it may be a key without a name.
        raise ConfigError(
            f"{where}: expected name:key or name:sha256:DIGEST, with a name of letters, digits, "
            "'.', '_' and '-'"
        )
    if hashed := _HASHED.fullmatch(key):
        return _Key(name, bytes.fromhex(hashed[1]))
    if key.startswith("sha256:"):
        raise ConfigError(f"{where}: a SHA-256 digest has 64 hexadecimal digits in lower case")
    if len(key) < _MIN_KEY_CHARS or " " in key:
        raise ConfigError(
            f"{where}: the key of {name} is shorter than {_MIN_KEY_CHARS} characters or holds "
            "spaces"
        )
    return _Key(name, _digest(_usable(key, f"{where}: the key of {name}").encode()))


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
