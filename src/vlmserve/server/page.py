"""The page at ``/``: ask every served model the same question and see the answers side by side.

Its files hold no data and are served without a key, because a browser cannot send one when it opens
an address; whatever the page shows comes from the API, with the key that its reader enters.
"""

from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI

_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/playground/api.js": ("api.js", "text/javascript; charset=utf-8"),
    "/playground/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/playground/parts.js": ("parts.js", "text/javascript; charset=utf-8"),
    "/playground/style.css": ("style.css", "text/css; charset=utf-8"),
    "/playground/icon.svg": ("icon.svg", "image/svg+xml"),
}
PATHS = frozenset(_FILES)
"""The page's own addresses."""

# Nothing from elsewhere, nothing inline, and nobody may frame it.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Mapping[str, str] = {
    "content-security-policy": _POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


def add_page(app: "FastAPI") -> None:
    """Add the page's routes."""
    folder = files("vlmserve.server").joinpath("playground")
    for path, (name, content_type) in _FILES.items():
        _add_file(app, path, folder.joinpath(name).read_bytes(), content_type)


def _add_file(app: "FastAPI", path: str, content: bytes, content_type: str) -> None:
    from starlette.responses import Response

    @app.get(path, include_in_schema=False)
    async def file() -> Response:
        return Response(content, media_type=content_type, headers=dict(_HEADERS))
