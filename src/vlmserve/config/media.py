"""Which media requests may hold: the ``media`` section of a serving configuration."""

from typing import Any, Literal

from pydantic import Field, IPvAnyNetwork, field_validator, model_validator

from vlmserve.config.base import StrictModel
from vlmserve.config.hosts import HostRule


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

    decoded_cache_bytes: int = Field(default=256 * 2**20, ge=0)
    """Memory for images that were decoded lately, beside ``max_decoded_bytes``, so that those of a
    conversation are not decoded anew with every turn; the default is 256 MiB, 0 keeps none."""

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
