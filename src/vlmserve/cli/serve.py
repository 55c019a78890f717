"""``vlmserve serve``: serve a checkpoint behind the OpenAI API."""

import argparse
import asyncio
import contextlib
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from vlmserve.cli.options import (
    add_allow_argument,
    add_checkpoint_arguments,
    add_config_arguments,
    add_train_env_argument,
    load_serve_config,
    open_checkpoint,
    require_sound,
)
from vlmserve.cli.stages import Stages
from vlmserve.cli.termination import INTERRUPTED, ended_at_once
from vlmserve.errors import ConfigError

if TYPE_CHECKING:
    import socket

    from vlmserve.config.serve import ServeConfig

_LOG = logging.getLogger(__name__)

_STDERR = 2
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add_checkpoint_arguments(parser)
    add_train_env_argument(parser)
    add_allow_argument(parser)
    add_config_arguments(parser)
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", help="TCP port (default: 8000); 0 takes a free one")
    parser.add_argument(
        "--no-playground", action="store_true", help="serve no page at / to try the models"
    )
    parser.add_argument(
        "--api-key-file",
        metavar="FILE",
        help="API keys, one a line: name:key or name:sha256:DIGEST; read again when it changes",
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the resolved settings and exit"
    )
    parser.add_argument(
        "vllm_flags", nargs="*", metavar="-- FLAG", help="further flags of `vllm serve`"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes; exit status 0 then."""
    flags = {
        "server.host": args.host,
        "server.port": args.port,
        "server.api_key_file": args.api_key_file,
    }
    if args.no_playground:
        flags["server.playground"] = False
    config = load_serve_config(
        args, overrides={key: value for key, value in flags.items() if value is not None}
    )
    if args.print_config:
        print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), end="")
        return 0
    from vlmserve.server.run import bind

    with ended_at_once(_say_stopped), contextlib.ExitStack() as sockets:
        sock = sockets.enter_context(bind(config.server.host, config.server.port))
        metrics_port = config.server.metrics_port
        metrics_sock = None
        if metrics_port is not None:
            metrics_sock = sockets.enter_context(bind(config.server.host, metrics_port))
        _serve(args, config, sock, metrics_sock)
    return 0


def _say_stopped(status: int) -> None:
    # Logging and streams may be in the middle of something.
    said = b"interrupted" if status == INTERRUPTED else b"stopped before it was ready"
    os.write(_STDERR, said + b"\n")


def _serve(
    args: argparse.Namespace,
    config: "ServeConfig",
    sock: "socket.socket",
    metrics_sock: "socket.socket | None",
) -> None:
    from vlmserve.checkpoint.provenance import parse_train_env
    from vlmserve.engine.environment import prepare_vllm
    from vlmserve.engine.media_connector import configure, decoder_processes
    from vlmserve.engine.plan import plan_serving, prompt_limits
    from vlmserve.engine.vllm_args import parse_vllm_flags, rollout_flags, vllm_flags
    from vlmserve.server.app import Service
    from vlmserve.server.auth import take_keys
    from vlmserve.server.identity import Identity, served_models, served_settings
    from vlmserve.server.run import run_server

    train_env = parse_train_env(args.train_env)
    keys = take_keys(config.server)
    adapter_root = config.server.adapter_root
    if adapter_root is not None and not Path(adapter_root).is_dir():
        raise ConfigError(f"server.adapter_root: {adapter_root} is not a directory")
    if not keys.api and config.server.host not in _LOOPBACK:
        _LOG.warning(
            "warning: %s is open to whoever reaches it; set %s or give --api-key-file to ask for "
            "a key",
            config.server.host,
            config.server.api_key_env,
        )
    configure(config.media)
    with (
        Stages() as stages,
        tempfile.TemporaryDirectory(prefix="vlmserve-") as scratch,
        contextlib.ExitStack() as started,
    ):

        def clean_up(status: int) -> None:
            stages.end()
            shutil.rmtree(scratch, ignore_errors=True)
            _say_stopped(status)

        # Until the server listens; then it drains.
        started.enter_context(ended_at_once(clean_up))
        stages.begin("checking the checkpoint")
        checkpoint = open_checkpoint(args)
        report = require_sound(checkpoint, args.allow, serve=config, train_env=train_env)
        plan = plan_serving(checkpoint, config, Path(scratch), train_env=train_env)
        for note in plan.notes:
            _LOG.info(note)
        configure(config.media, plan.normalisation)
        stages.begin("importing vLLM")
        prepare_vllm()
        rollout = rollout_flags(plan, config)
        vllm_args = parse_vllm_flags(vllm_flags(plan, config, rollout), args.vllm_flags)
        settings = served_settings(plan, config, [*rollout, *args.vllm_flags])
        import uvloop

        service = Service(
            config,
            keys,
            Identity(served_models(checkpoint, plan), report, settings),
            prompt_limits(checkpoint, plan, config.media.max_request_visual_tokens),
        )
        # Between stages, which have a thread that draws them.
        stages.end()
        with (
            decoder_processes(),
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            stages.begin("starting the engine")
            serving = run_server(
                vllm_args, sock, service, on_ready=stages.end, metrics_sock=metrics_sock
            )
            runner.run(serving)
