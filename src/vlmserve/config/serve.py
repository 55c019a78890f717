"""How a checkpoint is served: the model behind ``configs/*.yaml`` and ``vlmserve serve``."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from vlmserve.config.base import StrictModel

DType = Literal["auto", "float32", "bfloat16", "float16"]


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

    drain_timeout_s: float = Field(default=30.0, ge=0.0)
    """Seconds that running requests are given to finish after SIGTERM or Ctrl-C."""

    chat_template: str | None = None
    """Path of a chat template that replaces the checkpoint's own."""

    tool_call_parser: str | None = None
    """vLLM's name of a tool-call format, such as ``hermes``; turns automatic tool choice on."""

    reasoning_parser: str | None = None
    """vLLM's name of a reasoning format, such as ``qwen3``."""

    @field_validator("served_model_name", "base_served_name")
    @classmethod
    def _not_a_path(cls, name: str | None) -> str | None:
        # A path in the name leaks the host's layout into every response.
        if name is not None and ("/" in name or "\\" in name or not name.strip()):
            raise ValueError(f"{name!r}: a served name must not be empty or look like a path")
        return name


class MediaConfig(StrictModel):
    """Where media in requests may come from. Data URLs are always accepted."""

    allowed_hosts: tuple[str, ...] = ()
    """Hosts that ``http(s)`` media may be fetched from; ``*.example.org`` matches subdomains and
    ``*`` every host. Empty: none, because a URL lets a caller make this server send requests."""

    allowed_root: str | None = None
    """Directory that ``file://`` media must lie under; unset: no local files."""


class ServeConfig(StrictModel):
    """Everything ``vlmserve serve`` can be told by a file."""

    engine: EngineConfig = EngineConfig()
    server: ServerConfig = ServerConfig()
    media: MediaConfig = MediaConfig()

    @model_validator(mode="after")
    def _names_differ(self) -> "ServeConfig":
        names = self.server.served_model_name, self.server.base_served_name
        if names[0] is not None and names[0] == names[1]:
            raise ValueError("server.served_model_name and server.base_served_name are the same")
        return self
