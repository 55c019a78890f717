"""Spells a serving plan in vLLM 0.32's own command-line flags, and parses them with its parser.

Going through vLLM's parser keeps one path for the server and for offline evaluation, lets users
add any flag that vLLM has, and leaves validation to vLLM.
"""

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from vlmserve.engine.plan import lora_room
from vlmserve.errors import ConfigError

if TYPE_CHECKING:
    from argparse import Namespace

    from vlmserve.config.engine import EngineConfig
    from vlmserve.config.serve import ServeConfig
    from vlmserve.engine.plan import ServingPlan

# Flags that would undo a guarantee of ours, with what to use in their place.
_RESERVED = {
    "--model": "--ckpt",
    "--tokenizer": "--ckpt",
    "--served-model-name": "--set server.served_model_name=NAME",
    "--lora-modules": "--ckpt ADAPTER",
    "--api-key": "the environment variable of server.api_key_env",
    "--host": "--host",
    "--port": "--port",
    "--uds": "--host and --port",
    "--grpc": "the HTTP API",
    "--headless": "one server per host",
    "--api-server-count": "one server per port",
    "-asc": "one server per port",
    "--ssl-keyfile": "a proxy that ends TLS in front of this server",
    "--ssl-certfile": "a proxy that ends TLS in front of this server",
    "--ssl-ca-certs": "a proxy that ends TLS in front of this server",
    "--ssl-cert-reqs": "a proxy that ends TLS in front of this server",
    "--ssl-ciphers": "a proxy that ends TLS in front of this server",
    "--enable-ssl-refresh": "a proxy that ends TLS in front of this server",
    "--shutdown-timeout": "--set server.drain_timeout_s=SECONDS",
    "--config": "--config",
    "--allowed-media-domains": "--set media.allowed_hosts=[HOST]",
    "--allowed-local-media-path": "--set media.allowed_roots=[DIR]",
}

_IN_VISION = "--enable-tower-connector-lora"


def vllm_flags(
    plan: "ServingPlan", config: "ServeConfig", rollout: Sequence[str] = ()
) -> list[str]:
    """Spell the plan and the operator's settings as flags of ``vllm serve``.

    Args:
        plan: What is served.
        config: The operator's settings.
        rollout: What ``rollout_flags`` gave; the room that the plan's adapters take is in it.
    """
    flags = ["--model", str(plan.model_path), "--served-model-name", plan.base_name]
    flags += _engine_flags(config.engine)
    flags += _json_flag("--mm-processor-kwargs", plan.mm_processor_kwargs)
    flags += _json_flag("--media-io-kwargs", plan.media_io_kwargs)
    flags += rollout or _adapter_room(plan)
    if plan.adapters:
        modules = [
            {
                "name": adapter.name,
                "path": str(adapter.path),
                "base_model_name": plan.base_name,
            }
            for adapter in plan.adapters
        ]
        flags += ["--lora-modules", *map(json.dumps, modules)]
        if any(adapter.in_vision for adapter in plan.adapters) and _IN_VISION not in rollout:
            flags.append(_IN_VISION)
    return flags + _server_flags(config)


def _adapter_room(plan: "ServingPlan") -> list[str]:
    if not plan.adapters:
        return []
    return _room_flags(max(adapter.max_rank for adapter in plan.adapters), len(plan.adapters))


def rollout_flags(plan: "ServingPlan", config: "ServeConfig") -> list[str]:
    """Flags that make room for adapters which are loaded while the server runs."""
    server = config.server
    if server.adapter_root is None:
        return []
    first = plan.adapter
    rank = max(server.max_adapter_rank, 1 if first is None else first.max_rank)
    flags = _room_flags(lora_room(rank), server.max_adapters)
    if server.adapters_in_vision:
        flags.append(_IN_VISION)
    return flags


def _room_flags(max_rank: int | None, n_adapters: int) -> list[str]:
    # One slot more than adapters: the base's requests then never share one.
    slots = ["--max-loras", str(n_adapters + 1)]
    return ["--enable-lora", "--max-lora-rank", str(max_rank), *slots]


