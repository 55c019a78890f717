"""How the HTTP server behaves: the ``server`` section of a serving configuration."""

import ipaddress
import re
from typing import Literal

from pydantic import Field, field_validator

from vlmserve.config.base import StrictModel


class ServerConfig(StrictModel):
    """The HTTP server's settings."""

    host: str = "127.0.0.1"
    """Address to listen on. Loopback, unlike vLLM's every-interface: opening up is a decision."""

    port: int = Field(default=8000, ge=0, le=65535)
    """TCP port; 0 takes a free one and prints it."""

    served_model_name: str | None = None
    """Name of the checkpoint in requests; the directory's name when unset. Never a path."""

    base_served_name: str | None = None
    """Name of an adapter's base in requests; the base directory's name when unset."""

    api_key_env: str = "VLMSERVE_API_KEY"
    """Environment variable that holds the API key. When it is set, every route but ``/health`` and
    ``/ready`` asks for it."""

    api_key_file: str | None = None
    """File of several API keys, one a line: ``name:key``, or ``name:sha256:`` and the key's digest.
    Read again at SIGHUP and when it changes. The name is what the log tells of a caller."""

    metrics_key_env: str = "VLMSERVE_METRICS_KEY"
    """Environment variable that holds the key of ``/metrics``; when unset, an API key opens it."""

    admin_key_env: str = "VLMSERVE_ADMIN_KEY"
    """Environment variable that holds the key of ``/admin/``; when unset, there are no such
    routes."""

    max_running: int | None = Field(default=None, gt=0)
    """Requests that are answered at once; when unset, as many as the engine computes at once."""

    max_queued_requests: int = Field(default=256, ge=0)
    """Requests that wait for their turn; one more is refused with 429 and ``Retry-After``."""

    max_choices: int = Field(default=16, gt=0)
    """Answers that one request may ask for: ``n``, for each of its prompts. A request counts as one
    that runs, however many answers the engine computes for it; more are refused with 400."""

    request_timeout_s: float = Field(default=600.0, gt=0.0)
    """Seconds for one request, waiting included. One whose turn would not come in time is refused
    at once with 503, one that runs longer ends with 504. ``X-Request-Timeout`` asks for less."""

    max_body_bytes: int | None = Field(default=None, gt=0)
    """Size of a request's body; when unset, what ``media.max_request_bytes`` are in base64, and
    4 MiB. Larger ones are refused with 413 before they are parsed."""

    max_buffered_bytes: int = Field(default=2**30, gt=0)
    """Bodies of all requests together that are held in memory; the default is 1 GiB."""

    max_json_depth: int = Field(default=64, gt=0)
    """Arrays and objects in one another; told before the body is parsed."""

    header_timeout_s: float = Field(default=10.0, gt=0.0)
    """Seconds within which a request's headers must arrive."""

    body_idle_timeout_s: float = Field(default=10.0, gt=0.0)
    """Seconds for which nothing of a body may come."""

    body_timeout_s: float = Field(default=120.0, gt=0.0)
    """Seconds within which a body must arrive as a whole."""

    keep_alive_s: float = Field(default=75.0, gt=0.0)
    """Seconds that a connection stays open between two requests. Longer than most proxies and
    clients keep one: who uses it at the moment at which it is closed loses a request."""

    max_connections: int = Field(default=1024, gt=0)
    """Open connections; one more is answered with 503 and closed."""

    allowed_origins: tuple[str, ...] = ()
    """Origins whose pages browsers let read answers (CORS), such as ``https://app.example.org``;
    ``*`` is every page. Empty: none."""

    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks of proxies whose ``X-Forwarded-For`` and ``-Proto`` are believed."""

    root_path: str = ""
    """Path under which a proxy offers this server, such as ``/vlm``, and which it strips."""

    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """Port of its own for ``/metrics``, which then is nowhere else; 0 takes a free one."""

    access_log: bool = True
    """Write a line about each request: path, status, time, the key's name, the request's id."""

    control_tokens: Literal["refuse", "neutralise", "allow"] = "refuse"
    """What to do with text that spells one of the tokenizer's special tokens, such as
    ``<|im_end|>``, with which a caller can end its own turn and speak as somebody else. ``refuse``:
    400; ``neutralise``: an invisible space is put into it; ``allow``: vLLM's way."""

    adapter_root: str | None = None
    """Directory below which lie the adapters that ``/admin/adapters`` may load; unset: none."""

    adapter_alias: str | None = None
    """A stable name for the adapter that is served from the start, to be moved to later ones."""

    adapter_state: str | None = None
    """File that remembers which adapters were rolled out and what aliases stand for; unset: a
    restart begins with what the command line names."""

    max_adapters: int = Field(default=4, gt=0)
    """Adapters that may be loaded at once, the first one included, where ``adapter_root`` is set.
    Each takes memory of the device."""

    max_adapter_rank: int = Field(default=64, gt=0, le=512)
    """Rank for which the engine reserves room where ``adapter_root`` is set."""

    adapters_in_vision: bool = False
    """Whether later adapters may have weights in the vision tower or the projector; an adapter that
    is served from the start decides that for itself."""

    drain_timeout_s: float = Field(default=30.0, ge=0.0)
    """Seconds that running requests are given to finish after SIGTERM or Ctrl-C."""

    chat_template: str | None = None
    """Path of a chat template that replaces the checkpoint's own."""

    tool_call_parser: str | None = None
    """vLLM's name of a tool-call format, such as ``hermes``; turns automatic tool choice on."""

    reasoning_parser: str | None = None
    """vLLM's name of a reasoning format, such as ``qwen3``."""

    playground: bool = True
    """Serve a page at ``/`` to ask every served model side by side."""

    @field_validator("served_model_name", "base_served_name", "adapter_alias")
    @classmethod
    def _not_a_path(cls, name: str | None) -> str | None:
        # A path in the name leaks the host's layout into every response.
        if name is not None and ("/" in name or "\\" in name or not name.strip()):
            raise ValueError(f"{name!r}: a served name must not be empty or look like a path")
        return name

    @field_validator("root_path")
    @classmethod
    def _is_a_path(cls, path: str) -> str:
        if path and (not path.startswith("/") or path.endswith("/")):
            raise ValueError(f"{path!r}: begins with a slash and ends without one")
        return path

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in proxies:
            # "*" would let every caller choose the address that the log tells.
            ipaddress.ip_network(proxy)
        return proxies

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", origin):
                raise ValueError(f"{origin!r}: expected https://host, without a path, or *")
        return origins
