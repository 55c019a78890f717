"""``/metrics`` on a port of its own, for networks that only the monitoring reaches."""

import socket
from typing import TYPE_CHECKING

from vlmserve.server.auth import KeyGuard, Keys
from vlmserve.server.security_headers import SecurityHeaders

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from vlmserve.config.server import ServerConfig


async def serve_metrics(sock: socket.socket, keys: Keys, config: "ServerConfig") -> None:
    """Answer ``/metrics`` until cancelled.

    Args:
        sock: A socket that listens.
        keys: Who may ask.
        config: Limits of connections and headers.
    """
    import uvicorn
    from vllm.entrypoints.launchers.launcher import NoSignalServer

    from vlmserve.server.connection import guarded_protocol

    settings = uvicorn.Config(
        SecurityHeaders(KeyGuard(metrics_app(), keys)),
        http=guarded_protocol(config),
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
    )
    await NoSignalServer(settings).serve(sockets=[sock])


def metrics_app() -> "ASGIApp":
    """VLLM's metrics and ours at ``/metrics``, and nothing else."""
    from prometheus_client import make_asgi_app
    from starlette.responses import Response
    from vllm.v1.metrics.prometheus import get_prometheus_registry

    show = make_asgi_app(registry=get_prometheus_registry())

    async def app(scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["path"] == "/metrics":
            await show(scope, receive, send)
        else:
            await Response(status_code=404)(scope, receive, send)

    return app
