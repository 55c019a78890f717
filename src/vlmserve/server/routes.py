"""What the server says of itself: ready or not, and what it is."""

from typing import TYPE_CHECKING

from vlmserve.server.admission import Admission
from vlmserve.server.identity import Identity

if TYPE_CHECKING:
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse


def add_probe_routes(app: "FastAPI", admission: Admission, identity: Identity) -> None:
    """Add ``/ready``, and put ``/version`` in the place of vLLM's.

    Args:
        app: vLLM's app.
        admission: Knows whether requests are taken.
        identity: What ``/version`` tells.
    """
    from fastapi.responses import JSONResponse
    from starlette.routing import Route

    async def ready(_: "Request") -> "JSONResponse":
        """200 while requests are taken. The server listens only after its models were probed."""
        if admission.is_open:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "draining"}, status_code=503)

    async def version(_: "Request") -> "JSONResponse":
        return JSONResponse(identity.describe())

    # In front of vLLM's own routes: the first that matches answers.
    app.router.routes[:0] = [
        Route("/ready", ready, include_in_schema=False),
        Route("/version", version, include_in_schema=False),
    ]
