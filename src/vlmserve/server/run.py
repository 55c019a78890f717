"""The life of a server: load, probe, listen, drain, exit.

vLLM 0.32's own launcher is not used for the last steps: on SIGTERM it either cuts running requests
with a 500 or answers new ones with a 500 while ``/health`` stays 200, and it exits 0 when its
engine has died.
"""

import asyncio
import contextlib
import logging
import math
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from vlmserve.engine.allocator import give_back_regularly, share_few_arenas
from vlmserve.engine.media_connector import decoders_are_lost
from vlmserve.errors import ConfigError, EngineError
from vlmserve.server.admission import Admission
from vlmserve.server.app import Service, create_app
from vlmserve.server.auth import KeyRing
from vlmserve.server.metrics_server import serve_metrics
from vlmserve.server.readiness import probe_models
from vlmserve.server.watchdog import wait_for_trouble

if TYPE_CHECKING:
    from argparse import Namespace

    from fastapi import FastAPI

    from vlmserve.config.server import ServerConfig

_LOG = logging.getLogger(__name__)

_WATCHDOG_PERIOD_S = 1.0
_KEY_FILE_PERIOD_S = 2.0
_LAST_ANSWERS_S = 5.0
"""Seconds that requests are given to be told that the engine has died."""

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


async def run_server(
    args: "Namespace",
    sock: socket.socket,
    service: Service,
    *,
    on_ready: Callable[[], None],
    metrics_sock: socket.socket | None = None,
) -> None:
    """Load the model, serve until told to stop, and drain.

    Args:
        args: vLLM's own arguments.
        sock: The socket from ``bind``.
        service: What is served to whom; each served name is probed before the server listens.
        on_ready: Called when the models have answered and the server is about to listen.
        metrics_sock: Another one, for ``/metrics`` alone.

    Raises:
        CheckpointError: A model's answers are not finite.
        EngineError: The engine did not start, or died while serving.
        KeyboardInterrupt: A second signal cut the drain short.
    """
    config = service.config.server
    share_few_arenas()
    give_back_regularly()
    async with _running_engine(args) as client:
        admission = Admission(_max_running(client, config), config.max_queued_requests)
        app = await create_app(client, args, admission, service)
        await probe_models(app, client.model_config, service.names)
        # From here on connections are queued, so that "ready" is true when it is read.
        _listen(sock)
        on_ready()
        _LOG.info("ready: %s/v1 serves %s", _url(sock), " and ".join(service.names))
        beside = [service.identity.take_fingerprints(), _follow_key_file(service.keys.api)]
        if metrics_sock is not None:
            _listen(metrics_sock)
            _LOG.info("metrics: %s/metrics", _url(metrics_sock))
            beside.append(serve_metrics(metrics_sock, service.keys, config))
        server = _Server(app, client, admission, config)
        async with _running_beside(beside):
            await server.serve(sock)
    if server.interrupted:
        raise KeyboardInterrupt
    if server.decoders_died:
        raise EngineError(
            "the template of the decoder processes died; requests that were running were finished",
            hint="start the server again",
        )
    if server.engine_died:
        raise EngineError(
            "the engine died; requests that were running were answered with an error",
            hint="its own message is above; start the server again",
        )


@contextlib.asynccontextmanager
async def _running_beside(jobs: Sequence[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Run jobs until the block ends; one that fails is told, and the server goes on."""
    tasks = [asyncio.create_task(job) for job in jobs]
    for task in tasks:
        task.add_done_callback(_tell_failure)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _tell_failure(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _LOG.error("a job beside the server failed", exc_info=error)


def _max_running(client: Any, config: "ServerConfig") -> int:
    """As many as the engine computes at once: in vLLM's own queue nothing has a deadline."""
    engine: int = client.vllm_config.scheduler_config.max_num_seqs
    return engine if config.max_running is None else config.max_running


def _listen(sock: socket.socket) -> None:
    try:
        sock.listen(_BACKLOG)
    except OSError as error:
        raise EngineError(f"cannot listen: {error.strerror}") from error


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _follow_key_file(ring: KeyRing) -> None:
    """Read the key file again when it changes, or at SIGHUP."""
    hang_up = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up.set)
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hang_up.wait(), _KEY_FILE_PERIOD_S)
        if not hang_up.is_set() and not ring.has_changed():
            continue
        hang_up.clear()
        try:
            ring.reload()
        except ConfigError as error:
            _LOG.error("the keys stay as they were: %s", error.message)
        else:
            _LOG.info("API keys read again: %d", len(ring))


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
        self, app: "FastAPI", client: Any, admission: Admission, config: "ServerConfig"
    ) -> None:
        import uvicorn
        from vllm.entrypoints.launchers.launcher import NoSignalServer

        from vlmserve.server.connection import guarded_protocol

        settings = uvicorn.Config(
            app,
            http=guarded_protocol(config),
            ws="none",
            access_log=False,
            log_level="warning",
            timeout_keep_alive=math.ceil(config.keep_alive_s),
            server_header=False,
            proxy_headers=bool(config.trusted_proxies),
            forwarded_allow_ips=list(config.trusted_proxies),
            root_path=config.root_path,
        )
        self._uvicorn = NoSignalServer(settings)
        # vLLM's error handlers ask this server to exit when they see a dead engine.
        app.state.server = self._uvicorn
        self._client = client
        self._admission = admission
        self._drain_timeout_s = config.drain_timeout_s
        self._stopping = asyncio.Event()
        self.engine_died = False
        """Whether the engine ended the service rather than a signal."""
        self.decoders_died = False
        """Whether that was the loss of the decoder processes."""
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
        n_present = self._admission.n_present
        _LOG.info("draining: %d requests running, %g s at most", n_present, self._drain_timeout_s)
        if not await self._admission.drained(self._drain_timeout_s):
            _LOG.warning("%d requests did not finish in time", self._admission.n_present)
            self._uvicorn.force_exit = True
        self._uvicorn.should_exit = True

    async def _watch(self) -> None:
        trouble = await wait_for_trouble(
            self._client, decoders_are_lost, period_s=_WATCHDOG_PERIOD_S
        )
        if self._stopping.is_set():
            return
        if trouble == "decoders":
            _LOG.error("images and videos cannot be decoded any more: stopping")
            self.decoders_died = True
            self._stopping.set()
        else:
            _LOG.error("the engine died")
            self._admission.abandon("the engine is gone; try again later")
            self._uvicorn.should_exit = True
            if not await self._admission.drained(_LAST_ANSWERS_S):
                self._uvicorn.force_exit = True
