"""How the engine computes: the ``engine`` section of a serving configuration."""

from typing import Any, Literal

from pydantic import Field

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
