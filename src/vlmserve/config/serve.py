"""How a checkpoint is served: the model behind ``configs/*.yaml`` and ``vlmserve serve``."""

import ipaddress
import re
from typing import Any, Literal

from pydantic import Field, IPvAnyNetwork, field_validator, model_validator

from vlmserve.config.base import StrictModel
from vlmserve.config.hosts import HostRule

DType = Literal["auto", "float32", "bfloat16", "float16"]

_ENVELOPE_BYTES = 4 * 2**20
"""Room for text and JSON around a request's media."""


class MediaCounts(StrictModel):
    """How many media one request may hold; a request with more is refused, never cut."""

    image: int = Field(default=16, ge=0)
    """Images. vLLM's own default of 999 lets one request reserve memory for all of them."""

    video: int = Field(default=2, ge=0)
    """Videos."""


class EngineConfig(StrictModel):
    """The engine's settings; names and meanings are vLLM's.

    What is not here can be given to ``vlmserve serve`` after ``--``.
    """

    dtype: DType = "auto"
    """Arithmetic type; ``auto`` is the checkpoint's own."""

    max_model_len: int | None = Field(default=None, gt=0)
    """Prompt and answer together, in tokens; the model's own limit when unset."""

    max_num_seqs: int | None = Field(default=None, gt=0)
    """Requests computed at once; vLLM's choice for the device when unset."""

    max_num_batched_tokens: int | None = Field(default=None, gt=0)
    """Tokens computed in one step. It also bounds the largest image or video, in tokens."""

    gpu_memory_utilization: float = Field(default=0.90, gt=0.0, le=1.0)
    """Share of a GPU's memory to take. A little under vLLM's .92: image encoders peak above what
    its profiling run sees."""

    kv_cache_memory_bytes: int | None = Field(default=None, gt=0)
    """Size of the key-value cache; when unset vLLM takes what the device has left. Set it on CPUs,
    where that is most of the machine's memory."""

    tensor_parallel_size: int = Field(default=1, gt=0)
    """GPUs that one copy of the model is spread over."""

    enforce_eager: bool = False
    """Skip graph capture and compilation: a faster start and slower steps."""

    quantization: str | None = None
    """vLLM's name of a quantisation method, such as ``fp8``; the checkpoint's own when unset."""

    enable_prefix_caching: bool = True
    """Reuse the key-value cache of equal beginnings (text and media)."""

    mm_processor_cache_gb: float = Field(default=1.0, ge=0.0)
    """Host memory for processed media, in GiB. vLLM's 4 is taken once in each API process."""

    limit_mm_per_prompt: MediaCounts = MediaCounts()

    mm_processor_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Settings of the model's processor, such as ``{max_pixels: 1003520}``. They win over those
    that the training framework recorded."""

    media_io_kwargs: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Settings of the media loaders by modality, such as ``{video: {fps: 2}}``. They win over
    those that the training framework recorded."""

    seed: int = 0


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