def _engine_flags(engine: "EngineConfig") -> list[str]:
    flags = ["--dtype", engine.dtype, "--seed", str(engine.seed), "--no-use-tqdm-on-load"]
    flags += ["--gpu-memory-utilization", str(engine.gpu_memory_utilization)]
    flags += ["--tensor-parallel-size", str(engine.tensor_parallel_size)]
    flags += ["--mm-processor-cache-gb", str(engine.mm_processor_cache_gb)]
    flags += ["--limit-mm-per-prompt", engine.limit_mm_per_prompt.model_dump_json()]
    optional = {
        "--max-model-len": engine.max_model_len,
        "--max-num-seqs": engine.max_num_seqs,
        "--max-num-batched-tokens": engine.max_num_batched_tokens,
        "--kv-cache-memory-bytes": engine.kv_cache_memory_bytes,
        "--quantization": engine.quantization,
    }
    for flag, value in optional.items():
        if value is not None:
            flags += [flag, str(value)]
    if engine.enforce_eager:
        flags.append("--enforce-eager")
    flags.append(
        "--enable-prefix-caching" if engine.enable_prefix_caching else "--no-enable-prefix-caching"
    )
    return flags


def _server_flags(config: "ServeConfig") -> list[str]:
    server = config.server
    flags = ["--host", server.host, "--port", str(server.port)]
    if server.chat_template is not None:
        flags += ["--chat-template", server.chat_template]
    if server.tool_call_parser is not None:
        flags += ["--enable-auto-tool-choice", "--tool-call-parser", server.tool_call_parser]
    if server.reasoning_parser is not None:
        flags += ["--reasoning-parser", server.reasoning_parser]
    # Ctrl-C in a terminal reaches the engine's process as well: let it finish what runs, too.
    flags += ["--shutdown-timeout", str(math.ceil(server.drain_timeout_s))]
    # Cached tokens and those of each modality in the usage of every answer.
    flags.append("--enable-prompt-tokens-details")
    # Request lines of every call at the level at which a team watches its server.
    return [*flags, "--disable-uvicorn-access-log"]


def _json_flag(flag: str, value: Any) -> list[str]:
    return [flag, json.dumps(dict(value))] if value else []


def parse_vllm_flags(flags: Sequence[str], extra: Sequence[str] = ()) -> "Namespace":
    """Parse flags with vLLM's own parser and validate them as ``vllm serve`` does.

    Args:
        flags: What ``vllm_flags`` gave.
        extra: The user's own flags, given after ``--``; they win.

    Returns:
        vLLM's arguments.

    Raises:
        ConfigError: vLLM does not know a flag or refuses a value, or a flag is one that vlmserve
            sets itself.
    """
    _refuse_reserved(extra)
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.entrypoints.launchers.launcher import validate_api_server_args
    from vllm.exceptions import VLLMError
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):  # type: ignore[misc]
        """vLLM's parser, with its errors as ours."""

        def error(self, message: str) -> NoReturn:
            raise ConfigError(
                f"vLLM does not accept these settings: {message}",
                hint="flags after -- are those of `vllm serve`",
            )

    parser = make_arg_parser(Parser(prog="vlmserve serve --", allow_abbrev=False))
    args: Namespace = parser.parse_args([*flags, *extra])
    try:
        # Plugins of the operator's own, as vLLM's launcher loads them.
        if args.tool_parser_plugin:
            ToolParserManager.import_tool_parser(args.tool_parser_plugin)
        if args.reasoning_parser_plugin:
            ReasoningParserManager.import_reasoning_parser(args.reasoning_parser_plugin)
        validate_parsed_serve_args(args)
        validate_api_server_args(args)
        # vLLM looks this one up only when the engine runs.
        if args.reasoning_parser:
            ReasoningParserManager.get_reasoning_parser(args.reasoning_parser)
    except (KeyError, TypeError, ValueError, VLLMError) as error:
        reason = error.args[0] if error.args else error
        raise ConfigError(f"vLLM does not accept these settings: {reason}") from error
    return args


def _refuse_reserved(extra: Sequence[str]) -> None:
    if extra and not extra[0].startswith("-"):
        raise ConfigError(f"{extra[0]}: only flags of `vllm serve` can be given after --")
    for word in extra:
        flag = word.partition("=")[0].replace("_", "-")
        if flag in _RESERVED:
            raise ConfigError(f"{flag} cannot be given after --", hint=f"use {_RESERVED[flag]}")
