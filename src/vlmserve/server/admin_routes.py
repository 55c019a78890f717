"""``/admin/adapters`` and ``/admin/aliases``: rolling adapters out, moving names, going back."""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from vlmserve.config.base import StrictModel
from vlmserve.errors import VlmserveError
from vlmserve.server.adapters import AdapterRollout
from vlmserve.server.errors import error_body

if TYPE_CHECKING:
    from fastapi import FastAPI, Request


class RolloutRequest(StrictModel):
    """The body of ``POST /admin/adapters``."""

    path: str = Field(min_length=1)
    """The adapter's directory, relative to ``server.adapter_root``."""

    name: str | None = None
    """The adapter's own name, for good; the directory's by default."""

    alias: str | None = None
    """A stable name that stands for it from then on."""

    allow: tuple[str, ...] = ()
    """Ids of blocking findings that are accepted."""


class MoveRequest(StrictModel):
    """The body of ``PUT /admin/aliases/NAME``."""

    target: str
    """Name of a loaded adapter."""


def add_admin_routes(app: "FastAPI", adapters: AdapterRollout) -> None:
    """Add the routes; ``KeyGuard`` asks for their key.

    Args:
        app: vLLM's app.
        adapters: What they change.
    """
    from fastapi import Body
    from fastapi.responses import JSONResponse

    async def roll_out(request: Annotated[RolloutRequest, Body()]) -> dict[str, Any]:
        return await adapters.roll_out(request.path, request.name, request.alias, request.allow)

    async def show() -> dict[str, Any]:
        return adapters.describe()

    async def unload(name: str) -> dict[str, Any]:
        return await adapters.unload(name)

    async def move(alias: str, request: Annotated[MoveRequest, Body()]) -> dict[str, Any]:
        return await adapters.move(alias, request.target)

    async def forget(alias: str) -> dict[str, Any]:
        return await adapters.forget(alias)

    async def roll_back(alias: str) -> dict[str, Any]:
        return await adapters.roll_back(alias)

    app.post("/admin/adapters")(roll_out)
    app.get("/admin/adapters")(show)
    app.delete("/admin/adapters/{name}")(unload)
    app.put("/admin/aliases/{alias}")(move)
    app.delete("/admin/aliases/{alias}")(forget)
    app.post("/admin/aliases/{alias}/rollback")(roll_back)

    @app.exception_handler(VlmserveError)
    async def refuse(_: "Request", error: VlmserveError) -> JSONResponse:
        return JSONResponse(error_body(error), status_code=error.status)
