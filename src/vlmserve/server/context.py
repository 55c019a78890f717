"""What is known of one HTTP request while it passes through the guards."""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Scope

_KEY = "vlmserve"


@dataclass(slots=True)
class RequestContext:
    """One request, from its first byte to its answer's last."""

    request_id: str
    route: str
    """Its path, without the prefix under which a proxy offers this server."""

    started: float = field(default_factory=time.monotonic)
    """``time.monotonic()`` when its headers were complete."""

    key_name: str | None = None
    """Name of the key that it carried; ``None`` where none is asked for."""

    body: bytes = b""
    """Its body, once that is whole."""

    refused: str | None = None
    """Code of the error that a guard answered with."""

    def age_s(self) -> float:
        """Seconds since it started."""
        return time.monotonic() - self.started


def attach(scope: "Scope", context: RequestContext) -> None:
    """Give a request its context."""
    scope[_KEY] = context


def context_of(scope: "Scope") -> RequestContext:
    """The request's context; a new one where no guard before this one made any."""
    found: Any = scope.get(_KEY)
    if isinstance(found, RequestContext):
        return found
    context = RequestContext(request_id="", route=route_of(scope))
    attach(scope, context)
    return context


def route_of(scope: "Scope") -> str:
    """The path below ``root_path``: what the routes of the app are named by."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and (path == root or path.startswith(f"{root}/")):
        return path[len(root) :] or "/"
    return path


def header(scope: "Scope", name: bytes) -> str | None:
    """The first header of a name (lower case), or ``None``."""
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    value = next((value for found, value in headers if found == name), None)
    return None if value is None else value.decode("latin-1")