class MediaConfig(StrictModel):
    """Where media in requests may come from, and how large they may be.

    Data URLs are always accepted. A request that is over a limit is refused before its media are
    decoded; nothing is scaled down or cut.
    """

    allowed_hosts: tuple[str, ...] = ()
    """Hosts that ``http(s)`` media may be fetched from; ``*.example.org`` matches subdomains,
    ``*`` every host, and ``example.org:8080`` names a port beside 80 and 443. Empty: none, because
    a URL lets a caller make this server send requests. Addresses that are not public are refused
    all the same."""

    allowed_networks: tuple[IPvAnyNetwork, ...] = ()
    """Networks whose addresses the allowed hosts may have although they are not public, such as
    ``10.20.0.0/16`` for an object store of one's own. Metadata services of clouds stay closed."""

    allowed_roots: tuple[str, ...] = ()
    """Directories that ``file://`` media must lie under once links are resolved; empty: no local
    files."""

    normalise: Literal["vllm", "training"] = "vllm"
    """How image files become RGB. ``vllm`` applies the EXIF orientation and puts white under
    transparent pixels; ``training`` does what the code did that the checkpoint was trained with
    (most of it neither), as far as the run's files tell, and else plain ``convert("RGB")``. Eval
    runs record it and never reuse answers across it."""

    max_concurrent_fetches: int = Field(default=16, gt=0)
    """Media fetched at once; others wait, and waiting counts as fetching."""

    fetch_connect_timeout_s: float = Field(default=5.0, gt=0.0)
    """Seconds until a connection must stand, for each address of a host."""

    fetch_idle_timeout_s: float = Field(default=10.0, gt=0.0)
    """Seconds that a host may be silent."""

    fetch_timeout_s: float = Field(default=60.0, gt=0.0)
    """Seconds for fetching one image or video, redirects included."""

    max_image_bytes: int = Field(default=50 * 2**20, gt=0)
    """Size of one image's file. A PNG of 16 megapixels can reach the default of 50 MiB."""

    max_video_bytes: int = Field(default=200 * 2**20, gt=0)
    """Size of one video's file, or of one frame list; the default is 200 MiB."""

    max_request_bytes: int = Field(default=256 * 2**20, gt=0)
    """Size of all files of one request together; the default is 256 MiB."""

    max_image_pixels: int = Field(default=64_000_000, gt=0, le=178_956_970)
    """Width times height of one image. The default takes what phones (50 megapixels) and
    full-frame cameras (61) make; decoding it takes up to 450 MB, and eight media are decoded at
    once. Pillow refuses more than the largest value."""

    max_image_side_px: int = Field(default=32_768, gt=0)
    """Width or height of one image."""

    max_video_pixels: int = Field(default=10_000_000, gt=0)
    """Width times height of a video's frames; the default takes 4K."""

    max_video_frames: int = Field(default=36_000, gt=0)
    """Frames in one video's file, sampled or not: decoding passes all of them."""

    max_video_duration_s: float = Field(default=600.0, gt=0.0)
    """Length of one video in seconds."""

    max_video_fps: float = Field(default=240.0, gt=0.0)
    """Frames per second that a video's file may state; the default takes phones' slow motion."""

    max_video_stream_pixels: int = Field(default=40_000_000_000, gt=0)
    """Frames times pixels of one video's file: what is decoded on the way to the sampled frames,
    and so the time that it takes. The default takes ten minutes of full HD at 30 frames per
    second, which two cores decode in about half a minute (MPEG-4, 1.4 gigapixels a second)."""

    max_request_pixels: int = Field(default=300_000_000, gt=0)
    """Pixels of one request that are decoded: of all images, and of all frames that are sampled
    from its videos. Decoded, a pixel takes four bytes in an image and three in a frame: the default
    takes 120 frames of full HD, which are 900 MB."""

    max_decoded_bytes: int = Field(default=4 * 2**30, gt=0)
    """Decoded images and frames of all requests in flight together; the default is 4 GiB. Requests
    wait for each other's; the one that came first may go over it by its own."""

    decode_processes: int = Field(default=4, ge=0)
    """Processes that decode media, so that a file which crashes a decoder or makes it swell costs
    nothing but its own request; they start when they are needed. 0 decodes in the server's
    process."""

    decode_memory_bytes: int = Field(default=2 * 2**30, ge=64 * 2**20)
    """What one of them may allocate beside what comes out; the default is 2 GiB."""

    decode_timeout_s: float = Field(default=60.0, gt=0.0)
    """Seconds that decoding one image or video may take."""

    decode_queue_timeout_s: float = Field(default=30.0, gt=0.0)
    """Seconds that media may wait for a decoder or for memory; then 503 with ``Retry-After``."""

    @model_validator(mode="before")
    @classmethod
    def _has_no_old_key(cls, given: Any) -> Any:
        if isinstance(given, dict) and "allowed_root" in given:
            raise ValueError("allowed_root is now a list: allowed_roots: [DIR]")
        return given

    max_request_visual_tokens: int | None = Field(default=None, gt=0)
    """Tokens that the images and videos of one request may take together; as many as the model's
    context holds when unset."""

    @field_validator("allowed_hosts")
    @classmethod
    def _are_hosts(cls, rules: tuple[str, ...]) -> tuple[str, ...]:
        for rule in rules:
            HostRule.parse(rule)
        return rules

    @property
    def host_rules(self) -> tuple[HostRule, ...]:
        """``allowed_hosts``, parsed."""
        return tuple(HostRule.parse(rule) for rule in self.allowed_hosts)


class ServeConfig(StrictModel):
    """Everything ``vlmserve serve`` can be told by a file."""

    engine: EngineConfig = EngineConfig()
    server: ServerConfig = ServerConfig()
    media: MediaConfig = MediaConfig()

    @property
    def max_body_bytes(self) -> int:
        """Size of a request's body: the operator's, or what holds the media that are allowed."""
        chosen = self.server.max_body_bytes
        return (
            _ENVELOPE_BYTES + -(-self.media.max_request_bytes * 4 // 3)
            if chosen is None
            else chosen
        )

    @model_validator(mode="after")
    def _names_differ(self) -> "ServeConfig":
        names = self.server.served_model_name, self.server.base_served_name
        if names[0] is not None and names[0] == names[1]:
            raise ValueError("server.served_model_name and server.base_served_name are the same")
        return self
