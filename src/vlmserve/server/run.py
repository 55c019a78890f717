"""The life of a server: load, probe, listen, drain, exit.

vLLM 0.32's own launcher is not used for the last steps: on SIGTERM it either cuts running requests
with a 500 or answers new ones with a 500 while ``/health`` stays 200, and it exits 0 when its
engine has died.
"""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from vlmserve.errors import EngineError
from vlmserve.server.admission import Admission
from vlmserve.server.app import create_app
from vlmserve.server.readiness import probe_models

if TYPE_CHECKING:
    from argparse import Namespace

    from fastapi import FastAPI

    from vlmserve.config.serve import ServerConfig
    from vlmserve.engine.prompt_meter import PromptLimits

_LOG = logging.getLogger(__name__)

_WATCHDOG_PERIOD_S = 1.0
_KEEP_ALIVE_S = 5
_BACKLOG = 2048


def bind(host: str, port: int) -> socket.socket:
    """Take the port before anything slow is done; nobody can connect until the server listens.

    Raises:
        EngineError: The address cannot be taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise EngineError(
            f"cannot listen on {host}:{port}: {error.strerror}", hint="choose another --port"
        ) from error
    return sock


async def run_server(  # noqa: PLR0913 - the one way in, called once
    args: "Namespace",
    sock: socket.socket,
    names: Sequence[str],
    config: "ServerConfig",
    *,
    key: str | None,
    limits: "PromptLimits",
    on_ready: Callable[[], None],
) -> None:
    """Load the model, serve until told to stop, and drain.

    Args:
        args: vLLM's own arguments.
        sock: The socket from ``bind``.
        names: The served names, each of which is probed before the server listens.
        config: The HTTP server's settings.
        key: The API key that requests must carry, if any.
        limits: What prompts are held to beside the model's context.
        on_ready: Called when the models have answered and the server is about to listen.

    Raises:
        CheckpointError: A model's answers are not finite.
        EngineError: The engine did not start, or died while serving.
        KeyboardInterrupt: A second signal cut the drain short.
    """
    async with _running_engine(args) as client:
        admission = Admission()
        app = await create_app(client, args, admission, key, limits, has_page=config.playground)
        await probe_models(app, client.model_config, names)
        # From here on connections are queued, so that "ready" is true when it is read.
        try:
            sock.listen(_BACKLOG)
        except OSError as error:
            raise EngineError(f"cannot listen: {error.strerror}") from error
        on_ready()
        host, port = sock.getsockname()[:2]
        _LOG.info("ready: http://%s:%d/v1 serves %s", host, port, " and ".join(names))
        if config.playground:
            _LOG.info("playground: http://%s:%d/", host, port)
        server = _Server(app, client, admission, config.drain_timeout_s)
        await server.serve(sock)
    if server.interrupted:
        raise KeyboardInterrupt
    if server.engine_died:
        raise EngineError(
            "the engine died; requests that were running were answered with an error",
            hint="its own message is above; start the server again",
        )


@contextlib.asynccontextmanager
async def _running_engine(args: "Namespace") -> AsyncIterator[Any]:
    from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client

    async with contextlib.AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(build_async_engine_client(args))
        except Exception as error:
            # vLLM raises dozens of kinds here, from OSError to torch's own.
            raise EngineError(f"vLLM could not load {args.model}: {error}") from error
        yield client


class _Server:
    """Listens until a signal comes or the engine dies."""

    def __init__(
        self, app: "FastAPI", client: Any, admission: Admission, drain_timeout_s: float
    ) -> None:
        import uvicorn
        from vllm.entrypoints.launchers.launcher import NoSignalServer

        settings = uvicorn.Config(
            app, access_log=False, log_level="warning", timeout_keep_alive=_KEEP_ALIVE_S
        )
        self._uvicorn = NoSignalServer(settings)
        # vLLM's error handlers ask this server to exit when they see a dead engine.
        app.state.server = self._uvicorn
        self._client = client
        self._admission = admission
        self._drain_timeout_s = drain_timeout_s
        self._stopping = asyncio.Event()
        self.engine_died = False
        """Whether the engine ended the service rather than a signal."""
        self.interrupted = False
        """Whether a second signal cut the drain short."""

    async def serve(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        tasks = [asyncio.create_task(self._drain()), asyncio.create_task(self._watch())]
        try:
            await self._uvicorn.serve(sockets=[sock])
        finally:
            for task in tasks:
                task.cancel()
            if self._uvicorn.force_exit:
                # uvicorn leaves the app's lifespan open when it is told to hurry.
                await self._uvicorn.lifespan.shutdown()
        # A terminal's Ctrl-C reaches the engine's process as well; that is no death.
        self.engine_died = bool(self._client.errored) and not self._stopping.is_set()

    def _on_signal(self) -> None:
        if self._stopping.is_set():
            _LOG.warning("second signal: cutting what still runs")
            self._uvicorn.force_exit = True
            self._uvicorn.should_exit = True
            self.interrupted = True
        self._stopping.set()

    async def _drain(self) -> None:
        await self._stopping.wait()
        self._admission.close()
        n_running = self._admission.n_running
        _LOG.info("draining: %d requests running, %g s at most", n_running, self._drain_timeout_s)
        if not await self._admission.drained(self._drain_timeout_s):
            _LOG.warning("%d requests did not finish in time", self._admission.n_running)
            self._uvicorn.force_exit = True
        self._uvicorn.should_exit = True

    async def _watch(self) -> None:
        while not self._client.errored:  # noqa: ASYNC110 - vLLM offers a flag, no event
            await asyncio.sleep(_WATCHDOG_PERIOD_S)
        if not self._stopping.is_set():
            _LOG.error("the engine died")
            self._uvicorn.should_exit = True
